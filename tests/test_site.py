"""What the documentation site relies on; `make site` builds it."""

import json
import pathlib
import pkgutil
import re
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


def test_every_public_module_is_in_the_reference():
    text = "".join(page.read_text() for page in API.glob("*.rst"))
    described = set(re.findall(r"automodule:: elu_zoo\.(\S+)", text))
    modules = {info.name for info in pkgutil.iter_modules(elu_zoo.__path__)}
    public = {name for name in modules if not name.startswith("_")} - {"cli"}
    assert public == {name.split(".")[0] for name in described}


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
