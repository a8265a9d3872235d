"""The augmentations against the formulas of their papers.

Crops and flips are tested in `test_stream.py`.
"""

import keras
import numpy as np
import pytest
from PIL import Image

from elu_zoo.datasets import Dataset
from training.data.augmentation import (
    keras_layer,
    trivial_augment,
    trivial_operations,
)
from training.data.batch import Batch
from training.data.stream import Stream

MIXING = {
    "mixup": keras_layer(keras.layers.MixUp, alpha=1.0),
    "cutmix": keras_layer(keras.layers.CutMix),
}
ALL = MIXING | {
    "erasing": keras_layer(keras.layers.RandomErasing, factor=(0.5, 0.5)),
    "rand_augment": keras_layer(keras.layers.RandAugment),
    "trivial": trivial_augment(),
}


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


def test_a_share_that_keras_layers_cannot_be_called_on():
    before = batch(8).replace(rows=slice(3, 11), global_size=16)
    with pytest.raises(ValueError, match="rows 3 to 11 of 16"):
        MIXING["mixup"](before)


def test_a_keras_layer_gets_seeds_of_its_own_for_each_of_its_calls():
    before, seeds = batch(16), np.random.default_rng(0).integers(0, 2**31, (16, 1, 2))
    after = keras_layer(keras.layers.RandomErasing, rows=8, factor=(1.0, 1.0))(before)
    layer = keras.layers.RandomErasing(factor=(1.0, 1.0), dtype="float32")
    for start in (0, 8):
        layer.generator.state.assign(seeds[start, 0])
        expected = layer(before.images[start : start + 8], training=True)
        np.testing.assert_array_equal(
            after.images[start : start + 8], np.asarray(expected)
        )
    np.testing.assert_array_equal(after.targets, before.targets)
    assert not np.array_equal(after.images[:8] == 0, after.images[8:] == 0)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_blends_images_and_targets_alike(alpha):
    before = batch(1024, 4)
    after = keras_layer(keras.layers.MixUp, alpha=alpha)(before)
    assert after.images.dtype == after.targets.dtype == np.float32
    shares = after.targets.astype("float64")
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    row, column = np.nonzero(shares)
    np.testing.assert_array_equal(row // 8, column // 8)
    np.testing.assert_allclose(
        after.images,
        np.tensordot(shares, before.images.astype("float64"), 1),
        atol=1e-3,
    )
    # One in eight has itself as its partner.
    own = shares.diagonal()[(shares > 0).sum(-1) == 2]
    assert own.mean() == pytest.approx(0.5, abs=0.05)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    before = batch(64, 32)
    after = MIXING["cutmix"](before)
    pasted = (after.images != before.images).any(-1)
    for row in np.flatnonzero(pasted.any((1, 2))):
        (partner,) = set(np.flatnonzero(after.targets[row])) - {row}
        y, x = np.nonzero(pasted[row])
        box = np.zeros((32, 32, 1), bool)
        box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        expected = np.where(box, before.images[partner], before.images[row])
        np.testing.assert_array_equal(after.images[row], expected)
        # Keras does not round the sides for the targets.
        assert after.targets[row, partner] == pytest.approx(box.mean(), abs=2 / 32)
        assert after.targets[row].sum() == pytest.approx(1, abs=1e-6)
    assert pasted.mean((1, 2)).std() > 0.1


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
