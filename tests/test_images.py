import json

import keras
import numpy as np
import pytest
from PIL import Image

from elu_zoo.images import preprocess_input, resize_and_crop

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]


def record(**changes):
    return {
        "preprocessing": {"resize": 12, "crop": 8, "interpolation": "bilinear"},
        "input_shape": [8, 8, 3],
        "class_names": NAMES,
    } | changes


@pytest.fixture(autouse=True)
def manifest(tmp_path, monkeypatch):
    records = {
        "net.animals": record(),
        "net.digits": record(input_shape=[8, 8, 1]),
        "big.animals": record(input_shape=[8, 8, 3]),
        "net.mixed": record(),
        "big.mixed": record(
            preprocessing={"resize": 16, "crop": 16, "interpolation": "bilinear"}
        ),
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 1, "base_url": None, "weights": records}))
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(path))


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def directly(image, mode="RGB"):
    """Shorter side to 12 pixels by Keras, then the 8 in the middle."""
    array = np.asarray(image.convert(mode), "float32").reshape(*image.size[::-1], -1)
    height, width, _ = array.shape
    size = (12, round(12 * width / height))
    if height > width:
        size = (round(12 * height / width), 12)
    array = keras.ops.image.resize(
        array, size, antialias=True, data_format="channels_last"
    )
    top, left = (size[0] - 8) // 2, (size[1] - 8) // 2
    return keras.ops.convert_to_numpy(array[top : top + 8, left : left + 8])


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "shape", [(20, 30, 3), (31, 17, 3), (5, 9, 3), (12, 12, 3), (40, 20), (20, 30, 4)]
)
@pytest.mark.parametrize("form", ["array", "float", "pil", "list"])
def test_against_keras(shape, form):
    array = pixels(*shape)
    x = {
        "array": array,
        "float": array.astype("float32"),
        "pil": Image.fromarray(array),
        "list": [array],
    }[form]
    before = array.copy()
    batch = preprocess_input(x, weights="net.animals")
    assert batch.dtype == np.float32 and batch.shape == (1, 8, 8, 3)
    assert_close(batch[0], directly(Image.fromarray(array)))
    np.testing.assert_array_equal(array, before)
    batch[:] = 0
    np.testing.assert_array_equal(array, before)


def test_batches_and_lists_of_different_sizes():
    array = pixels(3, 20, 30, 3)
    expected = [directly(Image.fromarray(image)) for image in array]
    for x in (array, list(array), keras.ops.convert_to_tensor(array)):
        assert_close(preprocess_input(x, "animals"), expected)
    image = keras.ops.convert_to_tensor(array[0])
    assert_close(preprocess_input(image, "animals"), expected[:1])
    mixed = [array[0], Image.fromarray(pixels(9, 9)), pixels(8, 10, 1)]
    batch = preprocess_input(mixed, "animals")
    assert_close(batch[0], expected[0])
    assert_close(batch[1], directly(mixed[1]))
    assert_close(batch[2], directly(Image.fromarray(mixed[2][..., 0])))


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30), (20, 30, 1)])
def test_gray(shape):
    array = pixels(*shape)
    batch = preprocess_input(array, "digits")
    image = Image.fromarray(array[..., 0] if shape[-1] == 1 else array)
    assert_close(batch[0], directly(image, "L"))


def test_values_are_rounded():
    array = np.full((8, 8, 3), 99.6)
    np.testing.assert_array_equal(preprocess_input(array, "animals"), 100)


def test_deep_images():
    deep = Image.fromarray(np.full((8, 8), 200, "uint16"))
    np.testing.assert_array_equal(preprocess_input(deep, "animals"), 200)
    with pytest.raises(ValueError, match="to 2000"):
        preprocess_input(Image.fromarray(np.full((8, 8), 2000, "uint16")), "animals")


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_interpolation(interpolation):
    array = pixels(20, 20, 3)
    found = resize_and_crop(Image.fromarray(array), 10, 10, interpolation)
    expected = keras.ops.image.resize(
        array.astype("float32"),
        (10, 10),
        interpolation,
        antialias=interpolation != "nearest",
        data_format="channels_last",
    )
    assert_close(found, np.clip(keras.ops.convert_to_numpy(expected), 0, 255))


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((8, 8, 2)), r"shape \(8, 8, 2\)"),
        (np.zeros((1, 1, 8, 8, 3)), r"shape \(1, 1, 8, 8, 3\)"),
        (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
        (np.zeros(8), r"shape \(8,\)"),
        (np.zeros((0, 8, 8, 3)), "at least one image"),
        ([], "at least one image"),
        (np.full((8, 8, 3), 256.0), "256"),
        (np.full((8, 8, 3), -1), "-1"),
        (np.full((8, 8, 3), np.nan), "nan"),
        (np.full((8, 8, 3), 0.5), "multiply by 255"),
        (np.ones((8, 8), bool), "bool"),
        ("cat.jpg", "shape"),
    ],
)
def test_images_that_are_none(x, message):
    with pytest.raises(ValueError, match=message):
        preprocess_input(x, "animals")


def test_names_of_weights():
    with pytest.raises(ValueError, match="animals.*weights='plants'"):
        preprocess_input(pixels(8, 8, 3), "plants")
    with pytest.raises(ValueError, match="one name of.*big.mixed.*preprocessing"):
        preprocess_input(pixels(8, 8, 3), "mixed")
    assert preprocess_input(pixels(8, 8, 3), "big.mixed").shape == (1, 16, 16, 3)
