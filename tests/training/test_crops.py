import math

import numpy as np
import pytest
from PIL import Image

from elu_zoo.datasets import Dataset
from training.data.crops import (
    CenterCrop,
    RandomResizedCrop,
    ResizedRandomCrop,
    resize,
)
from training.data.stream import Stream

CROPS = [
    ResizedRandomCrop(32),
    RandomResizedCrop(),
    CenterCrop(32),
    CenterCrop(32, keep_ratio=True),
]


def cropped(crop, images, size, **share):
    """The crops of images and which images they are of, by the stream's own path."""
    dataset = Dataset(images, np.zeros(len(images), int), ("a", "b"))
    batch = Stream(dataset, len(images), [crop], {0: size}, **share).batch(0)
    return batch.images, batch.indices


def windows(crop, height, width, size, count=500):
    draws = np.random.default_rng(0).random((crop.draws, count))
    sides = np.full(count, float(height)), np.full(count, float(width))
    return np.stack(crop.windows(draws, *sides, size), -1)


@pytest.mark.parametrize("crop", CROPS, ids=repr)
@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (90, 400), (33, 32)])
def test_windows_are_whole_pixels_inside_the_image(crop, height, width):
    boxes = windows(crop, height, width, 24)
    np.testing.assert_array_equal(boxes, np.floor(boxes))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()


def test_resized_random_crop_is_every_crop_of_the_resized_image():
    boxes = windows(ResizedRandomCrop(32), 320, 640, 24, 3000)
    assert set(map(tuple, boxes)) == {
        (10 * y, 20 * x, 240, 480) for y in range(9) for x in range(9)
    }
    counts = np.unique(boxes[:, 0], return_counts=True)[1]
    # 3000 / 9 each; five standard deviations.
    assert np.abs(counts - 3000 / 9).max() < 5 * math.sqrt(3000 * 8) / 9


def test_random_resized_crop_has_the_areas_and_ratios_asked_for():
    boxes = windows(RandomResizedCrop((0.2, 0.6), (0.5, 2.0)), 1000, 1000, 24, 3000)
    areas = boxes[:, 2] * boxes[:, 3] / 1e6
    logs = np.log(boxes[:, 3] / boxes[:, 2])
    assert 0.199 < areas.min() and areas.max() < 0.601
    assert abs(areas.mean() - 0.4) < 0.01
    assert np.abs(logs).max() < math.log(2) + 0.01 and abs(logs.mean()) < 0.04
    assert abs(logs.std() - math.log(4) / math.sqrt(12)) < 0.02


def test_an_image_that_no_try_fits_gives_its_middle():
    box = windows(RandomResizedCrop((0.9, 1.0)), 100, 1001, 24)[0]
    np.testing.assert_array_equal(box, [0, (1001 - 133) // 2, 100, 133])
    box = windows(RandomResizedCrop((0.9, 1.0)), 1001, 100, 24)[0]
    np.testing.assert_array_equal(box, [(1001 - 133) // 2, 0, 133, 100])


@pytest.mark.parametrize("crop", CROPS, ids=repr)
def test_tensors_give_the_same_windows(crop):
    import tensorflow as tf
    import tensorflow.experimental.numpy as tnp

    rng = np.random.default_rng(0)
    draws, sides = rng.random((crop.draws, 50)), rng.integers(30, 500, (2, 50))
    tensors = (tf.constant(values, tf.float32) for values in (draws, *sides, 24))
    got = crop.windows(*tensors, tnp)
    expected = crop.windows(draws, *sides.astype(float), 24.0)
    # A value that float32 rounds across a half moves a side by one pixel.
    difference = np.abs(np.array(got) - np.array(expected))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.05


def smooth(count, height, width, channels):
    """Made-up photographs: noise of half the size, enlarged."""
    rng = np.random.default_rng(0)
    shape = (count, height // 2 + 1, width // 2 + 1, channels)
    noise = rng.integers(0, 256, shape, "uint8")
    return noise.repeat(2, 1).repeat(2, 2)[:, :height, :width]


def by_pillow(image, window, size):
    top, left, height, width = window
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize(
            (size, size),
            Image.Resampling.BILINEAR,
            box=(left, top, left + width, top + height),
        )
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, -1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 24, 40])
@pytest.mark.parametrize(
    "window", [(0, 0, 40, 50), (3, 7, 37, 43), (12, 5, 20, 21), (9, 30, 3, 2)]
)
def test_crops_are_resized_as_by_pillow(window, size, channels):
    images = smooth(3, 40, 50, channels)
    windows = np.tile(np.array(window, "float32"), (3, 1))
    out = np.asarray(resize(images, windows, size))
    assert out.dtype == np.uint8
    expected = np.stack([by_pillow(image, window, size) for image in images])
    difference = np.abs(out.astype(int) - expected)
    # Pillow computes with whole numbers; a half can become the next one.
    assert difference.max() <= 2 and (difference > 0).mean() < 0.05


def test_a_crop_in_memory_is_its_window():
    images = smooth(4, 40, 50, 3)
    out, numbers = cropped(CenterCrop(32), images, 24)
    assert out.shape == (4, 24, 24, 3)
    # 4 of 32 pixels are cut off at each side.
    box = (5, round(50 / 8), 30, round(50 * 7 / 8) - round(50 / 8))
    expected = np.stack([by_pillow(images[number], box, 24) for number in numbers])
    assert np.abs(out.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("crop", CROPS, ids=repr)
def test_workers_share_the_crops_of_one(crop):
    images = smooth(8, 40, 50, 3)
    whole, _ = cropped(crop, images, 24)
    halves = [cropped(crop, images, 24, worker=i, workers=2)[0] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_a_crop_larger_than_the_resized_image():
    for crop in (ResizedRandomCrop(32), CenterCrop(32)):
        with pytest.raises(ValueError, match="Received: 33"):
            cropped(crop, smooth(1, 40, 40, 3), 33)
