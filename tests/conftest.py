import hashlib
import json
import os
import sys

import pytest

WIDTH = 0.1
BACKEND = os.environ.get("KERAS_BACKEND")

# The files that take longest go first: else one process runs them alone at the end.
LONGEST = [
    *("test_resume.py", "test_docs.py", "test_export.py", "test_jax_backend.py"),
    *("test_strategies.py", "test_backends.py", "test_serving.py", "test_finetune.py"),
    *("test_publish.py", "test_recipes.py", "test_reference.py", "test_finetuning.py"),
    *("test_finetuning_stages.py", "test_faults.py", "test_cli.py", "test_encoded.py"),
    "test_site.py",
]


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish():
    """Modules that change the backend change that of all processes of the tests."""
    if os.environ.get("KERAS_BACKEND") != BACKEND:
        raise pytest.UsageError(
            f"Expected the modules to leave KERAS_BACKEND alone when they are "
            f"imported. Received: {os.environ['KERAS_BACKEND']!r} after them, "
            f"{BACKEND!r} before."
        )


@pytest.fixture(autouse=True)
def defaults():
    """Undoes what a run in this process sets: its precision, and determinism."""
    yield
    if keras := sys.modules.get("keras"):
        keras.config.set_dtype_policy(keras.config.floatx())
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import config

        config.disable_op_determinism()


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A folder with a manifest and small random weights, `elunet11.cifar100`."""
    import keras

    import elu_zoo
    from elu_zoo._weight_files import save_weights

    folder = tmp_path_factory.mktemp("published")
    keras.utils.set_random_seed(0)
    model = elu_zoo.ELUNet11(width=WIDTH, classes=4)
    file = folder / "elunet11.cifar100.weights.h5"
    save_weights(model, file)
    record = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "urls": [],
        "model": "ELUNet11",
        "arguments": {"width": WIDTH, "classes": 4},
        "parameters": model.count_params(),
        "input_shape": [32, 32, 3],
        "preprocessing": {"resize": 32, "crop": 32, "interpolation": "bilinear"},
        "class_names": ["ant", "bee", "cat", "dog"],
        "dataset": {"name": "image_folder", "terms": "made up", "url": "none"},
        "license": "Apache-2.0",
        "recipe": "none",
        "metrics": {"error": 0.5},
    }
    manifest = {
        "format": 1,
        "base_url": None,
        "weights": {"elunet11.cifar100": record},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def zoo(published, tmp_path, monkeypatch):
    """Has the package use `published`, with a cache of its own."""
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(published / "manifest.json"))
    monkeypatch.setenv("ELU_ZOO_MIRROR", str(published))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return published
