"""The augmentations against the formulas of their papers.

Crops and flips are tested in `test_stream.py`.
"""

import keras
import numpy as np
import pytest

from elu_zoo.datasets import Dataset
from training.data.augmentation import (
    ROWS,
    Context,
    augment_on_host,
    cutmix,
    cutout,
    draw_all,
    keras_layer,
    mixup,
    random_crop,
    random_erasing,
    random_flip,
)
from training.data.stream import Stream
from training.engine.descriptions import describe

ALL = {
    "mixup": mixup(1.0, probability=0.8),
    "cutmix": cutmix(probability=0.8),
    "cutout": cutout(),
    "erasing": random_erasing(0.5),
    "keras": keras_layer(keras.layers.MixUp, alpha=1.0),
    "rand_augment": keras_layer(keras.layers.RandAugment),
}


def made_up(count=64, size=12):
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (count, size, size, 3), "uint8")


def augmented(augmentation, images, weights=None, seed=0):
    """Images, targets and weights after; the targets tell the images apart."""
    count, size = images.shape[:2]
    context = Context(0, np.arange(count), images.shape[1:], size)
    draws = draw_all([augmentation], np.random.default_rng(seed), count, context)
    weights = np.ones(count, "float32") if weights is None else weights
    targets = np.eye(count, dtype="float32")
    return augment_on_host([augmentation], images, targets, weights, draws, size)


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


@pytest.mark.parametrize("name", ["keras", "mixup"])
def test_a_share_that_is_not_whole_groups(name):
    with pytest.raises(ValueError, match="the 8 rows .* Received: 12 rows"):
        augmented(ALL[name], made_up(12))


def test_a_keras_layer_gets_seeds_of_its_own_for_each_of_its_calls():
    before, seeds = made_up(16), np.random.default_rng(0).integers(0, 2**31, (16, 1, 2))
    erase = keras_layer(keras.layers.RandomErasing, rows=8, factor=(1.0, 1.0))
    after, targets, _ = augmented(erase, before)
    layer = keras.layers.RandomErasing(factor=(1.0, 1.0), dtype="float32")
    for start in (0, 8):
        layer.generator.state.assign(seeds[start, 0])
        expected = layer(before[start : start + 8], training=True)
        np.testing.assert_array_equal(after[start : start + 8], np.asarray(expected))
    np.testing.assert_array_equal(targets, np.eye(16))
    assert not np.array_equal(after[:8] == 0, after[8:] == 0)


def test_the_description_of_a_keras_layer_has_its_arguments_and_not_what_it_made():
    def erase(factor):
        return keras_layer(keras.layers.RandomErasing, factor=factor)

    before = describe([erase((1.0, 1.0))])
    assert before != describe([erase((0.5, 1.0))]) and "RandomErasing" in str(before)
    used = erase((1.0, 1.0))
    augmented(used, made_up(8))
    assert describe([used]) == before
    for depth in range(10):
        describe([used], depth)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize(
    "augmentation, spread",
    [(mixup, 1.0), (lambda alpha: keras_layer(keras.layers.MixUp, alpha=alpha), 0.875)],
    ids=["own", "keras"],
)
def test_mixup_blends_images_and_targets_alike(augmentation, spread, alpha):
    before = made_up(1024, 4)
    images, targets, _ = augmented(augmentation(alpha), before)
    assert images.dtype == targets.dtype == np.float32
    shares = targets.astype("float64")
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    row, column = np.nonzero(shares)
    np.testing.assert_array_equal(row // 8, column // 8)
    np.testing.assert_allclose(
        images, np.tensordot(shares, before.astype("float64"), 1), atol=1e-3
    )
    # Of Keras's, one in eight has itself as its partner.
    mixed = (shares > 0).sum(-1) == 2
    assert mixed.mean() == pytest.approx(spread, abs=0.05)
    own = shares.diagonal()[mixed]
    assert own.mean() == pytest.approx(0.5, abs=0.05)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def box_of(changed):
    """The smallest rectangle around the pixels that changed."""
    y, x = np.nonzero(changed)
    box = np.zeros(changed.shape, bool)
    box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    return box


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    before = made_up(512, 32)
    images, targets, _ = augmented(cutmix(1.0, probability=0.9), before)
    assert images.dtype == np.uint8
    pasted = (images != before).any(-1)
    for row in np.flatnonzero(pasted.any((1, 2))):
        box, group = box_of(pasted[row]), row // ROWS * ROWS
        partner = group + (row + 1) % ROWS
        expected = np.where(box[..., None], before[partner], before[row])
        np.testing.assert_array_equal(images[row], expected)
        assert targets[row, partner] == pytest.approx(box.mean(), abs=1e-6)
        assert targets[row].sum() == pytest.approx(1, abs=1e-6)
    assert pasted.any((1, 2)).mean() == pytest.approx(0.9, abs=0.05)
    # 1 - lambda is uniform; what is beyond the border is cut off.
    assert 0.2 < pasted.mean() < 0.45 and pasted.mean((1, 2)).std() > 0.1


def test_cutout_blanks_a_square_around_any_pixel():
    before = np.full((4000, 8, 8, 3), 200, "uint8")
    images, targets, _ = augmented(cutout(0.5, fill=7), before)
    blank = (images == 7).all(-1)
    assert ((images == 7) | (images == 200)).all()
    np.testing.assert_array_equal(targets, np.eye(4000))
    # A square of 4 pixels, from 2 before its middle on.
    share = [sum(abs(y - m + 0.5) < 2 for m in range(8)) / 8 for y in range(8)]
    expected = np.outer(share, share)
    np.testing.assert_allclose(blank.mean(0), expected, atol=0.04)
    for row in range(20):
        np.testing.assert_array_equal(blank[row], box_of(blank[row]))


def test_random_erasing_has_the_shares_asked_for():
    before = np.full((2000, 64, 64, 1), 200, "uint8")
    erase = random_erasing(0.25, area=(0.02, 0.1), ratio=(0.5, 2.0))
    blank = (augmented(erase, before)[0] == 0).all(-1)
    chosen = blank.any((1, 2))
    assert chosen.mean() == pytest.approx(0.25, abs=0.04)
    assert blank.mean((1, 2)).max() < 0.105
    for row in np.flatnonzero(chosen)[:50]:
        np.testing.assert_array_equal(blank[row], box_of(blank[row]))
    inside = ~(blank[:, [0, -1]].any((1, 2)) | blank[:, :, [0, -1]].any((1, 2)))
    heights, widths = blank.any(2).sum(1), blank.any(1).sum(1)
    ratios = heights[chosen & inside] / widths[chosen & inside]
    assert 0.45 < ratios.min() < 0.65 and 1.55 < ratios.max() < 2.2


@pytest.mark.parametrize("name", ["mixup", "cutmix", "keras"])
def test_no_image_of_weight_0_is_trained_on(name):
    weights = np.ones(64, "float32")
    weights[[5, 20, 40]] = 0
    _, targets, after = augmented(ALL[name], made_up(), weights)
    assert set(np.unique(after)) == {0, 1}
    assert (after[[5, 20, 40]] == 0).all()
    np.testing.assert_allclose(targets[after > 0][:, [5, 20, 40]], 0, atol=1e-6)
    assert (after > 0).sum() > 50


def test_a_padding_that_does_not_exist():
    with pytest.raises(ValueError, match="'reflect'.* Received: mode='wrap'"):
        random_crop(4, "wrap")


def test_what_is_named_before_an_augmentation_of_the_host_runs_there():
    images = made_up(32)
    dataset = Dataset(images, np.arange(32) % 5, tuple("abcde"))
    layers = [random_crop(2), keras_layer(keras.layers.RandomErasing), random_flip()]
    stream = Stream(dataset, 16, layers)
    assert stream.on_host == tuple(layers[:2]) and stream.on_device == (layers[2],)
    drawn, whole = stream.drawn(1), stream.batch(1)
    flip = drawn.draws[0]["flip"]
    assert 0 < flip.sum() < 16
    expected = np.where(
        flip[:, None, None, None], drawn.images[:, :, ::-1], drawn.images
    )
    np.testing.assert_array_equal(whole.images, expected)
