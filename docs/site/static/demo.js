// Classifies pictures with the networks of elu_zoo, by ONNX Runtime Web.
import * as ort from "./demo/ort.wasm.min.mjs";

const FOLDER = new URL("./demo/", import.meta.url);
const index = fetch(new URL("index.json", FOLDER)).then((answer) => answer.json());
const sessions = new Map();
const byId = (id) => document.getElementById(id);

// As Python rounds: halves to even numbers.
function round(x) {
  const rounded = Math.round(x);
  return x % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// The part of a side that ends up in the square, as elu_zoo.images has it.
function range(side, shorter, { resize, crop, mode }) {
  const scale = resize / shorter;
  const resized = mode === "crop" ? Math.max(resize, round(side * scale)) : resize;
  const first = Math.floor((resized - crop) / 2);
  return [(first * side) / resized, ((first + crop) * side) / resized];
}

// Pillow's bilinear filter: for each output, its first input and the weights.
function taps(size, [start, end], count) {
  const scale = (end - start) / count;
  const width = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const center = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - width + 0.5));
    const last = Math.min(size, Math.trunc(center + width + 0.5));
    const weights = [];
    for (let x = first; x < last; x++) {
      weights.push(Math.max(0, 1 - Math.abs((x - center + 0.5) / width)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((weight) => weight / sum)];
  });
}

// Values of a picture without alpha; gray as Pillow computes it.
function planes({ data, width, height }, channels) {
  const values = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    if (channels === 1) {
      values[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    } else {
      values.set([r, g, b], 3 * i);
    }
  }
  return values;
}

export function preprocess(image, how, channels) {
  const { width, height } = image;
  const shorter = Math.min(width, height);
  const values = planes(image, channels);
  const across = taps(width, range(width, shorter, how), how.crop);
  const down = taps(height, range(height, shorter, how), how.crop);
  const row = how.crop * channels;
  const narrow = new Float32Array(height * row);
  for (let y = 0; y < height; y++) {
    across.forEach(([first, weights], x) => {
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) {
          sum += weights[k] * values[(y * width + first + k) * channels + c];
        }
        narrow[y * row + x * channels + c] = sum;
      }
    });
  }
  const square = new Float32Array(how.crop * row);
  down.forEach(([first, weights], y) => {
    for (let x = 0; x < row; x++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) {
        sum += weights[k] * narrow[(first + k) * row + x];
      }
      square[y * row + x] = Math.min(255, Math.max(0, sum));
    }
  });
  return square;
}

// The pixels of a file, upright, without conversion of colors.
async function decode(file) {
  const { max_pixels, max_ratio } = await index;
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  if (width * height > max_pixels) {
    throw new Error(`expected at most ${max_pixels} pixels, not ${width}×${height}`);
  }
  if (Math.max(width, height) > max_ratio * Math.min(width, height)) {
    throw new Error(`one side is more than ${max_ratio} times the other`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}

async function load(model) {
  if (!sessions.has(model.name)) {
    const url = new URL(model.file, FOLDER).href;
    const session = ort.InferenceSession.create(url);
    sessions.set(model.name, session);
    session.catch(() => sessions.delete(model.name));
  }
  return sessions.get(model.name);
}

// Probabilities of squares that lie one after the other in an array.
async function run(squares, model) {
  const session = await load(model);
  const { crop } = model.preprocessing;
  const count = squares.length / (crop * crop * model.channels);
  const shape = [count, crop, crop, model.channels];
  const image = new ort.Tensor("float32", squares, shape);
  return (await session.run({ image })).probabilities.data;
}

export async function classify(file, model) {
  const image = await decode(file);
  await load(model);
  const start = performance.now();
  const square = preprocess(image, model.preprocessing, model.channels);
  const probabilities = await run(square, model);
  return { probabilities, square, image, time: performance.now() - start };
}

const cover = ([top, left], { size, crop, channels }, visit) => {
  for (let y = Math.max(0, top); y < Math.min(crop, top + size); y++) {
    for (let x = Math.max(0, left); x < Math.min(crop, left + size); x++) {
      visit(y * crop + x, channels);
    }
  }
};

// How far the logarithm of a class's probability falls where a gray square covers the
// picture, as elu_zoo.explain.occlusion has it for logits; for each pixel the mean over
// the squares that cover it.
export async function occlusion(square, probabilities, label, model) {
  const { crop } = model.preprocessing;
  const size = Math.max(1, Math.floor(crop / 4));
  const stride = Math.max(1, Math.floor(size / 2));
  const how = { size, crop, channels: model.channels };
  const starts = [];
  for (let start = stride - size; start < crop; start += stride) starts.push(start);
  const falls = new Float32Array(crop * crop);
  const counts = new Float32Array(crop * crop);
  for (const top of starts) {
    const covered = new Float32Array(starts.length * square.length);
    starts.forEach((left, i) => {
      covered.set(square, i * square.length);
      cover([top, left], how, (pixel, channels) => {
        const first = i * square.length + pixel * channels;
        covered.fill(127.5, first, first + channels);
      });
    });
    const found = await run(covered, model);
    starts.forEach((left, i) => {
      const p = found[i * probabilities.length + label];
      const fall = Math.log(probabilities[label]) - Math.log(Math.max(p, 1e-30));
      cover([top, left], how, (pixel) => {
        falls[pixel] += fall;
        counts[pixel] += 1;
      });
    });
  }
  return falls.map((fall, i) => fall / counts[i]);
}

// Matplotlib's inferno, as in elu_zoo.explain.
const COLORS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function color(heat) {
  const place = heat * (COLORS.length - 1);
  const i = Math.min(Math.floor(place), COLORS.length - 2);
  return COLORS[i].map((low, c) => low + (place - i) * (COLORS[i + 1][c] - low));
}

// Draws a map over the part of the picture that the network saw.
function drawMap(heat, { width, height }, how) {
  const canvas = byId("map");
  const { crop } = how;
  canvas.width = canvas.height = crop;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(crop, crop);
  const largest = Math.max(...heat) || 1;
  heat.forEach((value, i) => {
    pixels.data.set([...color(Math.max(0, value) / largest), 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  const shorter = Math.min(width, height);
  for (const [side, start, extent] of [[width, "left", "width"], [height, "top", "height"]]) {
    const [first, last] = range(side, shorter, how);
    canvas.style[start] = `${(100 * first) / side}%`;
    canvas.style[extent] = `${(100 * (last - first)) / side}%`;
  }
}

function show(probabilities, names) {
  const best = [...probabilities.keys()]
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, 5);
  byId("answers").replaceChildren(
    ...best.map((i) => {
      const item = document.createElement("li");
      const percent = (100 * probabilities[i]).toFixed(1);
      item.style.setProperty("--share", `${percent}%`);
      item.textContent = `${names[i].replaceAll("_", " ")} ${percent}%`;
      return item;
    }),
  );
}

// Longer side of the shown picture.
const SIDE = 260;
let latest = null;
let shown = null;
let turn = 0;

function showMap(visible) {
  byId("map").hidden = !visible;
  byId("explain").ariaPressed = String(visible);
  byId("picture").classList.toggle("gray", visible);
}

function timing({ model, time }) {
  return `${model.name}: ${time.toFixed(0)} ms`;
}

async function explain() {
  const took = timing(shown);
  if (byId("explain").ariaPressed === "true") {
    byId("status").textContent = took;
    return showMap(false);
  }
  const { file, model, square, probabilities, image } = shown;
  byId("status").textContent = "Covering the picture piece by piece …";
  const best = probabilities.indexOf(Math.max(...probabilities));
  const heat = await occlusion(square, probabilities, best, model);
  if (shown.file !== file || shown.model !== model) return;
  drawMap(heat, image, model.preprocessing);
  showMap(true);
  const name = model.classes[best].replaceAll("_", " ");
  byId("status").textContent =
    `${took}. Bright: where covering the picture lowers the probability of ${name} most.`;
}

let stream = null;

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  byId("camera").hidden = true;
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    byId("status").textContent = `The camera cannot be used: ${error.message}`;
    return;
  }
  byId("video").srcObject = stream;
  byId("camera").hidden = false;
  byId("take").focus();
}

function takePicture(choose) {
  const video = byId("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => choose(new File([blob], "camera.png", { type: blob.type })));
  stopCamera();
  byId("open").focus();
}

async function answer(file, model) {
  latest = file;
  turn += 1;
  const mine = turn;
  byId("status").textContent = `Loading ${model.name} …`;
  try {
    const answers = await classify(file, model);
    if (mine !== turn) return;
    shown = { file, model, ...answers };
    show(answers.probabilities, model.classes);
    showMap(false);
    byId("explain").hidden = false;
    const picture = byId("picture");
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(file);
    picture.alt = file.name ?? "Pasted picture";
    const { width, height } = answers.image;
    picture.style.width = `${(SIDE * width) / Math.max(width, height)}px`;
    picture.hidden = false;
    byId("status").textContent = timing(shown);
  } catch (error) {
    if (mine !== turn) return;
    byId("answers").replaceChildren();
    byId("picture").hidden = byId("explain").hidden = true;
    showMap(false);
    const undecodable = error.name === "InvalidStateError";
    byId("status").textContent = undecodable
      ? `${file.name} is not a picture that this browser can read.`
      : `The picture could not be classified: ${error.message}`;
  }
}

function sample(name, choose) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.src = new URL(name, FOLDER).href;
  image.alt = `Sample: ${name.split(".")[0]}`;
  button.append(image);
  button.addEventListener("click", async () => {
    const blob = await (await fetch(image.src)).blob();
    choose(new File([blob], name, { type: blob.type }));
  });
  return button;
}

async function start() {
  ort.env.wasm.wasmPaths = FOLDER.href;
  ort.env.wasm.numThreads = 1;
  const { models, samples } = await index;
  const select = byId("model");
  for (const { name, bytes } of models) {
    select.add(new Option(`${name} (${(bytes / 1e6).toFixed(1)} MB)`, name));
  }
  const model = () => models[select.selectedIndex];
  const choose = (file) => file && answer(file, model());
  select.addEventListener("change", () => choose(latest));
  byId("file").addEventListener("change", (event) => choose(event.target.files[0]));
  byId("samples").append(...samples.map((name) => sample(name, choose)));
  byId("explain").addEventListener("click", explain);
  byId("open").hidden = !navigator.mediaDevices;
  byId("open").addEventListener("click", startCamera);
  byId("take").addEventListener("click", () => takePicture(choose));
  byId("close").addEventListener("click", stopCamera);
  document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    choose(event.dataTransfer.files[0]);
  });
  byId("status").textContent = "Choose a picture.";
}

start();
