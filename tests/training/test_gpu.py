"""The script for a GPU that is there for minutes, tried in small on the CPU."""

import json
import subprocess
import sys
import tarfile
import time

import h5py
import numpy as np
import pytest
from environment import on_backend
from launch import ROOT

import elu_zoo
from elu_zoo._weight_files import round_to_bfloat16
from elu_zoo.errors import UserError
from training import gpu
from training.engine.checkpoint import find
from training.engine.cost import image_flop

WITHOUT_A_GPU = """
from training import gpu
gpu.on_cpu = lambda: False
gpu.main()
"""

MEASURE = """
import json
import pathlib
import sys

from training import gpu
from training.engine.recipe import load_recipe
from training.engine.stopping import Stopping

recipe, data, out = sys.argv[1:]
command = [recipe, "--data", data, "--out", out, "--seconds", "600"]
with Stopping() as stopping:
    facts = gpu.measure(
        gpu.parse(command), load_recipe(recipe), pathlib.Path(out), stopping
    )
print(json.dumps(facts))
"""


def test_it_stops_in_time_and_leaves_its_weights(data_dir, tmp_path):
    pytest.importorskip("jax", reason="needs jax")
    out = tmp_path / "run"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "training.gpu", "--smoke", "--data", data_dir),
            *("training/recipes/elunet11_cifar100_gpu.py", "--out", out),
            # Over already after the first steps.
            *("--seconds", "1", "--epochs", "7"),
        ],
        cwd=ROOT,
        env=on_backend("jax"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout.splitlines()[-1])
    assert not (out / "trial").exists()
    assert facts["images_per_second"] > 0 and facts["share_of_peak"] > 0
    assert len(find(out)) == 1
    with tarfile.open(out / "parts/run.tar") as archive:
        assert not json.load(archive.extractfile("run.json"))["finished"]
        assert json.load(archive.extractfile("speed.json")) == facts
        assert {"log.csv", "recipe.py"} <= set(archive.getnames())
    gpu.join(out / "parts", tmp_path / "joined.weights.h5")
    arguments = {"width": 0.03, "classes": 100, "input_shape": (None, None, 3)}
    models = [elu_zoo.ELUNet11(weights=None, **arguments) for _ in range(2)]
    models[0].load_weights(out / "stopped.weights.h5")
    models[1].load_weights(tmp_path / "joined.weights.h5")
    for whole, rounded in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(round_to_bfloat16(whole), rounded)


def test_a_signal_leaves_a_checkpoint_and_the_weights(data_dir, recipe_path, tmp_path):
    pytest.importorskip("jax", reason="needs jax")
    long, out = tmp_path / "long.py", tmp_path / "run"
    long.write_text(recipe_path.read_text().replace("epochs=4", "epochs=10_000"))
    command = [sys.executable, "-c", WITHOUT_A_GPU, str(long), "--seconds", "600"]
    command += ["--out", str(out)]
    process = subprocess.Popen(
        [*command, "--data", str(data_dir)],
        cwd=ROOT,
        env=on_backend("jax"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Not that of the trial: an epoch is over.
    while not (out / "best.weights.h5").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    assert errors.splitlines()[-1].startswith("training.gpu: Stopped by SIGTERM")
    assert len(find(out)) == 1
    gpu.join(out / "parts", tmp_path / "joined.weights.h5")


def test_weights_are_kept_when_the_end_of_a_run_fails(
    data_dir, recipe_path, tmp_path, monkeypatch
):
    def fails(*arguments):
        raise RuntimeError("no figure")

    command = [str(recipe_path), "--data", str(data_dir), "--seconds", "600"]
    command += ["--out", str(tmp_path / "run")]
    monkeypatch.setattr(gpu, "measure", lambda *_: {"images_per_second": 100})
    monkeypatch.setattr(gpu, "on_cpu", lambda: False)
    monkeypatch.setattr("training.engine.runlog.plot", fails)
    (tmp_path / "run").mkdir()
    with pytest.raises(RuntimeError, match="no figure"):
        gpu.main(command)
    gpu.join(tmp_path / "run/parts", tmp_path / "joined.weights.h5")


def test_without_a_gpu_it_says_so(recipe_path, tmp_path):
    pytest.importorskip("jax", reason="needs jax")
    command = [sys.executable, "-m", "training.gpu", str(recipe_path), "--seconds", "9"]
    command += ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=on_backend("jax")
    )
    assert result.returncode == 2 and "Expected a GPU" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_time_of_a_recipe_follows_from_its_operations(
    data_dir, recipe_path, tmp_path
):
    pytest.importorskip("jax", reason="needs jax")
    command = [sys.executable, "-c", MEASURE, recipe_path, data_dir, tmp_path]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=on_backend("jax")
    )
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout.splitlines()[-1])
    # Two of four epochs are at half the size, of 400 images in batches of 20.
    costs = [
        image_flop(
            {"model": "ELUNet11", "model_arguments": {"width": 0.04}},
            (size, size, 3),
            100,
        )
        for size in (16, 32)
    ]
    images = 2 * 400 * (1 + costs[0] / costs[1])
    expected = images / facts["images_per_second"]
    assert facts["seconds"] == pytest.approx(expected, rel=0.05)


def test_a_missing_recipe_is_one_line(tmp_path):
    command = [sys.executable, "-m", "training.gpu", "no.py", "--seconds", "60"]
    command += ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("training.gpu: ")


def test_parts_are_joined_whole_or_not_at_all(tmp_path):
    file = tmp_path / "some.weights.h5"
    with h5py.File(file, "w") as opened:
        opened["x"] = np.arange(1000)
    (tmp_path / "parts").mkdir()
    gpu.split(file, tmp_path / "parts", size=1000)
    assert len(list((tmp_path / "parts").glob("weights.0*"))) > 8
    gpu.join(tmp_path / "parts", tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == file.read_bytes()
    (tmp_path / "parts/weights.003").unlink()
    with pytest.raises(UserError, match="Copy them again"):
        gpu.join(tmp_path / "parts", tmp_path / "other")
    assert not (tmp_path / "other").exists()
