"""The one reader of images: formats, guards, orientation, resizing.

This module is the reference for which images are accepted and for their pixels. Five
other modules resize images in their own way and explain why: `elu_zoo._graph_images`
(inside a served graph), `training.data.crops` (windows for training),
`training.data.decoding` (fast decoders), `training.data.stored_images` (JPEG files) and
`training.engine.steps` (batches in the compiled step).
"""

import dataclasses
import functools
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from elu_zoo._names import printable
from elu_zoo.errors import ImageError, UserError
from elu_zoo.records import Preprocessing, record_of
from elu_zoo.weights import get_record

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the accepted formats; of animations the first frame is read."""

MAX_PIXELS = 89_478_485
"""Largest number of pixels, because a few kilobytes can decode to gigabytes.

Pillow warns above the same number.
"""

MAX_RATIO = 100
"""Largest ratio of an image's longer side to its shorter side."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ACCEPTED = "a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF image"
_ORIENTATION = 0x0112


def preprocess_input(x: Any, model: Any = None) -> np.ndarray:
    """Prepares a batch of images of any sizes for a model.

    Resizes the images and crops the center as the model's record says. The values stay
    between 0 and 255: all further preprocessing is a layer of the model.

    Args:
        x: An image, a list of images, or a batch as one array. An image is the path of
            a file, its bytes, a PIL image, or an array of shape `(height, width)` or
            `(height, width, channels)` with 1 (gray), 3 (RGB) or 4 (RGBA) channels and
            values from 0 to 255, which are rounded. The input is not changed. Files and
            PIL images are turned upright according to their EXIF orientation. The alpha
            channel is ignored.
        model: The model, or the name of its weights. Without one nothing is resized:
            images of one size become an RGB batch, which is all that a network with
            built-in preprocessing needs.

    Returns:
        A float32 array of shape `(n, side, side, channels)`, values from 0 to 255.

    Raises:
        UserError: If there are no such weights, if images have different sizes and no
            model is given, or if an array has an unexpected shape or values.
        ImageError: If `read_image` does not accept a file or a PIL image.

    Example:

    >>> batch = preprocess_input(np.zeros((48, 64, 3), "uint8"), "elunet11.cifar100")
    >>> batch.shape
    (1, 32, 32, 3)
    """
    how, channels = _input_of(model)
    single = _is_pil(x) or isinstance(x, str | bytes | os.PathLike)
    if single or (not isinstance(x, list | tuple) and np.ndim(x) != 4):
        x = [x]
    images = [_resized(_as_pil(image, channels), how) for image in x]
    if not images:
        raise UserError("Expected at least one image. Received: none")
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise UserError(
            "Expected a model, whose input size images of different sizes are resized "
            f"to: preprocess_input(x, model). Received: images of {sizes}, model=None"
        )
    return np.stack(images)


def _resized(image: "Image.Image", how: Preprocessing | None) -> np.ndarray:
    if how is None:
        array = np.asarray(image, "float32")
        return array[..., None] if array.ndim == 2 else array
    return resize(image, **dataclasses.asdict(how))


def _input_of(model: Any) -> tuple[Preprocessing | None, int]:
    """The preprocessing and the number of channels of a model or named weights."""
    if model is None:
        return None, 3
    record = get_record(model)
    if record.preprocessing is None:
        raise UserError(
            "Expected a model of square images whose size is known from its weights or "
            f"its input_shape. Received: a model with input_shape={record.input_shape}"
        )
    return record.preprocessing, record.input_shape[-1] or 3


def read_image(source: Any, channels: int = 3) -> "Image.Image":
    """Reads an image file.

    Args:
        source: Path, bytes, or file object of a JPEG, PNG, WebP, GIF, BMP, TIFF or (if
            Pillow supports it) AVIF image of at most `MAX_PIXELS` pixels, whose longer
            side is at most `MAX_RATIO` times its shorter side.
        channels: 3 for RGB, 1 for gray, 4 for RGBA.

    Returns:
        A PIL image of mode RGB, L or RGBA: the first frame, upright, with 16 bits per
        channel scaled to 8. Transparent pixels of a GIF are black.

    Raises:
        UserError: If `channels` is none of these.
        ImageError: If the image cannot be read for any reason.

    Example:

    >>> read_image(b"no image")
    Traceback (most recent call last):
    elu_zoo.errors.ImageError: Expected a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF \
image. Received: bytes (none of these formats, or damaged)
    """
    from PIL import Image

    _check_channels(channels)
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(opened, formats=_formats()) as image:
            return _decoded(image, channels)
    # Pillow's decoders raise exceptions of many classes.
    except Exception as error:
        path = source if isinstance(source, str | os.PathLike) else None
        raise _image_error(error, path, "bytes" if path is None else path) from error


def resize(
    image: "Image.Image",
    resize: int,
    crop: int | None = None,
    interpolation: str = "bilinear",
    mode: str = "crop",
) -> np.ndarray:
    """Resizes a PIL image and crops a square from its center.

    The result is that of resizing the whole image. Only the part that ends up in the
    square is resized, so the cost does not grow with the length of the image.

    Args:
        image: PIL image of mode L, RGB or RGBA.
        resize: Length in pixels of the shorter side after resizing, or, with
            `mode="squash"`, of both sides.
        crop: Side of the square in pixels; default `resize`.
        interpolation: `"bilinear"`, `"bicubic"` or another filter of PIL; all except
            `"nearest"` average when they shrink an image.
        mode: `"crop"` to keep the aspect ratio, `"squash"` to make the whole image a
            square.

    Returns:
        A float32 array of shape `(crop, crop, channels)`, values from 0 to 255.

    Raises:
        UserError: If `crop` is larger than `resize`, or `mode` or `interpolation` is
            unknown.

    Example:

    >>> from PIL import Image
    >>> resize(Image.new("RGB", (600, 300)), 64, 56).shape
    (56, 56, 3)
    """
    from PIL import Image

    names = [how.name.lower() for how in Image.Resampling]
    if interpolation not in names:
        raise UserError(
            f"Expected interpolation to be one of {names}. "
            f"Received: interpolation={interpolation!r}"
        )
    how = Image.Resampling[interpolation.upper()]
    crop = crop or resize
    box = _source_box(image.size, resize, crop, mode)
    part, box = _part(image, box, crop)
    # In float, as in an exported model: PIL would round the pixels of other modes.
    channels = [
        np.asarray(channel.convert("F").resize((crop, crop), how, box))
        for channel in part.split()
    ]
    return np.clip(np.stack(channels, axis=-1), 0, 255)


def load_image(source: Any, channels: int = 3, **preprocessing: Any) -> np.ndarray:
    """Reads an image file and resizes it, as `preprocess_input` does.

    Args:
        source: As in `read_image`.
        channels: As in `read_image`.
        **preprocessing: Arguments of `resize`.

    Returns:
        A float32 array of shape `(crop, crop, channels)`, values from 0 to 255.

    Raises:
        UserError: As in `read_image` and `resize`.
        ImageError: If it cannot be read.

    Example:

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (40, 60)).save(file, "PNG")
    >>> load_image(file, resize=32, crop=28).shape
    (28, 28, 3)
    """
    return resize(read_image(source, channels), **preprocessing)


def within_limits(height: Any, width: Any) -> Any:
    """Tells whether images of a size are accepted.

    Args:
        height: Height in pixels, a number, an array or a tensor.
        width: Width in pixels, likewise.

    Returns:
        A boolean, or an array or tensor of booleans.

    Example:

    >>> within_limits(1, np.array([100, 101]))
    array([ True, False])
    """
    ratio = (height <= MAX_RATIO * width) & (width <= MAX_RATIO * height)
    return ratio & (height * width <= MAX_PIXELS)


def is_upright(file: bytes) -> bool:
    """Tells whether an image file is stored upright, according to its EXIF data.

    Args:
        file: Bytes of an image file.

    Returns:
        A boolean.

    Raises:
        ImageError: If the bytes are not an accepted image.

    Example:

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (4, 2)).save(file, "JPEG")
    >>> is_upright(file.getvalue())
    True
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=_formats()) as image:
            return _turn(image.info.get("exif")) is None
    except Exception as error:
        raise _image_error(error, None, "bytes") from error


def check_pixels(array: np.ndarray) -> None:
    """Checks that an array has pixel values from 0 to 255.

    Args:
        array: An image or a batch of images, of any shape.

    Raises:
        UserError: If it is empty, is not numeric or has values out of range, or if all
            values are between 0 and 1, as if they had been divided by 255.

    Example:

    >>> check_pixels(np.array([[0.0, 0.5]]))
    Traceback (most recent call last):
    elu_zoo.errors.UserError: Expected values from 0 to 255. Received: an image with \
values from 0.0 to 0.5; multiply by 255 if 1 stands for white.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "uif" or not array.size:
        raise UserError(
            "Expected numbers from 0 to 255. Received: an image with dtype "
            f"{array.dtype} and shape {array.shape}"
        )
    low, high = array.min(), array.max()
    received = f"Received: an image with values from {low} to {high}"
    if not (low >= 0 and high <= 255):
        raise UserError(f"Expected values from 0 to 255. {received}")
    if array.dtype.kind == "f" and 0 < high <= 1:
        raise UserError(
            f"Expected values from 0 to 255. {received}; "
            "multiply by 255 if 1 stands for white."
        )


def image_side(model: Any, resize: int | None = None) -> int:
    """Finds the side in pixels of the square images to give a model.

    Args:
        model: Keras model of square images.
        resize: Side to use if the model takes any size; default that of its record.

    Returns:
        The side in pixels.

    Raises:
        UserError: If the model does not take square images of that side, or takes any
            size and neither `resize` nor its record names one.

    Example:

    >>> import elu_zoo
    >>> image_side(elu_zoo.MNISTClassifier())
    28
    """
    height, width = model.input_shape[1:3]
    record = record_of(model)
    best = record.preprocessing.crop if record and record.preprocessing else None
    side = height or best if resize is None else resize
    if side is None or side < 1 or (height, width) not in ((None, None), (side, side)):
        raise UserError(
            "Expected square images: resize=SIDE for a model that takes any size, or "
            "the model's own size. Received: "
            f"resize={resize!r}, model input {model.input_shape}"
        )
    return side


def preprocessing_of(model: Any, resize: int | None = None) -> dict[str, Any]:
    """Returns how to resize images for a model.

    Args:
        model: Keras model of square images.
        resize: Side in pixels that overrides the model's record.

    Returns:
        Arguments of `load_image`: those of the model's record if it has one for the
        size that the model takes, otherwise that size.

    Raises:
        UserError: As in `image_side`.

    Example:

    >>> import elu_zoo
    >>> how = preprocessing_of(elu_zoo.MNISTClassifier())
    >>> how["resize"], how["crop"]
    (28, 28)
    """
    side, record = image_side(model, resize), record_of(model)
    if record and record.preprocessing and not resize:
        if record.preprocessing.crop == side:
            return dataclasses.asdict(record.preprocessing)
    return {"resize": side, "crop": side}


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _image_error(error: Exception, path: Any, name: Any) -> ImageError:
    from PIL import UnidentifiedImageError

    cause = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, UnidentifiedImageError):
        cause = "none of these formats, or damaged"
    elif isinstance(error, OSError) and error.strerror:
        cause = error.strerror
    return ImageError(
        f"Expected {_ACCEPTED}. Received: {printable(name)} ({cause})", path
    )


def _decoded(image: "Image.Image", channels: int) -> "Image.Image":
    """The upright pixels of an opened image; checks the size before decoding."""
    width, height = image.size
    if not within_limits(height, width):
        raise ValueError(
            f"{width}×{height}, more than {MAX_PIXELS:,} pixels or one side more than "
            f"{MAX_RATIO} times the other"
        )
    image.load()
    turn = _turn(image.info.get("exif"))
    image = _without_transparency(_of_8_bits(image)).convert(_MODES[channels])
    return image if turn is None else image.transpose(turn)


def _turn(exif: bytes | None) -> "Image.Transpose | None":
    """The transposition that turns an image with these EXIF data upright."""
    from PIL import Image

    # Only EXIF data count, as in the other readers; `getexif` also reads XMP.
    read = Image.Exif()
    try:
        read.load(exif or b"")
        orientation = read.get(_ORIENTATION, 1)
    # Damaged EXIF data do not make an image unreadable.
    except Exception:
        return None
    turn = Image.Transpose
    return {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }.get(orientation)


def _of_8_bits(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    # Pillow would clip 16-bit values at 255. Its older releases open a 16-bit PNG in
    # mode I.
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        # The upper byte, which Pillow and TensorFlow take from 16-bit RGB.
        return Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    if image.mode in ("I", "F"):
        raise ValueError(f"more than 16 bits per channel, mode {image.mode}")
    return image


def _without_transparency(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if "transparency" not in image.info:
        return image
    rgba = image.convert("RGBA")
    if image.format == "GIF":
        # TensorFlow decodes transparent pixels as black.
        black = Image.new("RGBA", image.size, (0, 0, 0, 0))
        rgba = Image.composite(rgba, black, rgba.getchannel("A"))
    return rgba


def _check_channels(channels: int) -> None:
    if channels not in _MODES:
        raise UserError(
            f"Expected channels to be 1, 3 or 4. Received: channels={channels!r}"
        )


def _is_pil(image: Any) -> bool:
    return hasattr(image, "convert")


def _as_pil(image: Any, channels: int) -> "Image.Image":
    from PIL import Image

    _check_channels(channels)
    if isinstance(image, str | bytes | os.PathLike):
        return read_image(image, channels)
    if _is_pil(image) and (image.mode, image.format) in (("I", None), ("F", None)):
        image = np.asarray(image)
    if not _is_pil(image):
        return Image.fromarray(_as_uint8(np.asarray(image))).convert(_MODES[channels])
    try:
        return _decoded(image, channels)
    except Exception as error:
        path = getattr(image, "filename", "") or None
        raise _image_error(error, path, path or "a PIL image") from error


def _as_uint8(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if (
        array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[-1] not in (3, 4))
        or 0 in array.shape
    ):
        raise UserError(
            "Expected images of shape (height, width), or (height, width, channels) "
            f"with 1, 3 or 4 channels. Received: an image with shape {array.shape}"
        )
    check_pixels(array)
    return np.rint(array).astype("uint8")


def _source_box(
    size: tuple[int, int], resize: int, crop: int, mode: str
) -> tuple[float, float, float, float]:
    """The part of an image that ends up in the square."""
    if crop > resize:
        raise UserError(
            "Expected a crop that is not larger than the resized image. Received: "
            f"resize={resize}, crop={crop}"
        )
    if mode not in ("crop", "squash"):
        raise UserError(
            f"Expected mode to be 'crop' or 'squash'. Received: mode={mode!r}"
        )
    resized = [resize, resize]
    if mode == "crop":
        scale = resize / min(size)
        resized = [max(resize, round(side * scale)) for side in size]
    first = [(side - crop) // 2 for side in resized]
    scales = [old / new for old, new in zip(size, resized, strict=True)]
    (left, top), (across, down) = first, scales
    return left * across, top * down, (left + crop) * across, (top + crop) * down


def _part(
    image: "Image.Image", box: tuple[float, float, float, float], crop: int
) -> tuple["Image.Image", tuple[float, float, float, float]]:
    """The part of an image that resizing a box depends on, and the box within it."""
    left, top, right, bottom = box
    # No filter of Pillow reaches further than 3 pixels of the smaller image.
    x = 3 * max(1, (right - left) / crop) + 1
    y = 3 * max(1, (bottom - top) / crop) + 1
    first = max(0, int(left - x)), max(0, int(top - y))
    last = (
        min(image.width, int(right + x) + 1),
        min(image.height, int(bottom + y) + 1),
    )
    if (*first, *last) == (0, 0, *image.size):
        return image, box
    shifted = left - first[0], top - first[1], right - first[0], bottom - first[1]
    return image.crop((*first, *last)), shifted
