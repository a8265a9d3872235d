"""Initializations that depend on the training images."""

from collections.abc import Callable

import keras
import numpy as np

from training.engine.steps import resize


def whitening_stem(
    image_size: int | None = None,
    scale: float = 0.3,
    epsilon: float = 5e-4,
    images: int = 5000,
) -> Callable[[keras.Model, np.ndarray], None]:
    """Initializes the first convolution so that it whitens patches.

    Its first filters become the principal components of patches of training images,
    each divided by its standard deviation, and their negatives (Jordan, 2024, "94% on
    CIFAR-10 in 3.29 seconds", after Page, 2019); the remaining filters keep their
    random values. All filters are trained.

    Args:
        image_size: Side in pixels to resize the images to first; default that of the
            data set.
        scale: Standard deviation of the whitened responses.
        epsilon: Added to the variances.
        images: Number of training images to look at.

    Returns:
        A function of a model and its training images, for a recipe's `initialize`.
    """

    def initialize(model: keras.Model, training_images: np.ndarray) -> None:
        convolution = next(
            layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)
        )
        before = keras.Model(model.input, convolution.input)
        chosen = resize(training_images[:images], image_size)
        inputs = keras.ops.convert_to_numpy(before(chosen))
        kernel = keras.ops.convert_to_numpy(convolution.kernel).copy()
        filters = _whitening_filters(inputs, kernel.shape[:2], epsilon)
        filters = scale * np.concatenate([filters, -filters], axis=-1)
        count = min(filters.shape[-1], kernel.shape[-1])
        kernel[..., :count] = filters[..., :count]
        convolution.kernel.assign(kernel)

    return initialize


def _whitening_filters(
    images: np.ndarray, window: tuple[int, int], epsilon: float
) -> np.ndarray:
    shape = (*window, images.shape[-1])
    windows = np.lib.stride_tricks.sliding_window_view(images, (1, *shape))
    covariance, count = 0.0, 0
    for patches in np.array_split(windows, max(1, len(windows) // 250)):
        patches = patches.reshape(-1, np.prod(shape)).astype("float64")
        covariance = covariance + patches.T @ patches
        count += len(patches)
    variances, components = np.linalg.eigh(covariance / count)
    # The most important first, in case there are more than filters.
    filters = (components / np.sqrt(variances + epsilon))[:, ::-1]
    return filters.reshape(*shape, -1)
