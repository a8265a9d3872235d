"""What only a process of its own shows: stderr, encodings, what is imported."""

import os
import subprocess
import sys

import pytest
from PIL import Image


def run(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "elu_zoo", *arguments],
        capture_output=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        | environ,
    )


def test_success_is_silent_and_no_encoding_ends_it(zoo, tmp_path):
    folder = os.fsencode(tmp_path)
    names = [folder + b"/\xe9.png", folder + "/骆驼.png".encode()]
    for name in names:
        Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", name)
    result = run("predict", *names, PYTHONIOENCODING="latin-1", PYTHONUTF8="1")
    assert (result.returncode, result.stderr) == (0, b"")
    shown = result.stdout.decode("latin-1")
    assert r"\udce9.png" in shown and r"\u9a86\u9a7c.png" in shown


@pytest.mark.parametrize("code, shown", [("pass", b""), ("1 / 0", b"of the library")])
def test_what_libraries_say_is_shown_if_they_fail(code, shown):
    program = (
        "import os\nfrom elu_zoo._stderr import held_stderr\n"
        f"with held_stderr():\n os.write(2, b'of the library')\n {code}"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert shown in result.stderr and (shown or not result.stderr)
    assert bool(result.returncode) == bool(shown)


def test_a_backend_that_is_missing_is_one_line(zoo, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    missing = {"KERAS_BACKEND": "torch", "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    assert run("list", **missing).returncode == 0
    result = run("predict", str(tmp_path / "x.png"), **missing)
    assert result.returncode == 1 and b"KERAS_BACKEND" in result.stderr
    assert result.stderr.count(b"\n") == 1
    result = run("predict", str(tmp_path / "x.png"), KERAS_BACKEND="tensorflwo")
    assert result.returncode == 1 and b"tensorflwo" in result.stderr
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["fetch"]])
def test_light_commands_import_no_backend(zoo, arguments):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "elu_zoo", *arguments],
        capture_output=True,
        text=True,
    )
    imported = {line.rsplit("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"keras", "tensorflow", "jax", "numpy", "PIL", "h5py"}


def test_completion_knows_commands_and_weights(zoo, tmp_path):
    for line, expected in (
        ("elu-zoo pre", b"predict"),
        ("elu-zoo predict x.png --model elu", b"elunet11.cifar100"),
        ("elu-zoo export elu", b"elunet11.cifar100"),
    ):
        result = run(
            _ARGCOMPLETE="1",
            _ARGCOMPLETE_IFS="\n",
            _ARGCOMPLETE_STDOUT_FILENAME=str(tmp_path / "out"),
            COMP_LINE=line,
            COMP_POINT=str(len(line)),
        )
        assert expected in (tmp_path / "out").read_bytes().split(), result.stderr
