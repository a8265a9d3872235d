"""Experiments whose runs are recipes of `training/recipes`, shortened."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from elu_zoo.architectures import ARCHITECTURES, Stack, find_architecture
from training.benchmarks.measuring import ROOT, in_a_process
from training.figures import drawing
from training.paper import plots
from training.paper.experiment import Experiment
from training.paper.units import Unit

HELD_OUT = 5000
"""Training images to measure the error on. The test set is for published weights."""

LECUN = ("elu", "selu")
"""Units that LeCun's initialization suits, which the zoo uses in hidden layers."""


class Variant(NamedTuple):
    """One of the networks that an experiment compares.

    Attributes:
        unit: Its unit, for label and color.
        arguments: Arguments of the model function that replace the recipe's.
        style: Style of its curves.
        model: Model function that replaces the recipe's.
        stacks: Stacks that replace the model's in `elu_zoo.architectures`.
        gain: Factor on the variance of the hidden layers' initial weights.
    """

    unit: Unit
    arguments: Mapping[str, Any]
    style: str = "-"
    model: str | None = None
    stacks: tuple[Stack, ...] | None = None
    gain: float = 1.0


def suited(unit: Unit) -> Variant:
    """Makes a variant whose initialization suits its unit.

    Args:
        unit: The unit.

    Returns:
        The variant. Its hidden layers start from the zoo's initialization, LeCun's, if
        the unit is one of `LECUN`, otherwise from He's, which has twice the variance.
        The output layer is the same for all.
    """
    gain = 1.0 if unit.activation in LECUN else 2.0
    return Variant(unit, {"activation": unit.activation}, gain=gain)


def normalized(variant: Variant) -> Variant:
    """Adds batch normalization to a variant; its curves are dashed.

    Args:
        variant: The variant without it.

    Returns:
        The variant with it.
    """
    arguments = {**variant.arguments, "batch_normalization": True}
    return variant._replace(arguments=arguments, style="--")


def compare(
    name: str,
    recipe: str,
    variants: Mapping[str, Variant],
    *,
    log_every: int = 50,
    **changes: Any,
) -> Experiment:
    """Makes an experiment that trains variants of a recipe's network.

    All variants with the same seed see the same batches.

    Args:
        name: Name of the experiment.
        recipe: Name of a file of `training/recipes`, without its ending.
        variants: The variants by name.
        log_every: Number of steps between rows.
        **changes: Fields of the recipe to replace.

    Returns:
        The experiment. Its rows have `seed`, `step`, `epoch`, `train_loss` and, where
        it was measured, `error` on `HELD_OUT` training images.
    """

    def run(
        data_dir: pathlib.Path,
        folder: pathlib.Path,
        variant: str,
        seeds: list[int],
        quick: bool,
    ) -> list[dict[str, Any]]:
        rows = []
        for seed in seeds:
            out = folder / f"{variant.replace(' ', '_')}-{seed}{'-quick' * quick}"
            settings = {**changes, "seed": seed, "holdout": HELD_OUT}
            rows += in_a_process(
                *(train_recipe, recipe, data_dir, out, settings, variants[variant]),
                *(log_every, quick),
            )
        return rows

    return Experiment(
        name, tuple(variants), run, functools.partial(draw_curves, variants)
    )


def train_recipe(
    name: str,
    data_dir: pathlib.Path,
    out: pathlib.Path,
    settings: Mapping[str, Any],
    variant: Variant,
    log_every: int,
    quick: bool,
) -> list[dict[str, Any]]:
    """Trains a recipe, or resumes its run, in a process of its own.

    Args:
        name: Name of a file of `training/recipes`, without its ending.
        data_dir: Folder of the data sets.
        out: Folder of the run.
        settings: Fields of the recipe to replace, with `seed`.
        variant: The variant of the recipe's network.
        log_every: Number of steps between rows.
        quick: Whether to train a narrow network on a few images of one size.

    Returns:
        The rows that `compare` describes.
    """
    from training.engine import device  # Sets the environment before Keras is loaded.

    del device
    from training.engine import runlog
    from training.engine.loop import train
    from training.engine.recipe import load_recipe, smoke

    path = ROOT / "training/recipes" / f"{name}.py"
    recipe = load_recipe(path, **settings)
    recipe = dataclasses.replace(
        recipe,
        model=variant.model or recipe.model,
        model_arguments={**recipe.model_arguments, **variant.arguments},
    )
    if variant.stacks:
        replace_stacks(recipe.model, variant.stacks)
    if variant.gain != 1:
        start = functools.partial(scale_hidden, variant.gain, recipe.initialize)
        recipe = dataclasses.replace(recipe, initialize=start)
    if quick:
        first = dict(list(recipe.image_sizes.items())[:1])
        recipe = smoke(dataclasses.replace(recipe, image_sizes=first))
    train(path, recipe, data_dir, out, log_every=log_every, progress=False)
    return [
        {
            "seed": recipe.seed,
            "step": row["step"],
            "epoch": row["epoch"],
            "train_loss": row["train_loss"],
            "error": row["eval_error"],
        }
        for row in runlog.read(out / "log.csv")
    ]


def scale_hidden(
    gain: float, initialize: Callable[..., Any] | None, model: Any, images: Any
) -> None:
    """Scales the variance of the hidden layers' weights, then initializes the model.

    Args:
        gain: Factor on the variance.
        initialize: The recipe's `initialize`.
        model: The new model.
        images: Training images, for `initialize`.
    """
    from elu_zoo.heads import HEAD

    for layer in model.layers:
        if hasattr(layer, "kernel") and layer.name != HEAD:
            layer.kernel.assign(layer.kernel * gain**0.5)
    if initialize:
        initialize(model, images)


def replace_stacks(model: str, stacks: tuple[Stack, ...]) -> None:
    """Replaces the stacks of a network for the rest of the process.

    Args:
        model: Name of the model function.
        stacks: The new stacks.
    """
    found = find_architecture(model)
    assert found, model  # A recipe has a model function.
    name, architecture = found
    ARCHITECTURES[name] = dataclasses.replace(architecture, stacks=stacks)


def labelled(variants: Mapping[str, Variant]) -> dict[str, Unit]:
    """Labels the variants where there is no legend to explain their style.

    Args:
        variants: The variants by name.

    Returns:
        Their units; the labels of those with batch normalization say so.
    """
    return {
        name: dataclasses.replace(unit, label=f"{unit.label}, normalized")
        if style != "-"
        else unit
        for name, (unit, _, style, *_) in variants.items()
    }


def draw_curves(
    variants: Mapping[str, Variant], rows: list[dict[str, Any]], path: pathlib.Path
) -> None:
    """Draws the training loss by step, and the held-out error.

    The error is drawn by epoch, or by unit if it was measured only at the end. Variants
    without rows are left out.

    Args:
        variants: The variants by name.
        rows: Rows of the CSV.
        path: SVG file to write.
    """
    low, high = plots.loss_range(rows)
    run = {row["variant"] for row in rows}
    variants = {name: each for name, each in variants.items() if name in run}
    measured = {row["epoch"] for row in rows if row["error"] != ""}
    with drawing(path, 2) as (loss, error):
        for name, (unit, _, style, *_) in variants.items():
            plots.band(loss, rows, name, unit, "step", "train_loss", style)
            plots.crosses(loss, rows, name, unit, "step", "train_loss", high)
            if len(measured) > 1:
                plots.band(error, rows, name, unit, "epoch", "error", style)
        loss.set_xlabel("step")
        loss.set_ylabel("training loss")
        loss.set_ylim(low, high)
        dashed = any(variant.style != "-" for variant in variants.values())
        loss.legend(title="dashed: batch normalization" if dashed else None)
        if len(measured) > 1:
            error.set_xlabel("epoch")
            error.set_ylabel("error on held-out images")
        else:
            plots.dots(error, rows, labelled(variants), "error")
            error.set_xlabel("held-out error at the end")
