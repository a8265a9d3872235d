"""Figure 3: reconstruction error of the MNIST autoencoder at four learning rates.

Section 4.1 of the paper: encoder 1000-500-250-30, mirrored decoder, SGD, batches of 64,
500 epochs, fixed learning rates 1e-2, 1e-3, 1e-4 and 1e-5. The paper states neither the
loss nor the initialization. Here the loss is half of the squared error, summed over the
pixels of an image, as in Caffe's Euclidean loss: in short trials it was the one by
which all four units learn at all four rates. The initialization is He's, as in the
paper's other networks. All sixteen runs of a seed have the same number of epochs, and
take 0.16 PFLOP.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

import elu_zoo
from elu_zoo import datasets
from training.figures import drawing
from training.paper import plots
from training.paper.ensemble import checkpoint_path, train_together
from training.paper.experiment import Experiment
from training.paper.units import UNITS

RATES = ("1e-2", "1e-3", "1e-4", "1e-5")
VARIANTS = tuple(f"{unit} {rate}" for rate in RATES for unit in UNITS)
EPOCHS, QUICK_EPOCHS = 10, 2
BATCH_SIZE = 64
SUBSET = 10_000
"""Training images to measure the error on, as many as there are test images."""


def squared_error(outputs: Any, images: Any) -> Any:
    """Computes the squared error, summed over pixels, the mean over images.

    Args:
        outputs: Reconstructions, of shape `(n, pixels)`.
        images: uint8 images, of shape `(n, height, width, 1)`.

    Returns:
        A scalar.
    """
    pixels = ops.reshape(ops.cast(images, "float32") / 255, outputs.shape)
    return ops.mean(ops.sum(ops.square(outputs - pixels), -1))


def network(activation: str) -> keras.Model:
    """Builds the autoencoder.

    Args:
        activation: Activation of its hidden layers.

    Returns:
        The model.
    """
    return elu_zoo.MNISTAutoencoder(
        activation=activation, kernel_initializer="he_normal"
    )


def run(
    data_dir: pathlib.Path,
    folder: pathlib.Path,
    variant: str,
    seeds: list[int],
    quick: bool,
) -> list[dict[str, Any]]:
    """Trains the autoencoders of one unit at one learning rate.

    Args:
        data_dir: Folder of the data sets.
        folder: Folder of the checkpoints.
        variant: One of `VARIANTS`.
        seeds: Seeds to train at once.
        quick: Whether to train on a fiftieth of the images, for two epochs.

    Returns:
        The rows of `training.paper.ensemble.train_together`, with `train_error` (of
        the first `SUBSET` training images) and `test_error`.
    """
    activation, rate = variant.split()
    train = datasets.load("mnist", "train", data_dir)
    test = datasets.load("mnist", "test", data_dir)
    if quick:
        train, test = train[:1200], test[:500]

    def loss(outputs: Any, images: Any, _: Any) -> Any:
        return squared_error(outputs, images) / 2

    def metrics(forward: Callable[..., Any], values: Any) -> dict[str, Any]:
        measured = {"train": train.images[:SUBSET], "test": test.images}
        return {
            f"{split}_error": squared_error(forward(values, images), images)
            for split, images in measured.items()
        }

    return train_together(
        lambda: network(activation),
        loss,
        metrics,
        train.images,
        train.labels,
        seeds=seeds,
        epochs=QUICK_EPOCHS if quick else EPOCHS,
        learning_rate=float(rate),
        batch_size=BATCH_SIZE,
        checkpoint=checkpoint_path(folder, variant, seeds, quick),
        checkpoint_every=1,
    )


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the figure: one panel per learning rate.

    Args:
        rows: Rows of the CSV.
        path: SVG file to write.
    """
    from matplotlib.ticker import LogFormatter

    with drawing(path, len(RATES), columns=2) as axes:
        for axis, rate in zip(axes, RATES, strict=True):
            for activation, unit in UNITS.items():
                variant = f"{activation} {rate}"
                for field, style in (("test_error", "-"), ("train_error", "--")):
                    plots.band(axis, rows, variant, unit, "epoch", field, style)
            axis.set_title(f"learning rate {rate}")
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter())
        for axis in axes[::2]:  # Those at the left.
            axis.set_ylabel("squared error per image")
        axes[0].legend(title="dashed: training")


experiment = Experiment("figure3", VARIANTS, run, draw, together=True)
