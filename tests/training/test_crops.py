import math

import numpy as np
import pytest
from PIL import Image

from training.data.batch import Batch
from training.data.crops import CenterCrop, RandomResizedCrop, ResizedRandomCrop

CROPS = [
    ResizedRandomCrop(32),
    RandomResizedCrop(),
    CenterCrop(32),
    CenterCrop(32, keep_ratio=True),
]


def batch(images, size, seed=0, rows=None):
    rows = rows or slice(0, len(images))
    return Batch(
        images=images[rows],
        targets=np.zeros((len(images), 2), "float32")[rows],
        weights=np.ones(len(images), "float32")[rows],
        indices=np.arange(len(images))[rows],
        epoch=0,
        image_size=size,
        rng=np.random.default_rng(seed),
        rows=rows,
        global_size=len(images),
    )


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


def test_in_memory_a_crop_is_pillows():
    images = np.random.default_rng(0).integers(0, 255, (4, 40, 50, 3), dtype="uint8")
    out = CenterCrop(32)(batch(images, 24)).images
    assert out.shape == (4, 24, 24, 3)
    for image, crop in zip(images, out, strict=True):
        # 4 of 32 pixels are cut off at each side.
        box = (round(50 / 8), 5, round(50 * 7 / 8), 35)
        expected = Image.fromarray(image).resize(
            (24, 24), Image.Resampling.BILINEAR, box=box
        )
        np.testing.assert_array_equal(crop, expected)


def test_one_channel():
    images = np.random.default_rng(0).integers(0, 255, (2, 28, 28, 1), dtype="uint8")
    assert RandomResizedCrop()(batch(images, 20)).images.shape == (2, 20, 20, 1)


@pytest.mark.parametrize("crop", CROPS, ids=repr)
def test_workers_share_the_crops_of_one(crop):
    images = np.random.default_rng(0).integers(0, 255, (8, 40, 50, 3), dtype="uint8")
    whole = crop(batch(images, 24)).images
    halves = [crop(batch(images, 24, rows=slice(i, i + 4))).images for i in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_a_crop_larger_than_the_resized_image():
    images = np.zeros((1, 40, 40, 3), "uint8")
    for crop in (ResizedRandomCrop(32), CenterCrop(32)):
        with pytest.raises(ValueError, match="Received: 33"):
            crop(batch(images, 33))
