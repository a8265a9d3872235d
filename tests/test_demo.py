"""The site in a real browser: run by `pytest -m slow` after `make site`.

Needs Playwright's Python package, Chromium, and npm, which has axe-core.
"""

import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

import elu_zoo
from elu_zoo import explain, predictions
from elu_zoo.explain import heat_maps
from training.benchmarks.exported_files import loaded

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "build/site"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if path.name != "README.html" or path.parent != SITE  # The same as index.html.
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SITE.is_dir(), reason="`make site` was not run"),
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=SITE.as_posix()
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/docs/site/demo.html"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", "--silent", "axe-core@4"]
    name = subprocess.check_output(command, cwd=folder, text=True).strip()
    with tarfile.open(folder / name) as package:
        return package.extractfile("package/axe.min.js").read().decode()


@pytest.fixture
def page(browser, address):
    page = browser.new_page()
    page.set_default_timeout(120_000)
    faults = page.faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    elsewhere = []
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("http://127.0.0.1", "blob:", "data:"))
            or elsewhere.append(request.url)
        ),
    )
    page.goto(address)
    page.wait_for_function("document.querySelector('#model').length > 0")
    yield page
    assert not faults and not elsewhere
    page.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures of different formats, shapes and orientations."""
    folder = tmp_path_factory.mktemp("pictures")
    sample = Image.open(ROOT / "training/demo/images/cifar100/camel.png")
    large = sample.convert("RGB").resize((320, 240), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    large.save(folder / "turned.jpg", exif=turned, quality=90)
    large.resize((57, 203)).convert("L").save(folder / "gray.png")
    large.crop((0, 0, 300, 99)).save(folder / "wide.webp", lossless=True)
    large.quantize(64).save(folder / "palette.gif")
    sample.convert("RGB").resize((31, 47)).save(folder / "small.bmp")
    return sorted(folder.iterdir())


CLASSIFY = """async ([name, mapped]) => {
    const {classify, occlusion} = await import('../../_static/demo.js');
    const url = new URL('../../_static/demo/index.json', location);
    const {models} = await (await fetch(url)).json();
    const [file] = document.querySelector('#file').files;
    const model = models.find(m => m.name === name);
    const {probabilities, square} = await classify(file, model);
    const label = probabilities.indexOf(Math.max(...probabilities));
    const heat = mapped ? await occlusion(square, probabilities, label, model) : [];
    return [[...probabilities], [...square], [...heat]];
}"""


def test_files_in_8_bits_give_what_onnxruntime_gives(page, pictures):
    index = json.loads((SITE / "_static/demo/index.json").read_text())
    small = [model for model in index["models"] if model["name"].endswith(", int8")]
    assert small
    for model in small:
        file = SITE / "_static/demo" / model["file"]
        exact = next(
            m for m in index["models"] if m["name"] + ", int8" == model["name"]
        )
        assert file.stat().st_size < 0.6 * exact["bytes"]
        run = loaded("onnx", file, threads=1)
        side, channels = model["preprocessing"]["crop"], model["channels"]
        for picture in pictures:
            page.set_input_files("#file", picture)
            got, square, _ = page.evaluate(CLASSIFY, [model["name"], False])
            x = np.array(square, "float32").reshape(1, side, side, channels)
            np.testing.assert_allclose(got, run(x)[0], atol=1e-4, err_msg=picture.name)


@pytest.mark.parametrize("name", ["elunet11.cifar100", "elunet15.tiny_imagenet"])
def test_probabilities_and_maps_are_those_of_keras(page, pictures, name, monkeypatch):
    model, record = elu_zoo.load(name), elu_zoo.get_record(name)
    expected = model.predict(elu_zoo.preprocess_input(pictures, model), verbose=0)
    for picture, row in zip(pictures, expected, strict=True):
        page.set_input_files("#file", picture)
        mapped = picture == pictures[-1]
        got, square, heat = map(np.array, page.evaluate(CLASSIFY, [name, mapped]))
        np.testing.assert_allclose(got, row, atol=1e-4, err_msg=picture.name)
    # The map of the last picture, by the function of the package.
    side = record.preprocessing.crop
    shape = (1, side, side, record.input_shape[-1])
    x = square.reshape(shape)

    def logarithms(model, images, classes):
        outputs = predictions.probabilities(model.predict(images, verbose=0), model)
        return np.log(outputs)[:, classes[0]]

    monkeypatch.setattr(heat_maps, "_scores", logarithms)
    expected = explain.occlusion(model, x, [int(got.argmax())])
    np.testing.assert_allclose(heat.reshape(1, side, side), expected, atol=0.02)


def tab_to(page, selector):
    """Presses Tab until an element has the focus."""
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_the_keyboard_alone_suffices(page):
    tab_to(page, "#model")
    first = page.input_value("#model")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#model") != first
    page.keyboard.press("ArrowUp")
    tab_to(page, "#file")
    tab_to(page, "#samples button:last-child")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers li")
    assert page.locator("#answers li").count() == 5
    assert "tractor" in page.inner_text("#answers li:first-child")
    assert " ms" in page.inner_text("#status")
    tab_to(page, "#explain")
    page.keyboard.press("Enter")
    page.wait_for_selector("#map:visible")
    frame, drawn = (page.locator(s).bounding_box() for s in ("#picture", "#map"))
    assert drawn == pytest.approx(frame, abs=1)
    assert " ms. Bright:" in page.inner_text("#status")
    page.keyboard.press("Enter")
    page.wait_for_selector("#map", state="hidden")
    assert page.inner_text("#status").endswith(" ms")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page, event):
    page.evaluate(
        """async (event) => {
            const {src} = document.querySelector('#samples img[alt$=rocket]');
            const blob = await (await fetch(src)).blob();
            const data = new DataTransfer();
            data.items.add(new File([blob], 'mine.png', {type: 'image/png'}));
            const happened = event === 'drop'
                ? new DragEvent('drop', {dataTransfer: data, cancelable: true})
                : new ClipboardEvent('paste', {clipboardData: data});
            document.dispatchEvent(happened);
        }""",
        event,
    )
    page.wait_for_selector("#answers li")
    assert "rocket" in page.inner_text("#answers li:first-child")
    assert page.get_attribute("#picture", "alt") == "mine.png"


def test_the_camera(page):
    page.click("#open")
    page.wait_for_function("document.querySelector('#video').videoWidth > 0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers li")
    assert not page.is_visible("#camera")


@pytest.mark.parametrize("width, scheme", [(390, "light"), (1280, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(browser, address, axe, name, width, scheme):
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page.set_default_timeout(120_000)
    page.goto(address.replace("docs/site/demo.html", name))
    if "demo" in name:
        page.click("#samples button")
        page.wait_for_selector("#answers li")
        page.click("#explain")
        page.wait_for_selector("#map:visible")
    # Nothing is wider than a phone, and every picture is there.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = (
        "[...document.images].filter(i => !i.hidden && i.complete && !i.naturalWidth)"
    )
    assert not page.evaluate(f"{broken}.map(i => i.src)")
    page.evaluate(axe)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    page.close()
    assert not found, [
        (rule["id"], rule["nodes"][0]["html"], rule["nodes"][0]["failureSummary"])
        for rule in found
    ]


def test_a_file_that_is_no_picture_gets_a_message(page, tmp_path):
    (tmp_path / "no.jpg").write_text(json.dumps("no picture"))
    page.set_input_files("#file", tmp_path / "no.jpg")
    page.wait_for_function(
        "document.querySelector('#status').textContent.includes('is not a picture')"
    )
    assert "no.jpg" in page.inner_text("#status")
    assert page.locator("#answers li").count() == 0


def test_results_are_sorted_by_a_column(page, address):
    page.goto(address.replace("demo", "results"))
    heading = page.locator(".sortable th button", has_text="parameters")
    column = 1 + page.locator(".sortable th button").all_inner_texts().index(
        heading.inner_text()
    )
    for direction in (1, -1):
        heading.click()
        cells = page.locator(f".sortable td:nth-child({column})").all_inner_texts()
        values = [float(text) for text in cells]
        assert len(values) > 2 and values == sorted(values)[::direction]


def test_the_search_needs_no_server(browser):
    page = browser.new_page()
    page.goto(f"{(SITE / 'search.html').as_uri()}?q=occlusion")
    page.wait_for_selector("#search-results li a")
    links = page.locator("#search-results li a")
    targets = [links.nth(i).get_attribute("href") for i in range(links.count())]
    assert any("explaining.html" in target for target in targets)
    page.close()
