"""A recipe: everything that determines what a training run computes."""

import dataclasses
import inspect
import json
import pathlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elu_zoo.errors import UserError
from elu_zoo.models import get_model_function
from training.data.phases import counted_from_start
from training.engine.distillation import Teacher

# Fields that `training.train` has an option for.
OPTIONS = ("seed", "epochs", "holdout", "batch_size")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_mapping_of_sizes(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(epoch, int) for epoch in value)
        and all(map(_is_count, value.values()))
    )


_COUNT = ("an integer of 1 or more", _is_count)
_COUNT_OR_0 = ("an integer of 0 or more", lambda x: _is_count(x) or x == 0)
_FUNCTION = ("a function", callable)
# What each field must be. `dropout_steps` checks the phases of the dropout.
_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "batch_size": _COUNT,
    "epochs": _COUNT,
    "optimizer": _FUNCTION,
    "learning_rate": _FUNCTION,
    "initialize": ("a function or None", lambda x: x is None or callable(x)),
    "initial_weights": (
        "a path below the checkout, or None",
        lambda x: x is None or isinstance(x, str),
    ),
    "augmentation": (
        "augmentations of training.data.augmentation",
        lambda x: all(hasattr(one, "on_host") for one in x),
    ),
    "image_sizes": ("sides in pixels by epoch", _is_mapping_of_sizes),
    "teacher": (
        "a training.engine.distillation.Teacher or None",
        lambda x: x is None or isinstance(x, Teacher),
    ),
    "label_smoothing": (
        "from 0 to below 1",
        lambda x: _is_number(x) and 0 <= x < 1,
    ),
    "l2": ("0 or more", lambda x: _is_number(x) and x >= 0),
    "clip_norm": (
        "a number above 0, or None",
        lambda x: x is None or (_is_number(x) and x > 0),
    ),
    "accumulation": _COUNT,
    "examples": ("a count or None", lambda x: x is None or _is_count(x)),
    "holdout": _COUNT_OR_0,
    "evaluate_every": _COUNT,
    "seed": _COUNT_OR_0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe file assigns to `recipe`.

    Attributes:
        model: Name of a model function of `elu_zoo`.
        model_arguments: Arguments of the model function, JSON-plain.
        dataset: Name of a data set of `training.data.sources.CATALOGUE`.
        batch_size: Number of examples per step, over all devices. The last, smaller
            batch of an epoch is left out; each epoch has a different order.
        epochs: Number of passes over the training images.
        optimizer: Called with the learning-rate schedule, returns a Keras optimizer.
            With its `use_ema`, the averaged weights are evaluated and kept.
        learning_rate: Called with the number of steps of the whole run, returns a Keras
            learning-rate schedule.
        initialize: Called with the new model and the training images (2,000 center
            crops of images on disk) to change weights before the first step; see
            `training.engine.initialization`. The statistics of the preprocessing are
            computed from the same images.
        initial_weights: Path of a weights file to start from, relative to the
            checkout. It holds the weights of all layers of the model.
        augmentation: Augmentations of `training.data.augmentation`, in order.
        image_sizes: Side of the training images in pixels, by the first epoch that has
            it, such as `{0: 24, 14: 32}`; negative epochs count from the end. A run
            evaluates at the size of the data set, or at the largest of these sizes for
            images on disk; see `training.publish --image-size`.
        label_smoothing: Share of the target that is spread over all classes.
        teacher: A published network whose answers become part of the targets, for data
            sets in memory.
        dropout: Dropout rates by the share of the run's steps after which they begin,
            such as `{0: rates, 0.5: higher_rates}`. They replace the model functions'
            argument `dropout`, and each is written like it.
        l2: Factor of half the sum of the squared kernels in the loss, the paper's
            weight decay (section 4.2); biases have none.
        clip_norm: Largest norm of the gradient over all weights; longer gradients are
            scaled down to it.
        accumulation: Number of parts in which a global batch is computed, one after the
            other, to fit into memory. The step is that of the whole batch.
        examples: Number of images to train on and to evaluate on, spread over the data
            set; `None` for all.
        holdout: Number of training images to leave out and validate on. With 0 the run
            trains on all of them and evaluates on the test set once, at the end.
        evaluate_every: Number of epochs between validations.
        seed: Seed of the initialization, the order and the augmentation.

    Raises:
        UserError: If a field has an invalid value.
    """

    model: str
    model_arguments: Mapping[str, Any]
    dataset: str
    batch_size: int
    epochs: int
    optimizer: Callable[..., Any]
    learning_rate: Callable[[int], Any]
    initialize: Callable[..., Any] | None = None
    initial_weights: str | None = None
    augmentation: Sequence[Any] = ()
    image_sizes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    label_smoothing: float = 0.0
    teacher: Teacher | None = None
    dropout: Mapping[float, Any] = dataclasses.field(default_factory=dict)
    l2: float = 0.0
    clip_norm: float | None = None
    accumulation: int = 1
    examples: int | None = None
    holdout: int = 0
    evaluate_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (expected, is_right) in _CHECKS.items():
            value = getattr(self, name)
            if not is_right(value):
                raise UserError(
                    f"Expected {name} to be {expected}. Received: {name}={value!r}"
                )
        _check_model(self.model, self.model_arguments)


def _check_model(model: str, arguments: Mapping[str, Any]) -> None:
    """Checks that the model function exists and takes the arguments."""
    try:
        inspect.signature(get_model_function(model)).bind_partial(**arguments)
        json.dumps(dict(arguments))
    except (TypeError, ValueError) as error:
        raise UserError(
            "Expected a model function and arguments that it takes, with JSON-plain "
            f"values. Received: model={model!r}, model_arguments={arguments!r}: "
            f"{error}"
        ) from error


def dropout_steps(dropout: Mapping[float, Any], total: int) -> dict[int, Any]:
    """Converts the phases of a recipe's dropout from shares of the run to steps.

    Args:
        dropout: Dropout rates by share of the run, as in a recipe.
        total: Number of steps of the run.

    Returns:
        Dropout rates by the first step that has them, in order.

    Raises:
        UserError: If a key is not a share of the run, none is 0, or the run is too
            short for all phases.

    Example:

    >>> dropout_steps({0: 0.1, 0.75: 0.2}, total=200)
    {0: 0.1, 150: 0.2}
    """
    if dropout and (min(dropout) != 0 or max(dropout) >= 1):
        raise UserError(
            "Expected the keys of a recipe's dropout to be 0 and further shares of the "
            f"run below 1. Received: {list(dropout)}"
        )
    steps = {round(share * total): dropout[share] for share in sorted(dropout)}
    if len(steps) < len(dropout) or total in steps:
        raise UserError(
            f"Expected a run with a step for each of the {len(dropout)} phases of "
            f"dropout. Received: {total} steps. Give it more epochs."
        )
    return steps


def smoke(recipe: Recipe, batch_size: int | None = None) -> Recipe:
    """Shrinks a recipe, to try all its parts in seconds.

    Layers are narrow, their weights new, and images few; every image size and every
    phase of the dropout has its turn. Everything else is unchanged.

    Args:
        recipe: The recipe.
        batch_size: Number of examples per step; default 8 for each part of
            `accumulation`.

    Returns:
        The small recipe.
    """
    sizes = list(counted_from_start(recipe.image_sizes, recipe.epochs).values())
    batch_size = batch_size or 8 * recipe.accumulation
    return dataclasses.replace(
        recipe,
        model_arguments={**recipe.model_arguments, "width": 0.03},
        initial_weights=None,
        batch_size=batch_size,
        epochs=max(2, len(sizes), len(recipe.dropout)),
        image_sizes=dict(enumerate(sizes)),
        examples=2 * batch_size,
        holdout=0,
    )


def load_recipe(path: str | pathlib.Path, **changes: Any) -> Recipe:
    """Reads a recipe file.

    Args:
        path: Path of a Python file that assigns a `Recipe` to `recipe`.
        **changes: Fields to replace.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file fails when it is run, the message names the line; or if
            it assigns no recipe.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        known = sorted((pathlib.Path(__file__).parents[1] / "recipes").glob("*.py"))
        raise FileNotFoundError(
            f"Expected the path of a recipe file. Received: {path}. The recipes here: "
            + ", ".join(f"training/recipes/{p.name}" for p in known)
        )
    recipe = _run(path).get("recipe")
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"Expected {path} to assign a `training.engine.recipe.Recipe` to the name "
            f"`recipe`. Received: {recipe!r}"
        )
    return dataclasses.replace(recipe, **changes)


def _run(path: pathlib.Path) -> dict[str, Any]:
    """The names that a recipe file assigns."""
    try:
        code = compile(path.read_bytes(), str(path), "exec")
        names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
        exec(code, names)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else 1)
        raise UserError(
            f"Expected {path} to be a recipe. Received: in line {line}, "
            f"{type(error).__name__}: {error}"
        ) from error
    return names
