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


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("tensorflow", "jax")),
    reason="needs tensorflow and jax",
)
def test_tensorflow_and_jax_agree(data_dir, tmp_path):
    (tmp_path / "tiny.py").write_text(RECIPE)
    logs = {}
    for backend in ("tensorflow", "jax"):
        out = tmp_path / backend
        result = subprocess.run(
            [
                *(sys.executable, "-m", "training.train", tmp_path / "tiny.py"),
                *("--data", data_dir, "--out", out, "--quiet"),
                *("--precision", "float32"),
                *("--log-every", "1", "--checkpoint-every", "8"),
            ],
            cwd=ROOT,
            env=on_backend(backend),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        with (out / "log.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        logs[backend] = {
            column: np.array([float(row[column] or "nan") for row in rows])
            for column in ("train_loss", "learning_rate", "eval_loss")
        }
    assert len(logs["jax"]["train_loss"]) == 16
    assert np.isfinite(logs["jax"]["eval_loss"]).sum() == 2
    for column, values in logs["jax"].items():
        np.testing.assert_allclose(
            values, logs["tensorflow"][column], rtol=1e-4, err_msg=column
        )


STOPPED = """
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


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs jax")
def test_steps_a_call_and_a_stop_change_no_bit_on_jax(data_dir, tmp_path):
    (tmp_path / "tiny.py").write_text(RECIPE)
    result = subprocess.run(
        [sys.executable, "-c", STOPPED, tmp_path / "tiny.py", data_dir, tmp_path],
        cwd=ROOT,
        env=on_backend("jax") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "stopped/stopped.weights.h5").is_file()
    expected, found = (launch.arrays(tmp_path / x) for x in ("whole", "stopped"))
    for key, array in expected.items():
        np.testing.assert_array_equal(array, found[key], err_msg=key)
    logs = []
    for name in ("whole", "stopped"):
        with (tmp_path / name / "log.csv").open(newline="") as file:
            logs.append([(r["step"], r["train_loss"]) for r in csv.DictReader(file)])
    assert logs[0] == logs[1]
