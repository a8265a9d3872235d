"""The built wheel works by itself."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", folder, ROOT),
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
    assert {record["file"] for record in manifest["weights"].values()} < names


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
