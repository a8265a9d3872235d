"""The tests that do not depend on the backend, again on JAX."""

import importlib.util
import pathlib
import subprocess
import sys

import keras
import pytest
from environment import on_backend

TESTS = pathlib.Path(__file__).parent
# Enough to call every layer and optimizer, and to build every model.
CHOSEN = {
    "test_ops.py": "",
    "layers": "",
    "training/test_optimizers.py": "",
    "test_models.py": "pooling_first or without_top",
    "test_images.py": "",
    "test_predictions.py": "",
    "test_diagnostics.py": "softmax or numpy",
    "test_feature_extraction.py": "",
    "test_finetuning.py": "",
    "test_layerwise_adam.py": "",
    "test_pretrained.py": "classes",
    "test_weight_files.py": "round",
}


@pytest.mark.skipif(
    keras.backend.backend() == "jax" or importlib.util.find_spec("jax") is None,
    reason="needs JAX, and another backend for the rest of the tests",
)
@pytest.mark.parametrize("path", CHOSEN)
def test_on_jax(path):
    environ = on_backend("jax")
    if path == "test_ops.py":
        # Its bounds are those of machine code as users get it.
        del environ["XLA_FLAGS"]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *(TESTS / path, "-k", CHOSEN[path]),
        ],
        cwd=TESTS.parent,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
