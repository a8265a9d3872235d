"""How much a run computes, from its model."""

import math

import keras

from elu_zoo.models import build_model
from training.data.phases import counted_from_start, phase_at


def multiply_adds(model):
    """Multiply-adds of convolutions and fully-connected layers for one image.

    Args:
        model: Built Keras model of images of one size.

    Returns:
        An integer.

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


def training_flop(settings, input_shape, classes):
    """Floating-point operations of a whole run, without those of the optimizer.

    A step costs an image three times its forward pass, which costs two operations a
    multiply-add.

    Args:
        settings: Settings of a run, see `run.json`.
        input_shape: `(height, width, channels)` of the images for evaluation.
        classes: Number of classes.

    Returns:
        An integer.
    """
    sizes = {int(first): size for first, size in settings["image_sizes"].items()}
    firsts = {0: input_shape[0]} | counted_from_start(sizes, settings["epochs"])
    sizes = [phase_at(firsts, epoch) for epoch in range(settings["epochs"])]
    images = settings["train_examples"] // settings["batch_size"]
    images *= settings["batch_size"]
    per_image = {
        size: image_flop(settings, (size, size, input_shape[-1]), classes)
        for size in set(sizes)
    }
    return sum(images * per_image[size] for size in sizes)


def image_flop(settings, input_shape, classes):
    """Floating-point operations of a training step for one image.

    Args:
        settings: Settings of a run, see `run.json`.
        input_shape: `(height, width, channels)` of the image.
        classes: Number of classes.

    Returns:
        An integer.
    """
    size, _, channels = input_shape
    return 6 * multiply_adds(_model(settings, size, channels, classes))


def _model(settings, size, channels, classes):
    given = {"classes": classes, "input_shape": (size, size, channels)}
    return build_model(settings["model"], given | settings["model_arguments"])
