import keras
import numpy as np
import pytest

from elu_zoo.datasets import Dataset
from training.data.augmentation import (
    alternating_flip,
    keras_layer,
    random_crop,
    random_flip,
)
from training.data.stream import Stream


def stream(seed=0, augmentation=(), **kwargs):
    images = np.arange(100, dtype="uint8")[:, None, None, None] * np.ones(
        (1, 4, 4, 3), "uint8"
    )
    dataset = Dataset(images, np.arange(100) % 5, tuple("abcde"))
    return Stream(dataset, 8, augmentation, seed=seed, **kwargs)


def augmented(augmentation, images, epoch=0):
    """The images in their order after an augmentation, by the stream's own path."""
    dataset = Dataset(images, np.zeros(len(images), int), ("a", "b"))
    batch = Stream(dataset, len(images), [augmentation]).batch(epoch)
    out = np.empty_like(images)
    out[batch.indices] = batch.images
    return out


def test_a_batch_depends_on_seed_and_step_alone():
    one, other = (stream(augmentation=[random_crop(1)]) for _ in range(2))
    for step in (30, 2, 30, 0):
        (expected,) = other.batches(step, step + 1)
        np.testing.assert_array_equal(one.drawn(step).indices, expected.indices)
        offsets = (x.draws[0]["offsets"] for x in (one.drawn(step), expected))
        np.testing.assert_array_equal(*offsets)
    assert not np.array_equal(one.batch(3).indices, stream(seed=1).batch(3).indices)


def test_batches_from_any_step_are_the_same_batches():
    s = stream()
    whole = [b.indices for b in s.batches(0, 30)]
    rest = [b.indices for b in s.batches(17, 30)]
    np.testing.assert_array_equal(whole[17:], rest)


def test_an_epoch_shows_each_example_once_with_its_own_label():
    s = stream()
    assert s.steps_per_epoch == 12
    first = [s.batch(step) for step in range(12)]
    seen = np.concatenate([b.indices for b in first])
    assert len(set(seen)) == 96
    for b in first:
        np.testing.assert_array_equal(b.images[:, 0, 0, 0], b.indices)
        np.testing.assert_array_equal(b.targets.argmax(-1), b.indices % 5)
    second = np.concatenate([s.batch(step).indices for step in range(12, 24)])
    assert not np.array_equal(seen, second)


def test_too_few_images():
    with pytest.raises(ValueError, match="Received: 3 images"):
        Stream(Dataset(np.zeros((3, 4, 4, 3), "uint8"), np.zeros(3, int), "ab"), 8)


def test_workers_share_the_batches_of_one():
    augmentation = [random_crop(1), random_flip(), alternating_flip()]
    whole = stream(augmentation=augmentation)
    shares = [stream(augmentation=augmentation, worker=i, workers=4) for i in range(4)]
    for step in (0, 13):
        for name in ("images", "targets", "indices"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(s.batch(step), name) for s in shares]),
                getattr(whole.batch(step), name),
            )
    with pytest.raises(ValueError, match="workers=3"):
        stream(workers=3)


def test_image_sizes_by_epoch():
    s = stream(image_sizes={1: 2, 3: 6})
    assert [s.batch(12 * epoch).image_size for epoch in range(5)] == [4, 2, 2, 6, 6]


def test_only_small_arrays_travel_unless_an_augmentation_needs_the_host():
    draws = [random_crop(1), random_flip(), alternating_flip()]
    small = stream(augmentation=draws)
    batch = small.drawn(3)
    assert batch.images is None and batch.targets is None and len(batch.draws) == 3
    arrays = [
        batch.indices,
        batch.weights,
        *(x for d in batch.draws for x in d.values()),
    ]
    assert sum(x.nbytes for x in arrays) < 40 * len(batch.indices)
    assert small.resident[0] is small.dataset.images
    identity = keras_layer(lambda dtype: keras.layers.RandomFlip(dtype=dtype))
    large = stream(augmentation=[random_crop(1), identity, alternating_flip()])
    assert large.resident is None and len(large.on_device) == 1
    assert large.drawn(3).images.shape == (8, 4, 4, 3)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_random_crop_is_a_window_of_the_padded_image(mode):
    images = np.random.default_rng(1).integers(1, 255, (50, 8, 8, 3), dtype="uint8")
    crops = augmented(random_crop(2, mode), images)
    offsets = set()
    for image, crop in zip(images, crops, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[y : y + 8, x : x + 8], crop)
        ]
        assert found
        offsets.update(found)
    assert len(offsets) > 12


def test_random_flip_mirrors_about_half_and_leaves_its_input():
    images = np.random.default_rng(1).integers(0, 255, (400, 4, 4, 3), dtype="uint8")
    before = images.copy()
    out = augmented(random_flip(), images)
    np.testing.assert_array_equal(images, before)
    flipped = [np.array_equal(o, i[:, ::-1]) for o, i in zip(out, images, strict=True)]
    kept = [np.array_equal(o, i) for o, i in zip(out, images, strict=True)]
    assert all(f or k for f, k in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_alternating_flip_shows_both_sides_in_two_epochs():
    images = np.random.default_rng(1).integers(0, 255, (400, 4, 4, 3), dtype="uint8")
    flipped = []
    for epoch in range(3):
        out = augmented(alternating_flip(), images, epoch)
        flipped.append((out != images).any((1, 2, 3)))
    assert 150 < flipped[0].sum() < 250
    np.testing.assert_array_equal(flipped[0], ~flipped[1])
    np.testing.assert_array_equal(flipped[0], flipped[2])
