"""The tests that do not depend on the backend, again on JAX."""

import importlib.util
import pathlib
import subprocess
import sys

import keras
import pytest
from environment import on_backend

TESTS = pathlib.Path(__file__).parent
# Enough to call every layer and optimizer; test_reference.py builds and calls every
# published network. Each row is a process. JAX compiles for long, so the tests that
# train are few.
CHOSEN = {
    "ops": ("", ["test_ops.py"]),
    "whole files": (
        "",
        [
            *("layers", "training/test_optimizers.py", "test_images.py"),
            "test_predictions.py",
        ],
    ),
    "parts": (
        "pooling_first or without_top or numpy or softmax or other_classes or round "
        "or two_colors or own_rate or rest_of_the_network or against_loops "
        "or (quadrant and cam)",
        [
            *("test_models.py", "diagnostics", "test_pretrained.py"),
            *("test_weight_files.py", "test_finetuning.py", "test_layerwise_adam.py"),
            *("test_feature_extraction.py", "test_explain.py"),
        ],
    ),
    "training": (
        "",
        [
            *("test_finetuning.py", "test_layerwise_adam.py"),
            *("test_feature_extraction.py", "test_explain.py"),
        ],
    ),
}
SLOW = ("training",)


@pytest.mark.skipif(
    keras.backend.backend() == "jax" or importlib.util.find_spec("jax") is None,
    reason="needs JAX, and another backend for the rest of the tests",
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in CHOSEN],
)
def test_on_jax(name):
    chosen, paths = CHOSEN[name]
    environ = on_backend("jax")
    if name == "ops":
        # Its bounds are those of machine code as users get it.
        del environ["XLA_FLAGS"]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", chosen),
            *(TESTS / path for path in paths),
        ],
        cwd=TESTS.parent,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
