"""What a run minimizes and the error that its log shows, by the network's purpose."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from elu_zoo.architectures import reconstructs


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective of a network.

    Attributes:
        losses: Called with the outputs before their activation, the images that the
            network was given, the targets and the label smoothing; returns the loss of
            each example.
        errors: Called with the same arguments except the label smoothing; returns the
            error of each example.
        error_format: Format of a mean error.
        curves: Quantities of the log to draw.
    """

    losses: Callable[[Any, Any, Any, float], Any]
    errors: Callable[[Any, Any, Any], Any]
    error_format: str
    curves: tuple[str, ...]


def objective_of(model: str) -> Objective:
    """Returns the objective that a network is trained for.

    Args:
        model: Name of the model function.

    Returns:
        An `Objective`.

    Example:

    >>> objective_of("ELUNet11").error_format.format(0.25)
    '25.00%'
    """
    return RECONSTRUCTION if reconstructs(model) else CLASSIFICATION


def _cross_entropies(
    logits: Any, images: Any, targets: Any, label_smoothing: float
) -> Any:
    return keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=label_smoothing, reduction=None
    )(targets, logits)


def _misses(logits: Any, images: Any, targets: Any) -> Any:
    wrong = ops.argmax(logits, -1) != ops.argmax(targets, -1)
    return ops.cast(wrong, "float32")


def _squared_errors(
    logits: Any, images: Any, targets: Any, label_smoothing: float = 0.0
) -> Any:
    """Summed over the pixels of an image; see `elu_zoo.evaluation`."""
    pixels = ops.reshape(ops.cast(images, "float32") / 255, ops.shape(logits))
    return ops.sum(ops.square(ops.sigmoid(logits) - pixels), -1)


CLASSIFICATION = Objective(_cross_entropies, _misses, "{:.2%}", ("loss", "error"))
RECONSTRUCTION = Objective(_squared_errors, _squared_errors, "{:.3f}", ("loss",))
