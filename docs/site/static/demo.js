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

export async function classify(file, model) {
  const image = await decode(file);
  const session = await load(model);
  const start = performance.now();
  const { crop } = model.preprocessing;
  const input = preprocess(image, model.preprocessing, model.channels);
  const shape = [1, crop, crop, model.channels];
  const image_ = new ort.Tensor("float32", input, shape);
  const { probabilities } = await session.run({ image: image_ });
  return [probabilities.data, performance.now() - start];
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
      item.textContent = `${names[i].replaceAll("_", " ")} ${percent} %`;
      return item;
    }),
  );
}

let latest = null;
let turn = 0;

async function answer(file, model) {
  latest = file;
  turn += 1;
  const mine = turn;
  byId("status").textContent = `Loading ${model.name} …`;
  try {
    const [probabilities, time] = await classify(file, model);
    if (mine !== turn) return;
    show(probabilities, model.classes);
    const picture = byId("picture");
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(file);
    picture.alt = file.name ?? "Pasted picture";
    picture.hidden = false;
    byId("status").textContent = `${model.name}: ${time.toFixed(0)} ms`;
  } catch (error) {
    if (mine !== turn) return;
    byId("answers").replaceChildren();
    byId("picture").hidden = true;
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
  document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    choose(event.dataTransfer.files[0]);
  });
  byId("status").textContent = "Choose a picture.";
}

start();
