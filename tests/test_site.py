"""The documentation site; its demo in a browser is for test_demo.py."""

import functools
import html.parser
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

import elu_zoo

ROOT = pathlib.Path(__file__).parents[1]
API = ROOT / "docs/site/api"
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "docs/site").glob("*.md"),
    *(ROOT / "pretrained/cards").glob("*.md"),
    ROOT / "training/benchmarks/README.md",
]


def anchors(page):
    """Anchors of the headings of a page, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        url = urllib.parse.urlparse(target)
        if url.scheme or "{{" in target:
            continue
        file = (page.parent / url.path).resolve() if url.path else page
        assert file.exists(), target
        assert not url.fragment or url.fragment in anchors(file), target


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as `make site` builds it, without the networks of the demo."""
    out = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going"),
            *("--quiet", "-D", "html_static_path=static", "-c", "docs/site"),
            *("-d", out / "doctrees", ".", out / "html"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return out / "html"


class Page(html.parser.HTMLParser):
    """The links of a page of the site, and the ids that links may lead to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src"):
                self.links.add(value)


def test_links_of_the_built_site_lead_somewhere(site):
    page_of = functools.cache(Page)
    pages = list(site.rglob("*.html"))
    assert site / "index.html" in pages
    for path in pages:
        for link in page_of(path).links:
            url = urllib.parse.urlparse(link)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / urllib.parse.unquote(url.path)).resolve()
            file = file if url.path else path
            assert file.is_file(), (path.name, link)
            if url.fragment and file.suffix == ".html":
                assert urllib.parse.unquote(url.fragment) in page_of(file).ids, (
                    path.name,
                    link,
                )


def test_the_reference_lists_what_elu_zoo_exports():
    names = re.findall(r"^   ~elu_zoo\.(\S+)$", (API / "index.rst").read_text(), re.M)
    assert sorted(name.split(".")[-1] for name in names) == sorted(elu_zoo.__all__)


def test_the_gallery_shows_the_published_weights():
    for path in (ROOT / "docs/results/gallery").glob("*/answers.json"):
        facts = json.loads(path.read_text())
        assert facts["weights"] == elu_zoo.get_record(path.parent.name).file
        kinds = facts["kinds"].values()
        assert sum(kind["share"] for kind in kinds) == pytest.approx(1, abs=1e-3)
        files = {image["file"] for kind in kinds for image in kind["images"]}
        assert files == {file.name for file in path.parent.glob("*.jpg")}
