"""Figure 2: mean activations and training loss of a deep network on MNIST.

Section 4.1 of the paper: He initialization, SGD, learning rate 0.01, batches of 64, 300
epochs, five runs. After each epoch, the mean activation of each hidden unit is taken
over a fixed subset of the training images; the figure shows the median over all units.
The appendix has the variance of the activations.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

import elu_zoo
from elu_zoo import datasets
from training.figures import INK, drawing
from training.paper import plots
from training.paper.ensemble import checkpoint_path, train_together
from training.paper.experiment import Experiment
from training.paper.units import UNITS

ACTIVATIONS = ("elu", "leaky_relu", "relu")
EPOCHS, QUICK_EPOCHS = 300, 2
LEARNING_RATE, BATCH_SIZE = 0.01, 64
SUBSET = 1000


def network(activation: str) -> keras.Model:
    """Builds the classifier.

    Args:
        activation: One of `ACTIVATIONS`.

    Returns:
        A model whose outputs are the activations of each hidden layer and the logits.
    """
    model = elu_zoo.MNISTClassifier(
        activation=activation,
        kernel_initializer="he_normal",
        classifier_activation=None,
    )
    hidden = [layer.output for layer in model.layers if "_activation" in layer.name]
    return keras.Model(model.input, [*hidden, model.output])


def cross_entropy(outputs: Any, images: Any, labels: Any) -> Any:
    """Computes the mean cross-entropy.

    Args:
        outputs: Outputs of `network`; the last are the logits.
        images: Not used.
        labels: Integer tensor of shape `(n,)`.

    Returns:
        A scalar.
    """
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, outputs[-1], from_logits=True
    )
    return ops.mean(losses)


def load(
    data_dir: pathlib.Path, quick: bool
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Loads MNIST.

    Args:
        data_dir: Folder of the data sets.
        quick: Whether to take a tenth of the images.

    Returns:
        The training and the test images with their labels.
    """
    train = datasets.load("mnist", "train", data_dir)
    test = datasets.load("mnist", "test", data_dir)
    return (train[:6000], test[:1000]) if quick else (train, test)


def train_classifiers(
    build: Callable[[], keras.Model],
    metrics: Callable[..., dict[str, Any]],
    train: datasets.Dataset,
    **how: Any,
) -> list[dict[str, Any]]:
    """Trains classifiers as in section 4.1 of the paper.

    Args:
        build: Returns a network whose last output is the logits.
        metrics: As for `train_together`.
        train: Training images and labels.
        **how: Further arguments of `train_together`: `seeds`, `epochs`, `checkpoint`.

    Returns:
        The rows of `train_together`.
    """
    return train_together(
        *(build, cross_entropy, metrics, train.images, train.labels),
        learning_rate=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        **how,
    )


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
        quick: Whether to train on a tenth of the images, for two epochs.

    Returns:
        The rows of `train_together`.
    """
    train, test = load(data_dir, quick)
    subset = np.asarray(train.images[:SUBSET])

    def metrics(forward: Callable[..., Any], values: Any) -> dict[str, Any]:
        *hidden, _ = forward(values, subset)
        hidden = ops.concatenate(hidden, -1)
        answers = ops.argmax(forward(values, test.images)[-1], -1)
        return {
            "test_error": ops.mean(ops.cast(answers != test.labels, "float32")),
            "mean_activation": ops.median(ops.mean(hidden, 0)),
            "activation_variance": ops.median(ops.var(hidden, 0)),
        }

    return train_classifiers(
        *(lambda: network(activation), metrics, train),
        seeds=seeds,
        epochs=QUICK_EPOCHS if quick else EPOCHS,
        checkpoint=checkpoint_path(folder, activation, seeds, quick),
    )


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the figure.

    Args:
        rows: Rows of the CSV.
        path: SVG file to write.
    """
    panels = {
        "mean_activation": "median of the units' means",
        "train_loss": "training cross-entropy",
        "activation_variance": "median of the units' variances",
        "test_error": "test error",
    }
    with drawing(path, len(panels), columns=2) as axes:
        for axis, (field, label) in zip(axes, panels.items(), strict=True):
            for activation in ACTIVATIONS:
                unit = UNITS[activation]
                plots.band(axis, rows, activation, unit, "epoch", field)
            axis.set_xlabel("epoch")
            axis.set_ylabel(label)
            # Most of the training happens in the first tenth of the epochs.
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes[0].axhline(0, color=INK, linewidth=0.8)
        axes[1].set_yscale("log")
        # Untrained networks err nine times out of ten.
        axes[3].set_ylim(0, 0.1)
        axes[0].legend()


experiment = Experiment("figure2", ACTIVATIONS, run, draw, together=True)
