"""The built wheel works by itself."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


LARGE = "elunet18.large-0.weights.h5"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What the package is built from, and weights that its record keeps out of it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("elu_zoo", "pretrained"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    manifest["weights"]["elunet18.large"] = {"file": LARGE, "packaged": False}
    (folder / "pretrained/manifest.json").write_text(json.dumps(manifest))
    (folder / "pretrained" / LARGE).write_bytes(b"large")
    return folder


@pytest.fixture(scope="module")
def unpacked(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", folder, source),
        ],
        check=True,
        cwd=folder,
    )
    (wheel,) = folder.glob("elu_zoo-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_contents(unpacked):
    assert {p.name for p in unpacked.iterdir() if "dist-info" not in p.name} == {
        "elu_zoo"
    }
    assert (unpacked / "elu_zoo/py.typed").is_file()
    names = {p.name for p in (unpacked / "elu_zoo/pretrained").iterdir()}
    assert "manifest.json" in names
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    for record in manifest["weights"].values():
        assert (record["file"] in names) == record.get("packaged", True)
    assert LARGE not in names


def test_pretrained_weights_in_an_empty_directory(unpacked, tmp_path):
    code = (
        "import elu_zoo, sys\n"
        "assert elu_zoo.__file__.startswith(sys.argv[1]), elu_zoo.__file__\n"
        "assert 'elunet11.cifar100' in elu_zoo.list_weights()\n"
        "print(elu_zoo.ELUNet11(weights='cifar100').output_shape)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(unpacked)],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": str(unpacked),
            "ELU_ZOO_OFFLINE": "1",
            "KERAS_HOME": str(tmp_path / "keras"),
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "(None, 100)"
