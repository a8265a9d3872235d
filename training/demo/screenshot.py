"""Photographs the demo of the built site for README.

    pip install playwright
    python training/demo/screenshot.py

Run it after `make site`. It needs Chromium and writes `docs/results/demo.png`.
"""

import functools
import http.server
import pathlib
import shutil
import threading

ROOT = pathlib.Path(__file__).parents[2]
OUT = ROOT / "docs/results/demo.png"
SAMPLE = "motorcycle"


def main() -> None:
    """Runs the command."""
    from playwright.sync_api import sync_playwright

    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(ROOT / "build/site")
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{server.server_port}/docs/site/demo.html")
        page.click(f'#samples img[alt$="{SAMPLE}"]')
        page.wait_for_selector("#answers li")
        page.click("#explain")
        page.wait_for_selector("#map:visible")
        page.locator("#demo-app").screenshot(path=OUT)
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
