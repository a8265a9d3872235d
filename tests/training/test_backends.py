"""The same run on TensorFlow and on JAX."""

import csv
import importlib.util
import pathlib
import subprocess
import sys

import launch
import numpy as np
import pytest
from environment import on_backend

ROOT = pathlib.Path(__file__).parents[2]

# Keras's initializers give other values on other backends.
RECIPE = """
import keras
import numpy as np
from training.data.augmentation import random_crop, random_flip
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear


@keras.saving.register_keras_serializable("test")
class FromNumPy(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        values = np.random.default_rng(shape[-1]).normal(size=shape)
        scaled = values * 1.6 / np.sqrt(np.prod(shape[:-1]))
        return keras.ops.convert_to_tensor(scaled.astype("float32"), dtype)


recipe = Recipe(
    model="ELUNet11",
    model_arguments={"width": 0.04, "kernel_initializer": "test>FromNumPy"},
    dataset="cifar100",
    batch_size=50,
    epochs=2,
    image_sizes={0: 16, 1: 32},
    augmentation=[random_crop(4), random_flip()],
    label_smoothing=0.1,
    holdout=100,
    learning_rate=lambda steps: WarmupLinear(0.02, steps),
    optimizer=lambda schedule: ConvMuon(schedule, use_ema=True, ema_momentum=0.9),
)
"""


# Three steps per call and a stop, beside a run with neither.
ON_JAX = """
import pathlib, sys
from training.engine.loop import train
from training.engine.recipe import load_recipe

recipe, data, out = map(pathlib.Path, sys.argv[1:])
def run(name, per_call, steps=10**9):
    calls = iter(range(steps))
    return train(
        recipe, load_recipe(recipe), data, out / name, precision="float32",
        log_every=5, checkpoint_every=8, progress=False, per_call=per_call,
        should_stop=lambda: next(calls, None) is None,
    )

run("whole", 16)
assert run("stopped", 3, steps=3) is None
assert run("stopped", 16)
"""
COLUMNS = ("step", "train_loss", "learning_rate", "eval_loss")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def on_jax(recipe, data_dir, tmp_path_factory):
    """The folder of the runs of `ON_JAX`."""
    folder = tmp_path_factory.mktemp("jax")
    run([sys.executable, "-c", ON_JAX, recipe, data_dir, folder], "jax")
    return folder


def run(command, backend):
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=on_backend(backend) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr


def logged(out):
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS
    }


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("tensorflow", "jax")),
    reason="needs tensorflow and jax",
)
def test_tensorflow_and_jax_agree(recipe, data_dir, on_jax, tmp_path):
    run(
        [
            *(sys.executable, "-m", "training.train", recipe, "--data", data_dir),
            *("--out", tmp_path / "run", "--quiet", "--precision", "float32"),
            *("--log-every", "5", "--checkpoint-every", "8"),
        ],
        "tensorflow",
    )
    expected, found = logged(tmp_path / "run"), logged(on_jax / "whole")
    # The rows of the log are means over all 16 steps; two of them are evaluations.
    assert np.isfinite(found["train_loss"]).sum() == 4 and found["step"][-1] == 16
    assert np.isfinite(found["eval_loss"]).sum() == 2
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs jax")
def test_steps_a_call_and_a_stop_change_no_bit_on_jax(on_jax):
    assert (on_jax / "stopped/stopped.weights.h5").is_file()
    expected, found = (launch.arrays(on_jax / name) for name in ("whole", "stopped"))
    for key, array in expected.items():
        np.testing.assert_array_equal(array, found[key], err_msg=key)
    whole, stopped = (logged(on_jax / name) for name in ("whole", "stopped"))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, stopped[name], err_msg=name)
