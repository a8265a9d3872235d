"""Deactivated units under noise: how much of it do they pass on?

The abstract of the paper: leaky and parametric ReLUs have negative values too, but they
"do not ensure a noise-robust deactivation state"; ELUs saturate with smaller inputs
"and thereby decrease the forward propagated variation". The paper does not measure it.
Here the networks of figure 2 are trained for thirty epochs. Noise is added to the net
inputs of all hidden units, in multiples of the standard deviation that each unit's net
input has over the test images. Over the units whose net input is negative without the
noise, the experiment takes the share of the noise's variance that the activation passes
on, and over all units the test error.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

import elu_zoo
from training.figures import drawing
from training.paper import plots
from training.paper.ensemble import checkpoint_path
from training.paper.experiment import Experiment
from training.paper.figure2 import ACTIVATIONS, load, train_classifiers
from training.paper.units import UNITS

EPOCHS, QUICK_EPOCHS = 30, 1
LEVELS = (1.0, 0.5, 0.2, 0.1, 0.0)
"""Standard deviations of the noise, as multiples of that of each unit's net input.

None is last, because the loss is that of the network's last output.
"""
SHOWN = 0.1
"""Level at which the figure shows the share that is passed on."""


class NetInputNoise(keras.layers.Layer):
    """Adds the same noise at each call, scaled by each unit's standard deviation.

    Args:
        level: Standard deviation of the noise, as a multiple of that of the unit.
        seed: Seed of the noise.
    """

    def __init__(self, level: float, seed: int) -> None:
        super().__init__()
        self.level, self.seed = level, seed

    def call(self, inputs: Any) -> Any:
        """Adds the noise.

        Args:
            inputs: Tensor of net inputs, `(n, units)`.

        Returns:
            A tensor of the same shape.
        """
        normal = keras.random.normal(ops.shape(inputs), seed=self.seed)
        return inputs + self.level * ops.std(inputs, 0) * normal


def network(activation: str) -> keras.Model:
    """Builds the classifier, and copies of it with noise that share its weights.

    Args:
        activation: One of `ACTIVATIONS`.

    Returns:
        A model whose outputs are the net inputs of each hidden layer, and the logits
        with each of `LEVELS`.
    """
    model = elu_zoo.MNISTClassifier(
        activation=activation,
        kernel_initializer="he_normal",
        classifier_activation=None,
    )
    hidden = [layer.output for layer in model.layers if "_dense" in layer.name]
    logits = [_with_noise(model, level) for level in LEVELS]
    return keras.Model(model.input, [*hidden, *logits])


def _with_noise(model: keras.Model, level: float) -> Any:
    """The logits with noise in every hidden layer."""
    values, hidden = model.input, 0
    for layer in model.layers[1:]:
        values = layer(values)
        if level and "_dense" in layer.name:
            values = NetInputNoise(level, seed=hidden)(values)
            hidden += 1
    return values


def passed_on(activation: Callable[[Any], Any], inputs: Any, noisy: Any) -> Any:
    """Computes the share of the noise's variance that inactive units pass on.

    Args:
        activation: Maps net inputs to outputs, elementwise.
        inputs: Tensor of net inputs; those below 0 count.
        noisy: The same with noise added.

    Returns:
        A scalar: the mean squared change of the output over that of the input.
    """
    inactive = ops.cast(inputs < 0, inputs.dtype)
    change = activation(noisy) - activation(inputs)
    return ops.sum(inactive * change**2) / ops.sum(inactive * (noisy - inputs) ** 2)


def run(
    data_dir: pathlib.Path,
    folder: pathlib.Path,
    activation: str,
    seeds: list[int],
    quick: bool,
) -> list[dict[str, Any]]:
    """Trains the networks of one unit.

    Args:
        data_dir: Folder of the data sets.
        folder: Folder of the checkpoints.
        activation: One of `ACTIVATIONS`.
        seeds: Seeds to train at once.
        quick: Whether to train on a tenth of the images, for one epoch.

    Returns:
        A dict per seed, epoch and level of noise: `seed`, `epoch`, `noise`,
        `test_error`, `passed_on` (the mean over hidden layers; empty without noise) and
        `inactive`, the share of net inputs below 0 without noise.
    """
    train, test = load(data_dir, quick)
    unit = network(activation).get_layer("stack1_activation1")

    def metrics(forward: Callable[..., Any], values: Any) -> dict[str, Any]:
        outputs = forward(values, test.images)
        hidden, logits = outputs[: -len(LEVELS)], outputs[-len(LEVELS) :]
        measured = {"inactive": ops.mean(ops.cast(ops.stack(hidden) < 0, "float32"))}
        for level, answers in zip(LEVELS, logits, strict=True):
            wrong = ops.argmax(answers, -1) != test.labels
            measured[f"test_error {level}"] = ops.mean(ops.cast(wrong, "float32"))
            if level:
                shares = [
                    passed_on(unit, inputs, NetInputNoise(level, seed)(inputs))
                    for seed, inputs in enumerate(hidden)
                ]
                measured[f"passed_on {level}"] = ops.mean(ops.stack(shares))
        return measured

    rows = train_classifiers(
        *(lambda: network(activation), metrics, train),
        seeds=seeds,
        epochs=QUICK_EPOCHS if quick else EPOCHS,
        checkpoint=checkpoint_path(folder, activation, seeds, quick),
    )
    return [
        {
            "seed": row["seed"],
            "epoch": row["epoch"],
            "noise": level,
            "test_error": row[f"test_error {level}"],
            "passed_on": row.get(f"passed_on {level}", ""),
            "inactive": row["inactive"],
        }
        for row in rows
        for level in LEVELS
    ]


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the figure: the share by epoch, and the test error by noise at the end.

    Args:
        rows: Rows of the CSV.
        path: SVG file to write.
    """
    last = max(int(row["epoch"]) for row in rows)
    little = [row for row in rows if float(row["noise"]) == SHOWN]
    at_the_end = [row for row in rows if int(row["epoch"]) == last]
    with drawing(path, 2) as (share, error):
        for activation in ACTIVATIONS:
            unit = UNITS[activation]
            plots.band(share, little, activation, unit, "epoch", "passed_on")
            plots.band(error, at_the_end, activation, unit, "noise", "test_error")
        share.set_xlabel("epoch")
        share.set_ylabel(f"share passed on, noise {SHOWN}")
        error.set_xlabel(f"noise, after epoch {last}")
        error.set_ylabel("test error")
        share.legend()


experiment = Experiment("saturation", ACTIVATIONS, run, draw, together=True)
