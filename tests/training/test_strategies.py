"""The same recipe, seed and global batch on one device and on many."""

import importlib.util
import json
import re

import launch
import numpy as np
import pytest

RECIPE = """
import keras
from training.data.augmentation import mixup, random_crop, random_flip
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet11",
    model_arguments={"width": 0.04},
    dataset="cifar100",
    batch_size=64,
    epochs=1,
    image_sizes={0: 16},
    augmentation=[
        random_crop(4),
        random_flip(),
        mixup(alpha=0.5),
    ],
    label_smoothing=0.1,
    l2=0.0005,
    clip_norm=1.0,
    learning_rate=lambda steps: WarmupLinear(0.02, steps),
    optimizer=lambda schedule: OPTIMIZER(
        schedule, weight_decay=0.1, use_ema=True, ema_momentum=0.9
    ),
)
"""
# Rounding errors grow in Muon's Newton-Schulz steps, on JAX beyond the tolerance.
OPTIMIZERS = {"tensorflow": "ConvMuon", "jax": "keras.optimizers.SGD"}

CASES = {
    # name: (workers, backend, arguments, what is compared with)
    "one": (1, "tensorflow", [], None),
    "mirrored": (
        *(1, "tensorflow", ["--strategy", "mirrored", "--cpu-devices", "2"]),
        "one",
    ),
    "2 workers": (2, "tensorflow", [], "one"),
    "4 workers": (4, "tensorflow", [], "one"),
    "jax": (1, "jax", [], None),
    "jax 2": (1, "jax", ["--cpu-devices", "2"], "jax"),
    "jax 4": (1, "jax", ["--cpu-devices", "4"], "jax"),
}
SLOW = ("4 workers", "jax 2", "jax 4")


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """Runs a case once; returns its folder and what it printed."""
    folder = tmp_path_factory.mktemp("strategies")
    for backend, optimizer in OPTIMIZERS.items():
        text = RECIPE.replace("OPTIMIZER", optimizer)
        (folder / f"{backend}.py").write_text(text)
    done = {}

    def run(name):
        if name not in done:
            workers, backend, more, _ = CASES[name]
            logs = folder / name
            logs.mkdir()
            recipe = folder / f"{backend}.py"
            more = [*more, "--precision", "float32"]
            command = launch.command(recipe, data_dir, logs / "run", *more)
            processes = launch.start(command, logs, workers, backend)
            done[name] = logs / "run", launch.finish(processes, logs)
        return done[name]

    return run


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in CASES
        if CASES[name][3]
    ],
)
def test_equal_to_one_device(finished, name):
    if "jax" in name and importlib.util.find_spec("jax") is None:
        pytest.skip("needs jax")
    workers, _, more, reference = CASES[name]
    (out, printed), (single, _) = finished(name), finished(reference)
    replicas = int(more[-1]) if more else workers
    share = f"{workers} workers, {replicas} replicas of {64 // replicas} images"
    assert share in printed
    expected = launch.arrays(single)
    for key, array in launch.arrays(out).items():
        np.testing.assert_allclose(array, expected[key], atol=2e-6, err_msg=key)
    # All 100 test images were counted: the error is a multiple of 1/100 and the same.
    error, loss = re.search(r"error ([\d.]+)%, loss ([\d.]+)", printed).groups()
    _, other = finished(reference)
    assert f"error {error}%, loss {loss}" in other
    placement = json.loads((out / "run.json").read_text())["placements"][-1]
    assert placement["replicas"] == replicas and placement["batch_size"] == 64


def test_a_batch_that_cannot_be_shared(data_dir, tmp_path):
    (tmp_path / "tiny.py").write_text(RECIPE.replace("OPTIMIZER", "ConvMuon"))
    command = launch.command(tmp_path / "tiny.py", data_dir, tmp_path / "run")
    more = ["--strategy", "mirrored", "--cpu-devices", "3"]
    (process,) = launch.start(command + more, tmp_path)
    assert process.wait(300) == 2
    log = (tmp_path / "worker0.log").read_text()
    assert "3 replicas" in log and "batch_size=64" in log
    assert "Traceback" not in log


def test_workers_whose_weights_differ_are_noticed(data_dir, tmp_path):
    # Muon takes long to compile.
    text = RECIPE.replace("OPTIMIZER", "keras.optimizers.SGD") + (
        "import dataclasses, json, os\n"
        "def differ(model, images):\n"
        "    index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "    weights = model.trainable_variables[0]\n"
        "    weights.assign(weights * (1 + 1e-6 * index))\n"
        "recipe = dataclasses.replace(recipe, initialize=differ)\n"
    )
    (tmp_path / "tiny.py").write_text(text)
    command = launch.command(tmp_path / "tiny.py", data_dir, tmp_path / "run")
    processes = launch.start(command, tmp_path, workers=2)
    assert all([process.wait(300) for process in processes])
    log = (tmp_path / "worker1.log").read_text()
    assert "the same bits in their weights" in log
