"""Crops of JPEG files: by simplejpeg and OpenCV, and by ops of TensorFlow.

Both take the same windows and decode as exactly as Pillow does, or faster. If a window
is at least twice as large as the crop, it is decoded at 1/2, 1/4 or 1/8 of its size,
which is faster and smoother than to resize all of it. Resizing is bilinear, without a
filter against aliasing; the two round it differently. That is how they differ from the
reference, `elu_zoo.images.resize`: training has to read a thousand files per second.
"""

import functools
import io

import numpy as np

from elu_zoo.errors import UserError

# Of the sizes that a JPEG file can be decoded at.
RATIOS = (1, 2, 4, 8)

# Pixels across the blocks that a JPEG file is made of, at most.
BLOCK = 16

# libjpeg's warnings of damage, and the one that is none: some programs leave bytes over
# before the end of a file.
DAMAGE = ("Corrupt JPEG data", "Premature end")
LEFT_OVER = "extraneous bytes before marker 0xd9"

DCT = {False: "INTEGER_ACCURATE", True: "INTEGER_FAST"}


def decode(files, crop, draws, size, fast=False):
    """Crops of JPEG files.

    Files are decoded whole: with this decoder that takes less time than a window with
    TensorFlow's, and libjpeg's warnings of damage come from all of the image.

    Args:
        files: Sequence of bytes, a JPEG file each.
        crop: Crop of `training.data.crops`.
        draws: float32 array of shape `(files, crop.draws)`, uniform from 0 to 1.
        size: Side in pixels.
        fast: Whether to save some time by libjpeg's less exact transform and by colours
            that are not interpolated.

    Returns:
        Arrays of shape `(files, size, size, 3)`, uint8, and `(files,)`, bool: whether
        the file is a whole JPEG of grey or RGB. If not, its image is all zeros.
    """
    sides = np.array([sides_of(file) for file in files], "float32")
    good = sides.all(-1)
    # Windows of the others are not used, but must be computable.
    height, width = np.where(good[:, None], sides, size).T
    windows = np.stack(crop.windows(draws.T, height, width, np.float32(size)), -1)
    images = np.zeros((len(files), size, size, 3), "uint8")
    for i in np.flatnonzero(good):
        window = windows[i].astype(int)
        good[i] = _decode_into(images[i], files[i], window, fast)
    return images, good


def sides_of(file):
    """Height and width of a JPEG file of grey or RGB, zeros for other bytes."""
    import simplejpeg

    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(file, strict=False)
    except ValueError:
        return 0, 0
    return (0, 0) if colors in ("CMYK", "YCCK") else (height, width)


def _decode_into(out, file, window, fast):
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


def decode_jpeg(file, ratio=1, fast=False):
    """All of a JPEG file, or a smaller image of all of it.

    Args:
        file: Bytes.
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


def _decode_by_pillow(file, ratio):
    """What simplejpeg refuses although the image is whole."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(file))
        # Rounded down: Pillow looks for a size that is not below.
        image.draft(None, [max(1, side // ratio) for side in image.size])
        return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(str(error)) from error


def _shrunk(window, ratio):
    """First and last row and column of a window at 1 / ratio of its size."""
    start = (window[:2] + ratio // 2) // ratio
    return start, (window[:2] + window[2:] + ratio // 2) // ratio


def decode_ops(files, crop, draws, size, fast=False):
    """`decode` by ops of TensorFlow, which run in a tf.data service too.

    Only the window is decoded, the colours of its last column without their right
    neighbours.

    Args:
        files: String tensor of shape `(rows,)`, a JPEG file each.
        crop: Crop of `training.data.crops`.
        draws: float32 tensor of shape `(rows, crop.draws)`.
        size: Side in pixels, integer or scalar int32 tensor.
        fast: Whether to decode by libjpeg's less exact transform.

    Returns:
        Tensors like the arrays of `decode`. It does not find the files whose middle is
        damaged.
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
    # Decoding a window does not notice that a file ends too early below it.
    ways.append((~complete, functools.partial(_decode_whole, dct=dct, size=size)))
    rgb_or_grey = (shapes[:, 2] == 1) | (shapes[:, 2] == 3)
    # One more image, of zeros, for the places of those that cannot be decoded.
    spare = tf.data.Dataset.from_tensors((rows, tf.zeros((size, size, 3), tf.uint8)))
    images = None
    for which, way in ways:
        chosen = tf.where(which & rgb_or_grey)[:, 0]
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
    # Without a copy if all could be decoded and none was overtaken.
    in_place = tf.reduce_all(good & (order == tf.range(tf.size(order))))
    images = tf.cond(in_place, lambda: images[:-1], lambda: tf.gather(images, order))
    return tf.ensure_shape(images, (None, None, None, 3)), good


def _headers(files, rows):
    """Shapes of JPEG files, zeros for others, and whether they end as they should."""
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


def _windows(crop, draws, shapes, size):
    import tensorflow as tf
    import tensorflow.experimental.numpy as tnp

    sides = tf.cast(shapes, tf.float32)
    windows = crop.windows(
        tf.transpose(draws), sides[:, 0], sides[:, 1], tf.cast(size, tf.float32), tnp
    )
    return tf.cast(tf.stack(windows, -1), tf.int32)


def _decode_window(file, window, ratio, dct, size=None):
    import tensorflow as tf

    start, end = _shrunk(window, ratio)
    # The decoder is faster if a window begins where a block of pixels does.
    first = start - [0, start[1] % BLOCK]
    part = tf.concat([first, end - first], 0)
    image = tf.io.decode_and_crop_jpeg(
        file, part, channels=3, ratio=ratio, dct_method=dct
    )
    image = image[:, (start - first)[1] :]
    return image if size is None else _resize(image, size)


def _decode_whole(file, window, dct, size):
    import tensorflow as tf

    begin, part = tf.pad(window[:2], [[0, 1]]), tf.concat([window[2:], [3]], 0)
    image = tf.io.decode_jpeg(file, channels=3, dct_method=dct)
    return _resize(tf.slice(image, begin, part), size)


def _resize(image, size):
    import tensorflow as tf

    # Resizing floats is faster than resizing bytes.
    image = tf.image.resize(tf.cast(image, tf.float32), (size, size))
    return tf.cast(image + 0.5, tf.uint8)
