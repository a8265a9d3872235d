"""Initializations that look at the training images."""

import keras
import numpy as np

from training.engine.steps import resize


def whitening_stem(image_size=None, scale=0.3, epsilon=5e-4, images=5000):
    """Lets the first convolution start by whitening its patches.

    Its first filters become the principal components of the patches of training
    images, each divided by its standard deviation, and the negatives of them (Jordan,
    2024, "94% on CIFAR-10 in 3.29 seconds", after Page, 2019); the filters beyond keep
    their random values. All of them are trained as before.

    Args:
        image_size: Side in pixels to resize to first; that of the data set by default.
        scale: Standard deviation of the whitened responses.
        epsilon: Added to the variances.
        images: Number of training images to look at.

    Returns:
        A function of a model and its training images, a `Recipe`'s `initialize`.
    """

    def initialize(model, training_images):
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


def _whitening_filters(images, window, epsilon):
    windows = np.lib.stride_tricks.sliding_window_view(images, window, axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)
    shape = windows.shape[3:]
    covariance, count = 0.0, 0
    for patches in np.array_split(windows, max(1, len(windows) // 250)):
        patches = patches.reshape(-1, np.prod(shape)).astype("float64")
        covariance = covariance + patches.T @ patches
        count += len(patches)
    variances, components = np.linalg.eigh(covariance / count)
    # The most important first, in case there is no room for all.
    filters = (components / np.sqrt(variances + epsilon))[:, ::-1]
    return filters.reshape(*shape, -1)
