"""Each field of a recipe that changes the step, against its formula."""

import keras
import numpy as np
import pytest

from elu_zoo.datasets import Dataset
from training.data.memory import MemoryDataset
from training.data.stream import Stream
from training.engine.model import build_model, layered_dropout, set_dropout
from training.engine.recipe import Recipe
from training.engine.steps import Steps
from training.engine.strategy import make_placement

RATE = 0.1


def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 16, 16, 3), dtype="uint8")
    return Dataset(images, np.arange(24) % 4, tuple("abcd"))


class Run:
    """A recipe's model, its steps, and its kernels before and after."""

    def __init__(self, optimizer=None, model="ELUNet11", **fields):
        keras.utils.set_random_seed(0)
        fields = {"model_arguments": {"width": 0.03}} | fields
        self.recipe = Recipe(
            model=model,
            dataset="made-up",
            batch_size=8,
            epochs=1,
            optimizer=optimizer or keras.optimizers.SGD,
            learning_rate=lambda steps: RATE,
            **fields,
        )
        placement = make_placement("none")
        self.model = build_model(self.recipe, 4, (16, 16, 3))
        self.optimizer = self.recipe.optimizer(RATE)
        self.optimizer.build(self.model.trainable_variables)
        self.steps = Steps(self.model, self.optimizer, self.recipe, placement, False)
        self.stream = Stream(dataset(), 8)

    @property
    def weights(self):
        return [np.asarray(v, "float64") for v in self.model.trainable_variables]

    def assign(self, weights):
        for variable, value in zip(
            self.model.trainable_variables, weights, strict=True
        ):
            variable.assign(value)

    def step(self, number=0, **changes):
        """The weights before and after a step."""
        before = self.weights
        batch = self.stream.batch(number).replace(**changes)
        self.total = np.asarray(self.steps.train([batch])[0])
        self.steps.sync()
        return before, self.weights


def test_an_autoencoder_is_trained_on_the_squared_error_of_its_images():
    run = Run(model="MNISTAutoencoder")
    batch = run.stream.batch(0)
    logits = np.asarray(run.model(batch.images), "float64")
    pixels = batch.images.reshape(8, -1) / 255
    outputs = 1 / (1 + np.exp(-logits))
    before, after = run.step()
    expected = np.square(outputs - pixels).sum()
    np.testing.assert_allclose(run.total, [expected, expected, 8], rtol=1e-5)
    # The output layer's bias has the gradient of the mean over the images.
    slopes = 2 * (outputs - pixels) * outputs * (1 - outputs)
    np.testing.assert_allclose(
        (after[-1] - before[-1]) / -RATE, slopes.mean(0), atol=1e-5
    )


def update(**fields):
    before, after = Run(**fields).step()
    return [(a - b) / -RATE for b, a in zip(before, after, strict=True)]


def test_the_step_is_the_gradient_of_the_mean_loss():
    run = Run(label_smoothing=0.2)
    batch = run.stream.batch(0)
    logits = np.asarray(run.model(batch.images), "float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = batch.targets * 0.8 + 0.2 / 4
    run.step()
    np.testing.assert_allclose(run.total[0], -(targets * log_p).sum(), rtol=1e-5)
    assert run.total[2] == 8
    # The output layer's bias has the gradient mean(p - y).
    gradient = (np.exp(log_p) - targets).mean(0)
    np.testing.assert_allclose(update(label_smoothing=0.2)[-1], gradient, atol=1e-6)


@pytest.mark.parametrize("resident", [False, True])
def test_the_step_uses_the_targets_of_the_data(resident):
    """Its loss is the cross-entropy with them, and its errors are those by them."""
    run, data = Run(), dataset()
    targets = np.random.default_rng(1).dirichlet(np.ones(4), 24).astype("float32")
    data = MemoryDataset(data.images, data.labels, data.class_names, targets)
    stream, placement = Stream(data, 8), make_placement("none")
    batch = stream.drawn(0) if resident else stream.batch(0)
    kept = stream.resident if resident else None
    steps = Steps(run.model, run.optimizer, run.recipe, placement, False, (), kept)
    logits = np.asarray(run.model(data.images[batch.indices]), "float64")
    total = np.asarray(steps.train([batch])[0])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = targets[batch.indices]
    wrong = logits.argmax(-1) != chosen.argmax(-1)
    expected = [-(chosen * log_p).sum(), wrong.sum(), 8]
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_l2_adds_the_kernels_to_the_gradient():
    before = Run().weights
    for kernel, plain, decayed in zip(before, update(), update(l2=0.05), strict=True):
        expected = plain + (0.05 * kernel if kernel.ndim > 1 else 0.0)
        np.testing.assert_allclose(decayed, expected, atol=2e-6)


def test_clipping_scales_the_gradient_to_the_norm():
    plain = update()
    norm = np.sqrt(sum((g**2).sum() for g in plain))
    for clip_norm in (norm / 3, norm * 3):
        factor = min(1.0, clip_norm / norm)
        clipped = update(clip_norm=float(clip_norm))
        for g, c in zip(plain, clipped, strict=True):
            np.testing.assert_allclose(c, factor * g, atol=2e-6)


@pytest.mark.parametrize("extra", [{}, {"l2": 0.05, "clip_norm": 0.1}])
def test_accumulation_gives_the_step_of_the_whole_batch(extra):
    accumulated = update(accumulation=4, **extra)
    for whole, parts in zip(update(**extra), accumulated, strict=True):
        np.testing.assert_allclose(parts, whole, atol=2e-6)


def test_images_of_weight_zero_do_not_count():
    run = Run()
    batch = run.stream.batch(0)
    weights = np.array([1, 1, 0, 1, 1, 1, 0, 1], "float32")
    images = batch.images.copy()
    images[weights == 0] = 0
    one, other = Run(), Run()
    _, masked = one.step(weights=weights)
    _, blank = other.step(weights=weights, images=images)
    assert one.total[2] == 6
    for a, b in zip(masked, blank, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_the_average_follows_its_formula():
    run = Run(lambda rate: keras.optimizers.SGD(rate, use_ema=True, ema_momentum=0.7))
    average = None
    for step in range(3):
        _, after = run.step(step)
        average = (
            after
            if average is None
            else [0.7 * a + 0.3 * w for a, w in zip(average, after, strict=True)]
        )
    run.optimizer.finalize_variable_values(run.model.trainable_variables)
    for value, expected in zip(run.weights, average, strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6)


def test_dropout_changes_during_training():
    per_stack = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    every_layer = [[0.0], [0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4], [0.5]]
    run = Run(dropout={0: per_stack, 0.5: every_layer})
    rates = {
        layer.name: layer
        for layer in run.model.layers
        if isinstance(layer, keras.layers.Dropout)
    }
    assert len(rates) == 9
    set_dropout(run.model, layered_dropout(run.recipe, per_stack))
    assert rates["stack3_dropout1"].rate == 0 and rates["stack3_dropout2"].rate == 0.2
    without = [[0.0] * len(stack) for stack in every_layer]
    set_dropout(run.model, without)
    other = Run()
    other.assign(run.weights)
    _, plain = other.step()
    before, after = run.step()
    for a, expected in zip(after, plain, strict=True):
        np.testing.assert_allclose(a, expected, atol=2e-7)
    run.assign(before)
    set_dropout(run.model, layered_dropout(run.recipe, every_layer))
    assert rates["stack3_dropout1"].rate == 0.2
    _, after = run.step()
    assert np.abs(after[0] - plain[0]).max() > 1e-5
