"""Angles between the ordinary and the unit natural gradient, in figure 2's network.

Section 3 of the paper: mean activations near zero bring the ordinary gradient closer to
the unit natural gradient. The paper does not measure it. Here the networks of figure 2
are trained for ten epochs, with and without batch normalization, and the angle between
both gradients is taken over a fixed subset of the training images, for every eighth
unit of each hidden layer but the first. Figure and table have the median over these
units, without those whose gradient is zero.
"""

import pathlib
from typing import Any

import keras
import numpy as np

import elu_zoo
from elu_zoo.diagnostics import unit_natural_gradient
from training.figures import drawing
from training.paper import plots
from training.paper.experiment import Experiment
from training.paper.figure2 import ACTIVATIONS, BATCH_SIZE, LEARNING_RATE, load
from training.paper.units import NORMALIZED, UNITS

VARIANTS = (*ACTIVATIONS, *(f"{unit}{NORMALIZED}" for unit in ACTIVATIONS))
EPOCHS, QUICK_EPOCHS = (0, 1, 2, 5, 10), (0, 1)
LAYERS = range(2, 9)
SUBSET, EVERY = 512, 8


def network(variant: str) -> keras.Model:
    """Builds the classifier.

    Args:
        variant: One of `VARIANTS`.

    Returns:
        A model that gives probabilities.
    """
    return elu_zoo.MNISTClassifier(
        activation=variant.removesuffix(NORMALIZED),
        batch_normalization=variant.endswith(NORMALIZED),
        kernel_initializer="he_normal",
    )


def run(
    data_dir: pathlib.Path,
    folder: pathlib.Path,
    variant: str,
    seeds: list[int],
    quick: bool,
) -> list[dict[str, Any]]:
    """Trains the networks of a variant, one seed after the other.

    Args:
        data_dir: Folder of the data sets.
        folder: Not used; a run takes a minute.
        variant: One of `VARIANTS`.
        seeds: Seeds of the initialization and the order.
        quick: Whether to train on a tenth of the images, for one epoch.

    Returns:
        A dict per seed, epoch and hidden layer: `seed`, `epoch`, `layer`, `angle` (the
        median over units, in degrees), `units` (the number that have a gradient) and
        `test_error`.
    """
    train, test = load(data_dir, quick)
    rows, milestones = [], QUICK_EPOCHS if quick else EPOCHS
    for seed in seeds:
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        model = network(variant)
        model.compile(
            keras.optimizers.SGD(LEARNING_RATE),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        for before, epoch in zip((0, *milestones), milestones, strict=False):
            model.fit(
                *(np.asarray(train.images), train.labels),
                batch_size=BATCH_SIZE,
                initial_epoch=before,
                epochs=epoch,
                verbose=0,
            )
            answers = model.predict(test.images, batch_size=500, verbose=0).argmax(-1)
            error = float(np.mean(answers != test.labels))
            for layer in LAYERS[:1] if quick else LAYERS:
                rows.append(
                    {"seed": seed, "epoch": epoch, "layer": layer}
                    | _angle(model, layer, train[:SUBSET])
                    | {"test_error": error}
                )
    return rows


def _angle(model: keras.Model, layer: int, data: Any) -> dict[str, Any]:
    name = f"stack1_dense{layer}"
    both = unit_natural_gradient(
        model,
        name,
        np.asarray(data.images),
        data.labels,
        units=range(0, model.get_layer(name).units, EVERY),
        batch_size=SUBSET,
    )
    angles = both.angle[np.isfinite(both.angle)]
    return {"angle": float(np.median(angles)), "units": len(angles)}


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the figure: the angle by epoch, and by layer at the end.

    Args:
        rows: Rows of the CSV.
        path: SVG file to write.
    """
    last = max(int(row["epoch"]) for row in rows)
    at_the_end = [row for row in rows if int(row["epoch"]) == last]
    means = _over_layers(rows)
    with drawing(path, 2) as (by_epoch, by_layer):
        for variant in VARIANTS:
            unit = UNITS[variant.removesuffix(NORMALIZED)]
            style = "--" if variant.endswith(NORMALIZED) else "-"
            for axis, some, x in (
                (by_epoch, means, "epoch"),
                (by_layer, at_the_end, "layer"),
            ):
                plots.band(axis, some, variant, unit, x, "angle", style)
        by_epoch.set_xlabel("epoch")
        by_epoch.set_ylabel("mean angle in degrees")
        by_layer.set_ylabel("angle in degrees")
        # Room for the legend.
        by_epoch.set_ylim(bottom=by_epoch.get_ylim()[0] - 2)
        by_layer.set_xlabel(f"hidden layer, after epoch {last}")
        by_epoch.legend(title="dashed: batch normalization", fontsize="small", ncols=3)


def _over_layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over layers, by variant, seed and epoch."""
    angles: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        key = (row["variant"], row["seed"], row["epoch"])
        angles.setdefault(key, []).append(float(row["angle"]))
    return [
        dict(zip(("variant", "seed", "epoch"), key, strict=True), angle=np.mean(values))
        for key, values in angles.items()
    ]


experiment = Experiment("angles", VARIANTS, run, draw)
