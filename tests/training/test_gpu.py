"""The script for a GPU that is there for minutes, tried in small on the CPU."""

import json
import subprocess
import sys
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


def test_it_stops_in_time_and_leaves_its_weights(data_dir, tmp_path):
    pytest.importorskip("jax", reason="needs jax")
    out = tmp_path / "run"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "training.gpu", "--smoke", "--data", data_dir),
            *("training/recipes/elunet11_cifar100_gpu.py", "--out", out),
            # Over already after the first steps.
            *("--seconds", "1"),
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
    assert not json.loads((out / "parts/run.json").read_text())["finished"]
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
    command = [sys.executable, "-m", "training.gpu", str(long), "--seconds", "600"]
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
