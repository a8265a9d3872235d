"""Every way to resize in the project, against `elu_zoo.images.resize`."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

from elu_zoo.images import resize
from training.data import crops, decoding
from training.data.crops import CenterCrop
from training.data.stored_images import resized
from training.engine import steps


def photo(height, width):
    """A smooth picture, on which JPEG and whole pixels make little difference."""
    blocks = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype("uint8")
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


def encode(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def assert_close(found, expected, mean, most):
    difference = np.abs(np.asarray(found, "float64") - expected)
    assert difference.mean() <= mean and difference.max() <= most


@pytest.mark.parametrize("keep_ratio", [False, True])
def test_evaluation_of_files_is_the_records_preprocessing(keep_ratio):
    photos = [photo(300, 600), photo(600, 300), photo(90, 90)]
    files = [encode(image) for image in photos]
    crop, draws = CenterCrop(64, keep_ratio), np.zeros((3, 0), "float32")
    how = crop.preprocessing(56)
    assert how["mode"] == ("crop" if keep_ratio else "squash")
    results = [(decoding.decode(files, crop, draws, 56), 1.5, 12)]
    if keras.backend.backend() == "tensorflow":
        from elu_zoo._graph_images import decode

        results.append((decoding.decode_ops(files, crop, draws, 56), 1.5, 12))
        results.append((decode(files, 3, **how), 1, 5))
    for (images, good), mean, most in results:
        for i, image in enumerate(photos):
            assert good[i]
            assert_close(images[i], resize(image, **how), mean, most)


def test_windows_of_images_in_memory_are_rounded_twice():
    image = photo(80, 120)
    window = np.array([[0, 0, 80, 120]], "float32")
    found = crops.resize(np.asarray(image)[None], window, 48)
    assert_close(found[0], resize(image, 48, mode="squash"), 0.5, 1.01)


@pytest.mark.parametrize("side", [40, 96])
def test_batches_in_the_training_step(side):
    image = photo(64, 64)
    found = steps.resize(np.asarray(image)[None], side)
    assert_close(keras.ops.convert_to_numpy(found)[0], resize(image, side), 1e-3, 1e-2)


def test_stored_copies_are_jpeg_files():
    image = photo(300, 600)
    stored = Image.open(io.BytesIO(resized(encode(image), 64)))
    assert_close(stored, resize(image, 64, mode="squash"), 1.5, 12)
