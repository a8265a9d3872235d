"""Crops of images of any size: which window to take and how to resize it.

Each crop is an augmentation of images in memory, and tells `training.data.encoded`
which window of a JPEG file to decode. Windows are whole pixels of the original image.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from keras import ops

from elu_zoo.errors import UserError
from training.data.augmentation import Context

# `(top, left, height, width)` of some windows, each an array or tensor.
Windows = tuple[Any, Any, Any, Any]

# Windows that `RandomResizedCrop` draws before it gives up.
TRIES = 10


class Crop:
    """A crop, an augmentation as in `training.data.augmentation`.

    Attributes:
        draws: Number of random values that a window depends on.
        on_host: As in `Augmentation`.
    """

    draws: ClassVar[int]
    on_host: ClassVar[bool] = False

    def draw(
        self, rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        """Draws the windows of a global batch.

        Args:
            rng: Generator of the step.
            count: Number of examples in the global batch.
            context: Shape of the images and side of the crops.

        Returns:
            `"windows"`: float32 array of shape `(count, 4)`, see `resize`.
        """
        self.check(context.image_size)
        draws = rng.random((count, self.draws)).T
        height, width = (np.full(count, float(side)) for side in context.shape[:2])
        windows = self.windows(draws, height, width, float(context.image_size))
        return {"windows": np.stack(windows, -1).astype("float32")}

    def apply(
        self, images: Any, labels: Any, draws: Mapping[str, Any], size: int
    ) -> tuple[Any, Any]:
        """Resizes the windows of images in memory.

        Args:
            images: uint8 tensor of shape `(rows, height, width, channels)`.
            labels: Targets of the images, returned as they are.
            draws: The rows of the result of `draw` that belong to the images.
            size: Side of the crops in pixels.

        Returns:
            uint8 images of shape `(rows, size, size, channels)` and the labels.
        """
        return resize(images, draws["windows"], size), labels

    def crop_shape(self, context: Context) -> tuple[int, int, int]:
        """Returns `(height, width, channels)` of the crops."""
        return (context.image_size, context.image_size, context.shape[-1])

    def check(self, size: int) -> None:
        """Checks that crops can have a size.

        Args:
            size: Side in pixels.

        Raises:
            UserError: If they cannot be so large.
        """

    def windows(
        self, draws: Any, height: Any, width: Any, size: Any, xp: Any = np
    ) -> Windows:
        """Computes the windows of images.

        Args:
            draws: Array of shape `(self.draws, images)`, uniform from 0 to 1.
            height: Heights of the images in pixels, of shape `(images,)`. All arguments
                are floats of one dtype.
            width: Widths of the images in pixels, of shape `(images,)`.
            size: Side in pixels that the windows will be resized to.
            xp: `numpy`, or `tensorflow.experimental.numpy` for tensors.

        Returns:
            `(top, left, height, width)`, each of shape `(images,)`, whole numbers as
            floats.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ResizedRandomCrop(Crop):
    """A random window of the image resized to a square.

    Section 4.3 of the paper resizes the images of ImageNet to 256×256 pixels and crops
    224×224.

    Attributes:
        resize: Side in pixels of the square, at least that of the crop.

    Example:

    >>> draws, sides = np.array([[1.0], [0.0]]), (np.array([512]), np.array([1024]))
    >>> np.ravel(ResizedRandomCrop(256).windows(draws, *sides, 192))
    array([128.,   0., 384., 768.])
    """

    resize: int = 256

    draws: ClassVar[int] = 2

    def check(self, size: int) -> None:
        """See `Crop.check`."""
        _check_resize(self, size)

    def windows(
        self, draws: Any, height: Any, width: Any, size: Any, xp: Any = np
    ) -> Windows:
        """See `Crop.windows`."""
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

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    draws: ClassVar[int] = 2 * TRIES + 2

    def windows(
        self, draws: Any, height: Any, width: Any, size: Any, xp: Any = np
    ) -> Windows:
        """See `Crop.windows`.

        The window is the first of ten tries that fits into the image; if none does, the
        largest central window of an allowed aspect ratio.
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
    """The center of the resized image, for evaluation.

    Attributes:
        resize: Side in pixels that the image is resized to.
        keep_ratio: Whether `resize` is the length of the shorter side, with the aspect
            ratio kept; by default the image becomes a square, as in the paper.

    Example:

    >>> crop = CenterCrop(256, keep_ratio=True)
    >>> np.ravel(crop.windows(None, np.array([512]), np.array([1024]), 224))
    array([ 32., 288., 448., 448.])
    """

    resize: int = 256
    keep_ratio: bool = False

    draws: ClassVar[int] = 0

    def check(self, size: int) -> None:
        """See `Crop.check`."""
        _check_resize(self, size)

    def preprocessing(self, size: int) -> dict[str, Any]:
        """Describes the crop for the record of weights.

        Args:
            size: Side of the crop in pixels.

        Returns:
            Fields of an `elu_zoo.records.Preprocessing`.
        """
        return {
            "resize": self.resize,
            "crop": size,
            "interpolation": "bilinear",
            "mode": "crop" if self.keep_ratio else "squash",
        }

    def windows(
        self, draws: Any, height: Any, width: Any, size: Any, xp: Any = np
    ) -> Windows:
        """See `Crop.windows`."""
        down, across = height / self.resize, width / self.resize
        if self.keep_ratio:
            down = across = xp.minimum(down, across)
        top = (height / down - size) / 2
        left = (width / across - size) / 2
        return _scaled(top, left, size, down, across, xp)


def evaluation_crop(size: int) -> CenterCrop:
    """Returns the paper's center crop, with the same share of the image at any size.

    Args:
        size: Side of the crop in pixels.

    Returns:
        A `CenterCrop`.

    Example:

    >>> evaluation_crop(224)
    CenterCrop(resize=256, keep_ratio=False)
    """
    return CenterCrop(round(size * 256 / 224))


def resize(images: Any, windows: Any, size: int) -> Any:
    """Resizes windows of images as Pillow does: bilinear and antialiased.

    Unlike `elu_zoo.images.resize`, which resizes one image on the host, it runs inside
    the compiled step and gives whole numbers.

    Args:
        images: uint8 tensor of shape `(images, height, width, channels)`.
        windows: float32 tensor of shape `(images, 4)`: `(top, left, height, width)` in
            pixels.
        size: Side of the results in pixels.

    Returns:
        A uint8 tensor of shape `(images, size, size, channels)`.
    """
    top, left, tall, wide = (windows[:, i] for i in range(4))
    x = ops.cast(ops.transpose(images, (0, 2, 1, 3)), "float32")
    x = _resample(x, left, wide, size)  # Rounded here too, as by Pillow.
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.cast(_resample(x, top, tall, size), "uint8")


def _resample(x: Any, start: Any, length: Any, size: int) -> Any:
    """Averages over axis 1 with the weights of a triangle, rounded."""
    scale = (length / size)[:, None, None]
    width = ops.maximum(scale, 1.0)
    centers = start[:, None, None] + scale * (_range(size)[None, :, None] + 0.5)
    distances = ops.absolute(_range(x.shape[1]) + 0.5 - centers) / width
    weights = ops.maximum(1.0 - distances, 0.0)
    weights = weights / ops.sum(weights, -1, keepdims=True)
    rows = ops.matmul(weights, ops.reshape(x, (*x.shape[:2], -1)))
    return ops.reshape(ops.floor(rows + 0.5), (x.shape[0], size, *x.shape[2:]))


def _range(count: int) -> Any:
    return ops.arange(count, dtype="float32")


def _scaled(top: Any, left: Any, size: Any, down: Any, across: Any, xp: Any) -> Windows:
    """Converts squares of the resized images to windows of the originals."""
    first_row, first_column = xp.floor(top * down + 0.5), xp.floor(left * across + 0.5)
    height = xp.floor((top + size) * down + 0.5) - first_row
    width = xp.floor((left + size) * across + 0.5) - first_column
    return first_row, first_column, xp.maximum(height, 1), xp.maximum(width, 1)


def _check_resize(crop: ResizedRandomCrop | CenterCrop, size: int) -> None:
    if size > crop.resize:
        raise UserError(
            f"Expected an image size of at most the {crop.resize} pixels that {crop} "
            f"resizes to. Received: {size}. Give the crop a larger `resize`."
        )
