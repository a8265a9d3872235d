"""Crops of images of any size: which window to take and how to resize it.

Each crop is an augmentation of images in memory, and tells `training.data.encoded` the
window of a JPEG file to decode. Windows are whole pixels of the original image.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from elu_zoo.errors import UserError

TRIES = 10


class Crop:
    """An augmentation, see `training.data.augmentation`.

    Attributes:
        draws: Number of random values that a window depends on.
    """

    on_host = False

    def draw(self, rng, count, context):
        """The windows of a global batch."""
        self.check(context.image_size)
        draws = rng.random((count, self.draws)).T
        sides = (np.full(count, float(side)) for side in context.shape[:2])
        windows = self.windows(draws, *sides, float(context.image_size))
        return {"windows": np.stack(windows, -1).astype("float32")}

    def apply(self, images, labels, draws, size):
        """The windows of the images, resized to `size`."""
        return resize(images, draws["windows"], size), labels

    def crop_shape(self, context):
        """Shape of the crops."""
        return (context.image_size, context.image_size, context.shape[-1])

    def check(self, size):
        """Raises a ValueError if the crop cannot be as large as `size`."""


@dataclasses.dataclass(frozen=True)
class ResizedRandomCrop(Crop):
    """A random window of the image resized to a square (paper, ImageNet: 256 to 224).

    Attributes:
        resize: Side in pixels of the square, at least that of the crop.

    >>> draws, sides = np.array([[1.0], [0.0]]), (np.array([512]), np.array([1024]))
    >>> np.ravel(ResizedRandomCrop(256).windows(draws, *sides, 192))
    array([128.,   0., 384., 768.])
    """

    resize: int = 256

    draws = 2

    def check(self, size):
        _check_resize(self, size)

    def windows(self, draws, height, width, size, xp=np):
        """The windows of images.

        Args:
            draws: Array of shape `(self.draws, images)`, uniform from 0 to 1.
            height: Heights of the images in pixels, of shape `(images,)`. All arguments
                are floats of one dtype.
            width: Their widths.
            size: Side in pixels that the windows will be resized to.
            xp: `numpy`, or `tensorflow.experimental.numpy` for tensors.

        Returns:
            `(top, left, height, width)`, each of shape `(images,)`, whole numbers as
            floats.
        """
        room = self.resize - size
        place = xp.minimum(xp.floor(draws * (room + 1)), room)
        down, across = height / self.resize, width / self.resize
        return _scaled(place[0], place[1], size, down, across, xp)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Crop):
    """A window of random area, aspect ratio and place (Szegedy et al., 2015).

    Attributes:
        area: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height, uniform in its logarithm.
    """

    area: tuple = (0.08, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)

    draws = 2 * TRIES + 2

    def windows(self, draws, height, width, size, xp=np):
        """See `ResizedRandomCrop.windows`.

        It is the first of ten tries that fits into the image; if none does, the largest
        window of an allowed aspect ratio, in the middle.
        """
        smallest, largest = self.area
        areas = (smallest + (largest - smallest) * draws[:TRIES]) * height * width
        low, high = (math.log(ratio) for ratio in self.ratio)
        ratios = xp.exp(low + (high - low) * draws[TRIES : 2 * TRIES])
        heights = xp.floor(xp.sqrt(areas / ratios) + 0.5)
        widths = xp.floor(xp.sqrt(areas * ratios) + 0.5)
        fit = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
        first = xp.argmax(fit, axis=0)[None]
        fit, h, w = (xp.take_along_axis(x, first, 0)[0] for x in (fit, heights, widths))
        tallest = xp.minimum(height, xp.floor(width / self.ratio[0] + 0.5))
        widest = xp.minimum(width, xp.floor(height * self.ratio[1] + 0.5))
        h, w = xp.where(fit, h, tallest), xp.where(fit, w, widest)
        place = xp.where(fit, draws[2 * TRIES :], 0.5 + 0 * draws[:2])
        top = xp.minimum(xp.floor(place[0] * (height - h + 1)), height - h)
        left = xp.minimum(xp.floor(place[1] * (width - w + 1)), width - w)
        return top, left, h, w


@dataclasses.dataclass(frozen=True)
class CenterCrop(Crop):
    """The middle of the resized image, for evaluation.

    Attributes:
        resize: Side in pixels that the image is resized to.
        keep_ratio: Whether `resize` is the shorter side and the other one follows; else
            the image becomes a square, as in the paper.

    >>> crop = CenterCrop(256, keep_ratio=True)
    >>> np.ravel(crop.windows(None, np.array([512]), np.array([1024]), 224))
    array([ 32., 288., 448., 448.])
    """

    resize: int = 256
    keep_ratio: bool = False

    draws = 0

    def check(self, size):
        _check_resize(self, size)

    def preprocessing(self, size):
        """The same as arguments of `elu_zoo.images.resize`, for a weights record."""
        return {
            "resize": self.resize,
            "crop": size,
            "interpolation": "bilinear",
            "mode": "crop" if self.keep_ratio else "squash",
        }

    def windows(self, draws, height, width, size, xp=np):
        """See `ResizedRandomCrop.windows`."""
        down, across = height / self.resize, width / self.resize
        if self.keep_ratio:
            down = across = xp.minimum(down, across)
        top = (height / down - size) / 2
        left = (width / across - size) / 2
        return _scaled(top, left, size, down, across, xp)


def evaluation_crop(size):
    """The paper's center crop, of the same share of the image at any size.

    Args:
        size: Side of the crop in pixels.

    Returns:
        A `CenterCrop`.

    >>> evaluation_crop(224)
    CenterCrop(resize=256, keep_ratio=False)
    """
    return CenterCrop(round(size * 256 / 224))


def resize(images, windows, size):
    """Windows of images, resized as by Pillow: bilinear and antialiased.

    It differs from `elu_zoo.images.resize`, which resizes one image on the host, in
    that it runs inside the compiled step, and in that its values are whole numbers.

    Args:
        images: Tensor of shape `(images, height, width, channels)`, uint8.
        windows: float32 tensor of shape `(images, 4)`: `(top, left, height, width)`.
        size: Side of the results in pixels.

    Returns:
        A uint8 tensor of shape `(images, size, size, channels)`.
    """
    top, left, tall, wide = (windows[:, i] for i in range(4))
    x = ops.cast(ops.transpose(images, (0, 2, 1, 3)), "float32")
    x = _resample(x, left, wide, size)  # Pillow rounds in between too.
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.cast(_resample(x, top, tall, size), "uint8")


def _resample(x, start, length, size):
    """Averages of axis 1, whole numbers, with the weights of a triangle."""
    scale = (length / size)[:, None, None]
    width = ops.maximum(scale, 1.0)
    centers = start[:, None, None] + scale * (_range(size)[None, :, None] + 0.5)
    distances = ops.absolute(_range(x.shape[1]) + 0.5 - centers) / width
    weights = ops.maximum(1.0 - distances, 0.0)
    weights = weights / ops.sum(weights, -1, keepdims=True)
    rows = ops.matmul(weights, ops.reshape(x, (*x.shape[:2], -1)))
    return ops.reshape(ops.floor(rows + 0.5), (x.shape[0], size, *x.shape[2:]))


def _range(count):
    return ops.arange(count, dtype="float32")


def _scaled(top, left, size, down, across, xp):
    """Squares of the resized images as windows of the originals."""
    first_row, first_column = xp.floor(top * down + 0.5), xp.floor(left * across + 0.5)
    height = xp.floor((top + size) * down + 0.5) - first_row
    width = xp.floor((left + size) * across + 0.5) - first_column
    return first_row, first_column, xp.maximum(height, 1), xp.maximum(width, 1)


def _check_resize(crop, size):
    if size > crop.resize:
        raise UserError(
            f"Expected an image size of at most the {crop.resize} pixels that {crop} "
            f"resizes to. Received: {size}. Give the crop a larger `resize`."
        )
