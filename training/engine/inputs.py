"""The images of a recipe: what it trains on, what it evaluates on, and its batches."""

import pathlib
from typing import Any, TypeVar

import numpy as np

from elu_zoo.errors import UserError
from training.data import sources
from training.data.phases import counted_from_start
from training.data.protocol import Examples
from training.data.stream import Stream
from training.engine.recipe import Recipe
from training.engine.strategy import Placement

Split = TypeVar("Split", bound=Examples)


def load_data(
    recipe: Recipe, data_dir: str | pathlib.Path
) -> tuple[Examples, Examples]:
    """Opens the data set of a recipe.

    Args:
        recipe: The recipe.
        data_dir: Folder of the data sets.

    Returns:
        The examples to train on and those to evaluate on: the test set, or the recipe's
        held-out training images.

    Raises:
        UserError: If the splits differ in their classes or the size of their images.
        FileNotFoundError: If the files are missing.
    """
    train_set = sources.load(recipe.dataset, "train", data_dir)
    if recipe.holdout:
        train_set, eval_set = split_holdout(train_set, recipe.holdout)
    else:
        names = train_set.class_names
        eval_set = sources.load(recipe.dataset, "test", data_dir, names)
    _check_shapes(recipe, train_set, eval_set)
    if recipe.examples:
        train_set = _some(train_set, recipe.examples)
        eval_set = _some(eval_set, recipe.examples)
    return train_set, eval_set


def split_holdout(dataset: Split, count: int) -> tuple[Split, Split]:
    """Splits off the same `count` examples in every run, whatever its seed.

    Args:
        dataset: The training split.
        count: Number of examples to hold out.

    Returns:
        The other examples and those held out.
    """
    order = np.random.default_rng(20160210).permutation(len(dataset))
    return dataset[np.sort(order[count:])], dataset[np.sort(order[:count])]


def make_stream(
    dataset: Examples, recipe: Recipe, placement: Placement, **options: Any
) -> Stream:
    """Makes the training batches of this worker.

    Args:
        dataset: The examples to train on.
        recipe: The recipe.
        placement: The worker's part in the run.
        **options: `on_corrupt`, `decoder` and `service` of `Examples.stream`.

    Returns:
        The batches.

    Raises:
        UserError: If the recipe does not fit the data set.
    """
    return dataset.stream(
        recipe.batch_size,
        recipe.augmentation,
        counted_from_start(recipe.image_sizes, recipe.epochs),
        recipe.seed,
        placement.worker,
        placement.workers,
        **options,
    )


def image_shape(dataset: Examples, recipe: Recipe) -> tuple[int, int, int]:
    """Returns the shape of the images that a run evaluates on.

    Args:
        dataset: The examples to train on.
        recipe: The recipe; its largest image size is that of images on disk, which have
            none in common.

    Returns:
        `(height, width, channels)`.
    """
    side, _, channels = dataset.shape
    side = side or max(recipe.image_sizes.values())
    return side, side, channels


def _check_shapes(recipe: Recipe, train_set: Examples, eval_set: Examples) -> None:
    (height, width, _), other = train_set.shape, eval_set.shape
    if train_set.shape != other or height != width:
        raise UserError(
            "Expected square images of the same size in both splits of "
            f"{recipe.dataset}. Received: images of shape {train_set.shape} to train "
            f"on and {other} to evaluate on"
        )


def _some(dataset: Split, count: int) -> Split:
    """Chooses examples spread evenly: data sets can be sorted by class."""
    count = min(count, len(dataset))
    return dataset[np.linspace(0, len(dataset) - 1, count).astype(int)]
