"""How much a run computes, counted from its model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from elu_zoo.models import build_model
from training.data.phases import counted_from_start, phase_at


def multiply_adds(model: keras.Model) -> int:
    """Counts the multiply-adds of convolutions and dense layers for one image.

    Args:
        model: Keras model with a fixed input size.

    Returns:
        The number of multiply-adds of a forward pass.

    Example:

    >>> import elu_zoo
    >>> multiply_adds(elu_zoo.MNISTClassifier())
    216320
    """
    return sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    )


def training_flop(
    settings: Mapping[str, Any], input_shape: Sequence[int], classes: int
) -> int:
    """Counts the floating-point operations of a whole run, without the optimizer's.

    A training step costs three times as much as a forward pass, and a multiply-add is
    two operations.

    Args:
        settings: Settings of a run, as in `run.json`.
        input_shape: `(height, width, channels)` of the images for evaluation.
        classes: Number of classes.

    Returns:
        The number of operations.
    """
    given = {int(first): size for first, size in settings["image_sizes"].items()}
    firsts = {0: input_shape[0]} | counted_from_start(given, settings["epochs"])
    sizes = [phase_at(firsts, epoch) for epoch in range(settings["epochs"])]
    images = settings["train_examples"] // settings["batch_size"]
    images *= settings["batch_size"]
    per_image = {
        size: image_flop(settings, (size, size, input_shape[-1]), classes)
        for size in set(sizes)
    }
    return sum(images * per_image[size] for size in sizes)


def image_flop(
    settings: Mapping[str, Any], input_shape: Sequence[int], classes: int
) -> int:
    """Counts the floating-point operations of a training step for one image.

    Args:
        settings: Settings of a run, as in `run.json`.
        input_shape: `(height, width, channels)` of the image.
        classes: Number of classes.

    Returns:
        The number of operations.
    """
    size, _, channels = input_shape
    return 6 * multiply_adds(_model(settings, size, channels, classes))


def _model(
    settings: Mapping[str, Any], size: int, channels: int, classes: int
) -> keras.Model:
    given = {"classes": classes, "input_shape": (size, size, channels)}
    return build_model(settings["model"], given | settings["model_arguments"])
