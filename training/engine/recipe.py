"""A recipe: everything that decides what a training run computes."""

import ast
import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence

# Fields that `training.train` has an option for.
OPTIONS = ("seed", "epochs", "holdout", "batch_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe file assigns to `recipe`.

    Attributes:
        model: Name of a model function of `elu_zoo`.
        model_arguments: Its arguments, JSON-plain.
        dataset: Name of a data set, see `elu_zoo.datasets`.
        batch_size: Examples a step, over all devices. The last, smaller batch of an
            epoch is left out; each epoch has another order.
        epochs: Passes over the training images.
        optimizer: Called with the learning-rate schedule, returns a Keras optimizer.
            With its `use_ema`, the averaged weights are the ones evaluated and kept.
        learning_rate: Called with the number of steps of the whole run, returns a Keras
            learning-rate schedule.
        initialize: Called with the new model and the training images (of images on
            disk, center crops of 2,000), to change weights before the first step; see
            `training.engine.initialization`. The statistics of the preprocessing are
            those of the same images.
        augmentation: Functions of `training.data.augmentation`, applied in order.
        image_sizes: Side of the training images, by the first epoch that has it, such
            as `{0: 24, 14: 32}`; negative epochs count from the end. A run
            evaluates at the size of the data set, or at the largest of these for images
            on disk; see `training.publish --image-size`.
        label_smoothing: Share of the target spread over all classes.
        dropout: Dropout rates by the share of the run's steps after which they begin,
            such as `{0: rates, 0.5: higher_rates}`, with rates as in the model
            functions' argument `dropout`, which it takes the place of.
        l2: Factor of half the sum of the squared kernels in the loss, the paper's
            weight decay; biases have none.
        clip_norm: Longest gradient over all weights together; longer ones are scaled.
        accumulation: Parts that a global batch is computed in, one after the other, to
            fit the memory. The step is that of the whole batch.
        examples: Images to use for training, and to evaluate on, from all over the
            data set; `None` for all.
        holdout: Number of training images to leave out and validate on. With 0 the run
            trains on all of them and the test set is looked at once, at the end.
        evaluate_every: Epochs between validations.
        seed: Of the initialization, the order and the augmentation.
    """

    model: str
    model_arguments: Mapping
    dataset: str
    batch_size: int
    epochs: int
    optimizer: Callable
    learning_rate: Callable
    initialize: Callable | None = None
    augmentation: Sequence[Callable] = ()
    image_sizes: Mapping = dataclasses.field(default_factory=dict)
    label_smoothing: float = 0.0
    dropout: Mapping = dataclasses.field(default_factory=dict)
    l2: float = 0.0
    clip_norm: float | None = None
    accumulation: int = 1
    examples: int | None = None
    holdout: int = 0
    evaluate_every: int = 1
    seed: int = 0


def counted_from_start(image_sizes, epochs):
    """A recipe's image sizes without epochs that count from the end.

    Args:
        image_sizes: Field of a `Recipe`.
        epochs: Epochs of the run.

    Returns:
        A dict with the epochs in order. A size that a shorter run has no epochs left
        for gives way to those that count from the end.

    Example:

    >>> counted_from_start({0: 24, 4: 32, -2: 48}, epochs=10)
    {0: 24, 4: 32, 8: 48}
    >>> counted_from_start({0: 24, 4: 32, -2: 48}, epochs=5)
    {0: 24, 3: 48}
    """
    ends = {max(0, epochs + k): v for k, v in image_sizes.items() if k < 0}
    last = min(ends, default=epochs)
    begins = {k: v for k, v in image_sizes.items() if 0 <= k < last}
    return dict(sorted((begins | ends).items()))


def phase_at(phases, position):
    """The value that holds at an epoch or step.

    Args:
        phases: Dict of values by the first epoch or step that has them.
        position: Integer, not before the first.

    Returns:
        One of the values.

    Example:

    >>> phase_at({0: 24, 8: 32}, 9)
    32
    """
    return phases[max(first for first in phases if first <= position)]


def dropout_steps(dropout, total):
    """A recipe's dropout rates by the first step that has them.

    Args:
        dropout: Field of a `Recipe`.
        total: Steps of the run.

    Returns:
        A dict with the steps in order.

    Raises:
        ValueError: If the keys are no shares of the run, none is 0, or the run is too
            short for all of them.

    Example:

    >>> dropout_steps({0: 0.1, 0.75: 0.2}, total=200)
    {0: 0.1, 150: 0.2}
    """
    if dropout and (min(dropout) != 0 or max(dropout) >= 1):
        raise ValueError(
            "Expected the dropout of a recipe to have rates from 0 on, and others from "
            f"shares of the run below 1 on. Received: {list(dropout)}"
        )
    steps = {round(share * total): dropout[share] for share in sorted(dropout)}
    if len(steps) < len(dropout) or total in steps:
        raise ValueError(
            f"Expected a run of more steps than {total}, for {len(dropout)} phases of "
            "dropout to have their turn. Give it more epochs."
        )
    return steps


def smoke(recipe, batch_size=None):
    """The recipe in small, to see in seconds that all its parts run.

    Narrow layers and few images; every image size and every phase of the dropout has
    its turn, all else is the recipe's.

    Args:
        recipe: `Recipe`.
        batch_size: Examples a step; default is 8 for each part of `accumulation`.

    Returns:
        Another `Recipe`.
    """
    sizes = list(counted_from_start(recipe.image_sizes, recipe.epochs).values())
    batch_size = batch_size or 8 * recipe.accumulation
    return dataclasses.replace(
        recipe,
        model_arguments={**recipe.model_arguments, "width": 0.03},
        batch_size=batch_size,
        epochs=max(2, len(sizes), len(recipe.dropout)),
        image_sizes=dict(enumerate(sizes)),
        examples=2 * batch_size,
        holdout=0,
    )


def read_code(path):
    """The code of a recipe file, to compare: without its docstring and comments."""
    tree = ast.parse(pathlib.Path(path).read_bytes())
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    return ast.dump(tree)


def load_recipe(path, **changes):
    """Reads a recipe file.

    Args:
        path: Path of a Python file that assigns a `Recipe` to `recipe`.
        **changes: Fields to replace.

    Returns:
        The `Recipe`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no recipe.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        known = sorted((pathlib.Path(__file__).parents[1] / "recipes").glob("*.py"))
        raise FileNotFoundError(
            f"Expected the path of a recipe file. Received: {path}. The recipes here: "
            + ", ".join(f"training/recipes/{p.name}" for p in known)
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise ValueError(f"Expected a recipe, a Python file. Received: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"Expected {path} to assign a `training.engine.recipe.Recipe` to the name "
            f"`recipe`. Received: {recipe!r}"
        )
    return dataclasses.replace(recipe, **changes)
