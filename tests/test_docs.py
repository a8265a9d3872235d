"""Runs what the pages of the documentation show.

The blocks of a page run in order, in one namespace and in a folder with made-up images;
of shell blocks, the `elu-zoo` commands. The weights are small, random ones under the
published name. `<!-- not run: REASON -->` before a block leaves it out.
"""

import json
import pathlib
import re
import shlex
import shutil

import keras
import pytest
from made_up import write_class_folders

from elu_zoo.cli import main

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
BLOCK = re.compile(
    r"(<!-- not run: [^>]+ -->\n+)?^```(python|sh)\n(.*?)^```$", re.M | re.S
)


def blocks(page):
    """Language and source of the blocks to run, with as many lines as before them."""
    text = page.read_text()
    return [
        (match[2], "\n" * text.count("\n", 0, match.start(3)) + match[3])
        for match in BLOCK.finditer(text)
        if not match[1]
    ]


@pytest.fixture
def folder(zoo, tmp_path, monkeypatch):
    classes = ("banana", "jellyfish", "pizza")
    write_class_folders(tmp_path / "photos", classes, count=5)
    shutil.copytree(tmp_path / "photos", tmp_path / "five_classes")
    # As in a checkout, where README's steps run.
    (tmp_path / "training").symlink_to(ROOT / "training")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_page(page, folder):
    namespace = {}
    for language, source in blocks(page):
        if keras.backend.backend() != "tensorflow" and (
            "tensorflow" in source or "elu-zoo export" in source
        ):
            continue
        if language == "python":
            exec(compile(source, page, "exec"), namespace)
            continue
        for line in source.replace("\\\n", " ").splitlines():
            command, *arguments = shlex.split(line, comments=True) or [""]
            if command == "elu-zoo":
                assert main(arguments) == 0, line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, published, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setenv("MPLBACKEND", "agg")
    plt.switch_backend("agg")
    if "paper" not in path.stem:
        monkeypatch.setenv("ELU_ZOO_MANIFEST", str(published / "manifest.json"))
        monkeypatch.setenv("ELU_ZOO_MIRROR", str(published))
    here = tmp_path / "docs/notebooks"
    here.mkdir(parents=True)
    (tmp_path / "training").symlink_to(ROOT / "training")
    (tmp_path / "docs/results").symlink_to(ROOT / "docs/results")
    monkeypatch.chdir(here)
    namespace = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            # One epoch takes the same path as four.
            source = "".join(cell["source"]).replace("epochs=(4, 4)", "epochs=(1, 0)")
            exec(compile(source, path, "exec"), namespace)
    plt.close("all")


def test_the_guides_show_the_job():
    for name in ("README.md", "docs/finetuning.md"):
        assert blocks(ROOT / name), name
