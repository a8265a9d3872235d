"""The augmentations against the formulas of their papers.

Crops and flips are tested in `test_stream.py`.
"""

import keras
import numpy as np
import pytest
from PIL import Image

from elu_zoo.datasets import Dataset
from training.data.augmentation import (
    cutmix,
    mixup,
    random_erasing,
    trivial_augment,
    trivial_operations,
)
from training.data.batch import Batch
from training.data.stream import Stream

MIXING = {"mixup": mixup(1.0), "cutmix": cutmix()}
ALL = MIXING | {"erasing": random_erasing(), "trivial": trivial_augment()}


def batch(count=64, size=12, seed=0, rows=None, weights=None):
    """A batch whose targets tell the images apart."""
    rng = np.random.default_rng(7)
    return Batch(
        images=rng.integers(0, 256, (count, size, size, 3), "uint8"),
        targets=np.eye(count, dtype="float32"),
        weights=np.ones(count, "float32") if weights is None else weights,
        indices=np.arange(count),
        epoch=0,
        image_size=size,
        rng=np.random.default_rng(seed),
        rows=rows or slice(0, count),
        global_size=count,
    )


@pytest.mark.parametrize("name", ALL)
def test_workers_share_the_batches_of_one(name):
    images = np.random.default_rng(0).integers(0, 256, (64, 12, 12, 3), "uint8")
    dataset = Dataset(images, np.arange(64) % 5, tuple("abcde"))

    def stream(worker, workers, seed=0):
        return Stream(
            dataset, 32, [ALL[name]], seed=seed, worker=worker, workers=workers
        )

    whole = [stream(0, 1).batch(step) for step in (3, 0, 3)]
    for attribute in ("images", "targets", "weights"):
        first, other, again = (getattr(x, attribute) for x in whole)
        np.testing.assert_array_equal(first, again)
        for workers in (2, 4):
            shares = [stream(i, workers).batch(3) for i in range(workers)]
            parts = [getattr(x, attribute) for x in shares]
            np.testing.assert_array_equal(np.concatenate(parts), first)
    assert not np.array_equal(whole[0].images, whole[1].images)
    assert not np.array_equal(whole[0].images, stream(0, 1, seed=1).batch(3).images)


@pytest.mark.parametrize("name", MIXING)
def test_a_share_that_is_not_whole_pairs(name):
    before = batch(8).replace(rows=slice(3, 11), global_size=16)
    with pytest.raises(ValueError, match="rows 3 to 11 of 16"):
        MIXING[name](before)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_blends_images_and_targets_alike(alpha):
    before = batch(1024, 4)
    after = mixup(alpha)(before)
    assert after.images.dtype == after.targets.dtype == np.float32
    shares = after.targets.astype("float64")
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    row, column = np.nonzero(shares)
    np.testing.assert_array_equal(row // 2, column // 2)
    np.testing.assert_allclose(
        after.images,
        np.tensordot(shares, before.images.astype("float64"), 1),
        atol=1e-3,
    )
    own = shares.diagonal()
    assert own.mean() == pytest.approx(0.5, abs=0.05)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_mixup_is_that_of_keras():
    before = batch(16, 4)
    after = mixup(1.0)(before)
    layer = keras.layers.MixUp(dtype="float32")
    transformation = {
        "mix_weight": keras.ops.array(after.targets.diagonal().copy()),
        "permutation_order": keras.ops.array(np.arange(16) ^ 1),
    }
    images = layer.transform_images(keras.ops.array(before.images), transformation)
    np.testing.assert_allclose(after.images, np.asarray(images), atol=1e-3)


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    before = batch(256, 12)
    after = cutmix()(before)
    assert after.images.dtype == np.uint8
    rows = np.arange(256)
    partners = rows + 1 - 2 * (rows % 2)
    pasted = (after.images != before.images).any(-1)
    # A pixel of the partner that happens to be equal is not seen as pasted.
    equal = (before.images == before.images[partners]).all(-1)
    for row, partner in enumerate(partners):
        y, x = np.nonzero(pasted[row])
        box = np.zeros((12, 12), bool)
        if len(y):
            box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        assert (pasted[row] | equal[row])[box].all()
        expected = np.where(box[..., None], before.images[partner], before.images[row])
        np.testing.assert_array_equal(after.images[row], expected)
        share = box.mean()
        assert after.targets[row, partner] == pytest.approx(share, abs=1e-6)
        assert after.targets[row, row] == pytest.approx(1 - share, abs=1e-6)
    assert pasted.mean((1, 2)).std() > 0.1


def test_cutmix_of_few_images():
    before = batch(1024, 8)
    changed = (cutmix(probability=0.25)(before).images != before.images).any((1, 2, 3))
    # Some rectangles are smaller than a pixel.
    assert 0.15 < changed.mean() < 0.28


@pytest.mark.parametrize("name", MIXING)
def test_no_image_of_weight_0_is_trained_on(name):
    weights = np.ones(64, "float32")
    weights[[5, 20, 40]] = 0
    after = MIXING[name](batch(weights=weights))
    assert set(np.unique(after.weights)) == {0, 1}
    assert (after.weights[[5, 20, 40]] == 0).all()
    trained = after.targets[after.weights > 0]
    np.testing.assert_allclose(trained[:, [5, 20, 40]], 0, atol=1e-6)
    assert (after.weights > 0).sum() > 50


def test_random_erasing_fills_one_rectangle_of_some_images_with_noise():
    before = batch(1000, 20)
    before = before.replace(images=np.zeros_like(before.images))
    after = random_erasing(0.3, area=(0.1, 0.3), ratio=0.5)(before)
    assert after.images.dtype == np.uint8
    assert not before.images.any()
    np.testing.assert_array_equal(after.targets, before.targets)
    chosen = after.images.any((1, 2, 3))
    assert 0.25 < chosen.mean() < 0.35
    shares, ratios, noise = [], [], []
    for image in after.images[chosen]:
        y, x = np.nonzero(image.any(-1))
        box = image[y.min() : y.max() + 1, x.min() : x.max() + 1]
        shares.append(box.shape[0] * box.shape[1] / 400)
        ratios.append(box.shape[0] / box.shape[1])
        noise.append(box.ravel())
    # Sides are whole pixels: half a pixel more or less of at least 4.
    assert 0.08 < min(shares) and max(shares) < 0.33
    assert np.mean(shares) == pytest.approx(0.2, abs=0.02)
    assert 0.4 < min(ratios) and max(ratios) < 2.5
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.1)
    noise = np.concatenate(noise)
    assert noise.mean() == pytest.approx(127.5, abs=1)
    assert noise.std() == pytest.approx(256 / 12**0.5, abs=1)


def blended(image, other, factor):
    """What Pillow's ImageEnhance computes, in float64."""
    return np.clip(other + factor * (image.astype("float64") - other), 0, 255)


def gray(image):
    return np.asarray(Image.fromarray(image).convert("L"), "float64")[..., None]


def shifted(image, y, x):
    out = np.zeros_like(image)
    height, width = image.shape[:2]
    out[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)] = image[
        max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)
    ]
    return out


EXPECTED = {
    "identity": lambda image, s: image,
    "solarize": lambda image, s: np.where(
        image >= 255 * (1 - abs(s)), 255 - image, image
    ),
    "posterize": lambda image, s: (
        image // 2 ** round(6 * abs(s)) * 2 ** round(6 * abs(s))
    ),
    "brightness": lambda image, s: blended(image, 0, 1 + 0.99 * s),
    "color": lambda image, s: blended(image, gray(image), 1 + 0.99 * s),
    "contrast": lambda image, s: blended(
        image, np.floor(gray(image).mean() + 0.5), 1 + 0.99 * s
    ),
    "translate_x": lambda image, s: shifted(image, 0, round(32 * s)),
    "translate_y": lambda image, s: shifted(image, round(32 * s), 0),
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("strength", [-1, -0.5, 0, 0.25, 1])
def test_operations_of_trivial_augment(name, strength):
    image = np.random.default_rng(3).integers(0, 256, (40, 40, 3), "uint8")
    out = np.asarray(trivial_operations()[name](Image.fromarray(image), strength))
    expected = np.asarray(EXPECTED[name](image, strength), "float64")
    np.testing.assert_allclose(out, expected, atol=1)


def test_rotation_and_shear():
    image = np.zeros((41, 41, 3), "uint8")
    image[20, 30] = 255
    operations = trivial_operations()

    def place(name, strength):
        out = operations[name](Image.fromarray(image), strength)
        y, x = np.nonzero(np.asarray(out)[..., 0])
        return round(y.mean()), round(x.mean())

    # Pillow turns counter-clockwise, seen with y downwards.
    assert place("rotate", 90 / 135) == (10, 20)
    # Sheared around the upper left corner, from the middle of each pixel.
    assert place("shear_x", 0.25) == (20, round(30 - 0.25 * 0.99 * 20.5))
    assert place("shear_y", 0.25) == (round(20 - 0.25 * 0.99 * 30.5), 30)


def test_trivial_augment_draws_all_operations_alike():
    operations = trivial_operations()
    assert len(operations) == 14
    image = np.random.default_rng(3).integers(40, 200, (8, 8, 3), "uint8")
    before = batch(2800, 8).replace(images=np.repeat(image[None], 2800, 0))
    after = trivial_augment()(before)
    assert after.images.dtype == np.uint8
    stretched = np.asarray(operations["auto_contrast"](Image.fromarray(image), 0))
    share = (after.images == stretched).all((1, 2, 3)).mean()
    assert share == pytest.approx(1 / 14, abs=0.02)
    # The identity, and the other operations at strength 0.
    unchanged = (after.images == image).all((1, 2, 3)).mean()
    assert 1 / 14 - 0.02 < unchanged < 0.25
