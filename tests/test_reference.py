"""Each published weights file computes what it did, on old and new Keras."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from environment import on_backend
from PIL import Image

import elu_zoo
from elu_zoo.reference import reference_images
from elu_zoo.weights import list_weights

ROOT = pathlib.Path(__file__).parents[1]
OLDEST_KERAS = "3.12.4"

PREDICT = """
import json, sys
import keras
import numpy as np
import elu_zoo
from elu_zoo.reference import reference_images

answers = {"keras": keras.__version__, "backend": keras.backend.backend()}
for name in sys.argv[1:]:
    record = elu_zoo.get_record(name)
    model = elu_zoo.load(name, classifier_activation=None)
    side = record.preprocessing.crop
    images = reference_images((side, side, record.input_shape[-1]))
    answers[name] = np.asarray(model.predict(images, verbose=0)).tolist()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def oldest_keras(tmp_path_factory):
    """Folder with the oldest supported Keras, to go before the installed one."""
    if keras.__version__ == OLDEST_KERAS:
        pytest.skip(f"Keras {OLDEST_KERAS} is the one installed")
    folder = tmp_path_factory.mktemp("keras")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    result = subprocess.run(
        [*pip, "--target", folder, f"keras=={OLDEST_KERAS}"], capture_output=True
    )
    if result.returncode:
        pytest.skip(f"Keras {OLDEST_KERAS} could not be installed")
    return str(folder)


def test_the_oldest_keras_is_the_one_that_pyproject_names():
    assert f'"keras>={OLDEST_KERAS},' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "backend, age",
    [
        *(("tensorflow", "oldest"), ("tensorflow", "installed"), ("jax", "installed")),
        pytest.param("jax", "oldest", marks=pytest.mark.slow),
    ],
)
def test_logits(request, backend, age):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    path = str(ROOT)
    if age == "oldest":
        path = os.pathsep.join([request.getfixturevalue("oldest_keras"), path])
    result = subprocess.run(
        [sys.executable, "-c", PREDICT, *list_weights()],
        env=on_backend(backend) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout.splitlines()[-1])
    assert answers["backend"] == backend
    assert answers["keras"] == (OLDEST_KERAS if age == "oldest" else keras.__version__)
    for name in list_weights():
        stored = json.loads((ROOT / f"pretrained/reference/{name}.json").read_text())
        np.testing.assert_allclose(answers[name], stored, atol=2e-3, err_msg=name)


def test_the_images_are_the_same_everywhere():
    images = reference_images((32, 32, 3))
    for number, row, column, channel in [(0, 0, 0, 0), (7, 31, 5, 2), (19, 16, 30, 1)]:
        value = (row * (number + 3) + column * (2 * number + 1)) * (channel + 2)
        value += (
            (row // (number % 5 + 3) + column // (number % 7 + 2)) * 37 * (number % 3)
        )
        value += number * 31 + channel * 53
        assert images[number, row, column, channel] == abs(value % 511 - 255)
    assert len({image.tobytes() for image in images}) == 20


@pytest.mark.parametrize(
    "weights, pattern, right",
    [
        ("elunet11.cifar100", "cifar100/*.png", 7 / 8),
        ("elunet15.tiny_imagenet", "five_classes/*/*.jpg", 0.6),
    ],
)
def test_names_are_those_of_what_is_seen(weights, pattern, right):
    files = sorted((ROOT / "training/demo/images").glob(pattern))
    images = [Image.open(file).convert("RGB") for file in files]
    model = elu_zoo.load(weights)
    side = elu_zoo.get_record(model).preprocessing.crop
    best = elu_zoo.preprocess_input(images, model)
    assert best.shape[1:3] == (side, side)
    # Some as they are, too: those of Tiny ImageNet have another size.
    for batch, shown in ((best, files), (np.stack(images[::5]), files[::5])):
        predictions = model.predict(batch, verbose=0)
        answers = elu_zoo.decode_predictions(predictions, top=1, model=model)
        seen = [
            (file.stem if file.suffix == ".png" else file.parent.name).startswith(name)
            for file, [(_, name, _)] in zip(shown, answers, strict=True)
        ]
        assert len(seen) > 0 and np.mean(seen) >= right
