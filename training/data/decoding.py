"""Crops of JPEG files, with simplejpeg and OpenCV or with TensorFlow ops.

Both decoders take the same windows, and decode as exactly as Pillow does or, on demand,
faster. A window at least twice as large as the crop is decoded at 1/2, 1/4 or 1/8 of
its size, which is faster and smoother than resizing all of it. Resizing is bilinear
without antialiasing, and the two decoders round differently. In this they differ from
the reference, `elu_zoo.images.resize`: training has to read a thousand files per
second.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.images import within_limits

if TYPE_CHECKING:
    import tensorflow as tf

    from training.data.crops import Crop

# Divisors of the size that libjpeg can decode at.
RATIOS = (1, 2, 4, 8)

# Largest side in pixels of the blocks that a JPEG file consists of.
BLOCK = 16

# libjpeg's warnings of damage, and a harmless one that begins like them: some programs
# write superfluous bytes before the end of a file.
DAMAGE = ("Corrupt JPEG data", "Premature end")
LEFT_OVER = "extraneous bytes before marker 0xd9"

DCT = {False: "INTEGER_ACCURATE", True: "INTEGER_FAST"}


def decode(
    files: Sequence[bytes], crop: Crop, draws: np.ndarray, size: int, fast: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes crops of JPEG files with simplejpeg and OpenCV.

    Files are decoded whole: this decoder takes less time for that than TensorFlow's for
    a window, and libjpeg's warnings of damage then cover all of the image.

    Args:
        files: Contents of JPEG files.
        crop: Crop of `training.data.crops`.
        draws: float32 array of shape `(files, crop.draws)`, uniform from 0 to 1.
        size: Side of the crops in pixels.
        fast: Whether to use libjpeg's less exact transform and not to interpolate
            colors.

    Returns:
        The crops, a uint8 array of shape `(files, size, size, 3)`, and a bool array of
        shape `(files,)`: whether the file is a whole grayscale or RGB JPEG. If not, its
        crop is all zeros.
    """
    sides = np.array([sides_of(file) for file in files], "float32")
    good = np.asarray(sides.all(-1))
    # The windows of the other files are not used, but must be computable.
    height, width = np.where(good[:, None], sides, size).T
    windows = np.stack(crop.windows(draws.T, height, width, np.float32(size)), -1)
    images = np.zeros((len(files), size, size, 3), "uint8")
    for i in np.flatnonzero(good).tolist():
        window = windows[i].astype(int)
        good[i] = _decode_into(images[i], files[i], window, fast)
    return images, good


def sides_of(file: bytes) -> tuple[int, int]:
    """Reads the size of a JPEG file.

    Args:
        file: Content of the file.

    Returns:
        `(height, width)` in pixels; zeros if it is no grayscale or RGB JPEG within the
        limits of `elu_zoo.images`.
    """
    import simplejpeg

    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(file, strict=False)
    except (KeyError, ValueError):
        return 0, 0
    accepted = within_limits(height, width) and colors not in ("CMYK", "YCCK")
    return (height, width) if accepted else (0, 0)


def _decode_into(out: np.ndarray, file: bytes, window: np.ndarray, fast: bool) -> bool:
    """Writes the window of a file, resized, into an image; False if it is damaged."""
    import cv2

    size = len(out)
    ratio = max(r for r in RATIOS if r == 1 or min(window[2:]) >= r * size)
    try:
        image = decode_jpeg(file, ratio, fast)
    except ValueError:
        return False
    (top, left), (bottom, right) = _shrunk(window, ratio)
    image = image[top:bottom, left:right]
    cv2.resize(image, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    return True


def decode_jpeg(file: bytes, ratio: int = 1, fast: bool = False) -> np.ndarray:
    """Decodes a whole JPEG file, at its own size or a smaller one.

    Args:
        file: Content of the file.
        ratio: One of `RATIOS`; height and width are divided by it and rounded up.
        fast: See `decode`.

    Returns:
        A uint8 array of shape `(height, width, 3)`.

    Raises:
        UserError: If the file is damaged.
    """
    import simplejpeg

    height, width = (-(-side // ratio) for side in sides_of(file))
    try:
        return simplejpeg.decode_jpeg(
            file,
            min_height=height,
            min_width=width,
            fastdct=fast,
            fastupsample=fast,
        )
    except ValueError as error:
        warning = str(error)
        if warning.startswith(DAMAGE) and not warning.endswith(LEFT_OVER):
            raise
    return _decode_by_pillow(file, ratio)


def _decode_by_pillow(file: bytes, ratio: int) -> np.ndarray:
    """Decodes what simplejpeg refuses although the image is whole."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(file))
        # Rounded down: Pillow chooses a size that is not smaller.
        width, height = (max(1, side // ratio) for side in image.size)
        image.draft(None, (width, height))
        return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(str(error)) from error


def _shrunk(window: Any, ratio: int) -> tuple[Any, Any]:
    """The start and the end of a window, `(row, column)`, at 1 / ratio of its size."""
    start = (window[:2] + ratio // 2) // ratio
    return start, (window[:2] + window[2:] + ratio // 2) // ratio


def decode_ops(
    files: tf.Tensor,
    crop: Crop,
    draws: tf.Tensor,
    size: int | tf.Tensor,
    fast: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Does the same as `decode` with TensorFlow ops, which a tf.data service can run.

    It decodes only the window, so the colors of the last column are interpolated
    without their right neighbors.

    Args:
        files: String tensor of shape `(rows,)`: contents of JPEG files.
        crop: Crop of `training.data.crops`.
        draws: float32 tensor of shape `(rows, crop.draws)`, uniform from 0 to 1.
        size: Side of the crops in pixels, an integer or a scalar int32 tensor.
        fast: Whether to use libjpeg's less exact transform.

    Returns:
        Tensors like the arrays of `decode`. Files that are damaged in the middle count
        as whole.
    """
    import tensorflow as tf

    rows = tf.size(files, tf.int64)
    shapes, complete = _headers(files, rows)
    windows = _windows(crop, draws, shapes, size)
    halvings = sum(
        tf.cast(tf.reduce_min(windows[:, 2:], -1) >= ratio * size, tf.int32)
        for ratio in RATIOS[1:]
    )
    same = tf.reduce_all(windows[:, 2:] == size, -1)
    dct = DCT[fast]
    ways = [(complete & same, functools.partial(_decode_window, ratio=1, dct=dct))]
    for i, ratio in enumerate(RATIOS):
        way = functools.partial(_decode_window, ratio=ratio, dct=dct, size=size)
        ways.append((complete & ~same & (halvings == i), way))
    # Decoding a window does not notice that the file breaks off below it.
    ways.append((~complete, functools.partial(_decode_whole, dct=dct, size=size)))
    height, width, colors = tf.unstack(tf.cast(shapes, tf.int64), axis=1)
    accepted = within_limits(height, width) & ((colors == 1) | (colors == 3))
    # One more image, of zeros, in place of those that cannot be decoded.
    spare = tf.data.Dataset.from_tensors((rows, tf.zeros((size, size, 3), tf.uint8)))
    images: Any = None
    for which, way in ways:
        chosen = tf.where(which & accepted)[:, 0]
        some = (
            tf.data.Dataset.from_tensor_slices(
                (chosen, tf.gather(files, chosen), tf.gather(windows, chosen))
            )
            .map(lambda row, file, window, way=way: (row, way(file, window)))
            .ignore_errors(log_warning=False)
        )
        images = images.concatenate(some) if images else some
    places, images = images.concatenate(spare).batch(rows + 1).get_single_element()
    last = tf.size(places) - 1
    order = tf.tensor_scatter_nd_update(
        tf.fill([rows + 1], last), places[:, None], tf.range(last + 1)
    )[:rows]
    good = order < last
    # No copy is needed if all could be decoded and are in order.
    in_place = tf.reduce_all(good & (order == tf.range(tf.size(order))))
    images = tf.cond(in_place, lambda: images[:-1], lambda: tf.gather(images, order))
    return tf.ensure_shape(images, (None, None, None, 3)), good


def _headers(files: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shapes of JPEG files, zeros for other files, and whether each has its end."""
    import tensorflow as tf

    known = (
        tf.data.Dataset.from_tensor_slices((tf.range(rows), files))
        .map(
            lambda row, file: (
                row,
                tf.io.extract_jpeg_shape(file),
                tf.strings.substr(file, -2, 2) == b"\xff\xd9",
            )
        )
        .ignore_errors(log_warning=False)
    )
    spare = tf.data.Dataset.from_tensors((rows, tf.zeros([3], tf.int32), False))
    places, shapes, complete = (
        known.concatenate(spare).batch(rows + 1).get_single_element()
    )
    shapes = tf.scatter_nd(places[:, None], shapes, tf.stack([rows + 1, 3]))
    complete = tf.scatter_nd(places[:, None], complete, [rows + 1])
    return shapes[:rows], complete[:rows]


def _windows(
    crop: Crop, draws: tf.Tensor, shapes: tf.Tensor, size: int | tf.Tensor
) -> tf.Tensor:
    import tensorflow as tf
    import tensorflow.experimental.numpy as tnp

    sides = tf.cast(shapes, tf.float32)
    windows = crop.windows(
        tf.transpose(draws), sides[:, 0], sides[:, 1], tf.cast(size, tf.float32), tnp
    )
    return tf.cast(tf.stack(windows, -1), tf.int32)


def _decode_window(
    file: tf.Tensor,
    window: Any,
    ratio: int,
    dct: str,
    size: int | tf.Tensor | None = None,
) -> tf.Tensor:
    import tensorflow as tf

    start, end = _shrunk(window, ratio)
    # The decoder is faster if a window begins at the border of a block.
    first = start - [0, start[1] % BLOCK]
    part = tf.concat([first, end - first], 0)
    image = tf.io.decode_and_crop_jpeg(
        file, part, channels=3, ratio=ratio, dct_method=dct
    )
    image = image[:, (start - first)[1] :]
    return image if size is None else _resize(image, size)


def _decode_whole(
    file: tf.Tensor, window: Any, dct: str, size: int | tf.Tensor
) -> tf.Tensor:
    import tensorflow as tf

    begin, part = tf.pad(window[:2], [[0, 1]]), tf.concat([window[2:], [3]], 0)
    image = tf.io.decode_jpeg(file, channels=3, dct_method=dct)
    return _resize(tf.slice(image, begin, part), size)


def _resize(image: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    # Resizing floats is faster than resizing bytes.
    image = tf.image.resize(tf.cast(image, tf.float32), (size, size))
    return tf.cast(image + 0.5, tf.uint8)
