"""The demo of the site in a real browser: run by `pytest -m slow` after `make site`.

Needs Playwright's Python package and Chromium.
"""

import functools
import http.server
import json
import pathlib
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

import elu_zoo

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "build/site"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
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
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page()
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


CLASSIFY = """async name => {
    const {classify} = await import('../../_static/demo.js');
    const url = new URL('../../_static/demo/index.json', location);
    const {models} = await (await fetch(url)).json();
    const [file] = document.querySelector('#file').files;
    return [...(await classify(file, models.find(m => m.name === name)))[0]];
}"""


@pytest.mark.parametrize("name", ["elunet11.cifar100", "elunet15.tiny_imagenet"])
def test_probabilities_are_those_of_keras(page, pictures, name):
    model = elu_zoo.load(name)
    expected = model.predict(elu_zoo.preprocess_input(pictures, model), verbose=0)
    for picture, row in zip(pictures, expected, strict=True):
        page.set_input_files("#file", picture)
        got = page.evaluate(CLASSIFY, name)
        np.testing.assert_allclose(got, row, atol=1e-4, err_msg=picture.name)


def test_the_keyboard_alone_suffices(page):
    page.focus("#samples button:last-child")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers li")
    assert page.locator("#answers li").count() == 5
    assert "tractor" in page.inner_text("#answers li:first-child")
    assert " ms" in page.inner_text("#status")


def test_a_file_that_is_no_picture_gets_a_message(page, tmp_path):
    (tmp_path / "no.jpg").write_text(json.dumps("no picture"))
    page.set_input_files("#file", tmp_path / "no.jpg")
    page.wait_for_function(
        "document.querySelector('#status').textContent.includes('is not a picture')"
    )
    assert "no.jpg" in page.inner_text("#status")
    assert page.locator("#answers li").count() == 0
