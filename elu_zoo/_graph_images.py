"""Decodes and resizes image bytes inside a TensorFlow graph.

The limits are those of `elu_zoo.images`, and so are the pixels, except for rounding.
Resizing is implemented separately because a served graph has no Pillow.
"""

import contextlib

from elu_zoo._typing import Tensor
from elu_zoo.errors import UserError
from elu_zoo.images import within_limits

KERNELS = {
    "bilinear": "triangle",
    "bicubic": "keyscubic",
    "lanczos": "lanczos3",
    "box": "box",
}
"""TensorFlow's names of Pillow's filters, by Pillow's names."""


def decode(
    image_bytes: Tensor,
    channels: int,
    resize: int,
    crop: int,
    interpolation: str = "bilinear",
    mode: str = "crop",
) -> tuple[Tensor, Tensor]:
    """Decodes encoded images of any sizes and resizes them to one size.

    The formats are those that TensorFlow's ops decode as Pillow does: JPEG, PNG, WebP
    (one frame), GIF (the first frame) and BMP (24 or 32 bits per pixel). An op that
    cannot decode an image fails the whole graph, but `tf.data` can drop the elements
    that fail; the others return to their places by number.

    Args:
        image_bytes: String tensor of shape `(n,)`.
        channels: 3 for RGB, 1 for gray.
        resize: As in `elu_zoo.images.resize`.
        crop: Side in pixels of the square that is cropped from the center.
        interpolation: A key of `KERNELS`.
        mode: `"crop"` or `"squash"`, as in `elu_zoo.images.resize`.

    Returns:
        `(images, valid)`: a float32 tensor of shape `(n + 1, crop, crop, channels)`,
        and a bool tensor of shape `(n + 1,)`. An image that could not be decoded is all
        zeros and not valid; the additional last image is all zeros and valid.

    Raises:
        UserError: If TensorFlow has no such `interpolation`.
    """
    import tensorflow as tf

    if interpolation not in KERNELS:
        raise UserError(
            f"Expected interpolation to be one of {list(KERNELS)} in an exported "
            f"model. Received: interpolation={interpolation!r}"
        )
    count = tf.shape(image_bytes, tf.int64)[0]
    shape = (crop, crop, channels)

    @tf.autograph.experimental.do_not_convert
    def read(index: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        image = _decode_image(data, channels)
        return index, _resize(image, resize, crop, KERNELS[interpolation], mode)

    decoded = (
        tf.data.Dataset.from_tensor_slices(image_bytes)
        .enumerate()
        .map(read, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors((count, tf.zeros(shape))))
        .batch(count + 1)
    )
    indices, images = decoded.get_single_element()
    images = tf.scatter_nd(
        indices[:, None],
        images,
        tf.stack([count + 1, *map(tf.cast, shape, [tf.int64] * 3)]),
    )
    valid = tf.scatter_nd(indices[:, None], tf.ones_like(indices), [count + 1]) > 0
    return tf.ensure_shape(images, (None, *shape)), valid


def _decode_image(data: Tensor, channels: int) -> Tensor:
    """Upright pixels; fails for other bytes and for images over the limits."""
    import tensorflow as tf

    content = _Bytes(data)
    kinds = [
        content.has(0, b"\xff\xd8\xff"),
        content.has(0, b"\x89PNG\r\n\x1a\n"),
        content.has(0, b"RIFF") & content.has(8, b"WEBP") & _has_webp(),
        content.has(0, b"GIF87a") | content.has(0, b"GIF89a"),
        content.has(0, b"BM") & _plain_bmp(content),
    ]
    kind = tf.argmax(tf.cast(kinds, tf.int32), output_type=tf.int32)
    with _only_if(tf.reduce_any(kinds)):
        kind = tf.identity(kind)
    readers = (_jpeg, _png, _webp, _gif, _bmp)
    image, exif = tf.switch_case(kind, [lambda f=f: f(content) for f in readers])
    image = tf.ensure_shape(image, (None, None, 3))
    image = _turned(image, _orientation(content, exif))
    return _gray(image) if channels == 1 else image


def _only_if(condition: Tensor) -> contextlib.AbstractContextManager[None]:
    """A context whose ops fail unless the condition holds."""
    import tensorflow as tf

    check = tf.raw_ops.Assert(condition=condition, data=["not an accepted image"])
    return tf.control_dependencies([check])


def _within_limits(size: Tensor) -> contextlib.AbstractContextManager[None]:
    import tensorflow as tf

    return _only_if((tf.reduce_min(size) > 0) & within_limits(size[0], size[1]))


class _Bytes:
    """Reads numbers at byte offsets of a string; past its end it reads zeros."""

    def __init__(self, data: Tensor) -> None:
        import tensorflow as tf

        self.data = data
        self.raw = tf.pad(tf.io.decode_raw(data, tf.uint8), [[0, 1]])
        self.length = tf.cast(tf.strings.length(data), tf.int64)
        # No real file has more parts. In a made-up one every byte may be a part, and a
        # step of a loop over them takes much longer than a byte is worth.
        self.max_parts = tf.cast(1000 + self.length // 64, tf.int32)

    def int(self, place: Tensor, count: int, big_endian: bool = False) -> Tensor:
        """Unsigned integers of `count` bytes at offsets, as int64."""
        import tensorflow as tf

        place = tf.cast(place, tf.int64)[..., None] + tf.range(count, dtype=tf.int64)
        place = tf.clip_by_value(place, 0, self.length)
        values = tf.cast(tf.gather(self.raw, place), tf.int64)
        powers = [256**i for i in range(count)]
        return tf.reduce_sum(values * (powers[::-1] if big_endian else powers), -1)

    def has(self, place: Tensor, text: bytes) -> Tensor:
        """Whether the string has `text` at an offset."""
        return self.int(place, len(text)) == int.from_bytes(
            text, "little", signed=len(text) == 8
        )


# The reader of each format returns the pixels and the offset of EXIF data or -1.


def _jpeg(content: _Bytes) -> tuple[Tensor, Tensor]:
    import tensorflow as tf

    with _within_limits(tf.cast(tf.io.extract_jpeg_shape(content.data)[:2], tf.int64)):
        # This is what Pillow does; the default is faster and less accurate.
        image = tf.io.decode_jpeg(content.data, 3, dct_method="INTEGER_ACCURATE")
    return image, _jpeg_exif(content)


def _png(content: _Bytes) -> tuple[Tensor, Tensor]:
    import tensorflow as tf

    with _within_limits(content.int(tf.constant([20, 16]), 4, big_endian=True)):
        image = tf.io.decode_png(content.data, 3)
    return image, _chunk(content, 8, b"eXIf", big_endian=True)


def _webp(content: _Bytes) -> tuple[Tensor, Tensor]:
    import tensorflow as tf

    lossless = content.int(21, 4)
    size = tf.where(
        content.has(12, b"VP8X"),
        content.int(tf.constant([27, 24]), 3) + 1,
        tf.where(
            content.has(12, b"VP8L"),
            tf.stack([lossless // 2**14 % 2**14, lossless % 2**14]) + 1,
            content.int(tf.constant([28, 26]), 2) % 2**14,
        ),
    )
    with _within_limits(size):
        image = (
            tf.io.decode_webp(content.data, 3)[0]
            if _has_webp()
            else tf.zeros((1, 1, 3), tf.uint8)
        )
    place = _chunk(content, 12, b"EXIF", big_endian=False)
    # Some programs write the header that precedes EXIF data in a JPEG.
    named = (place >= 0) & content.has(place, b"Exif\0\0")
    return image, tf.where(named, place + 6, place)


def _has_webp() -> bool:
    """Whether TensorFlow decodes WebP, as it does since 2.21."""
    import tensorflow as tf

    return hasattr(tf.io, "decode_webp")


def _bmp(content: _Bytes) -> tuple[Tensor, Tensor]:
    import tensorflow as tf

    height, width = content.int(22, 4), content.int(18, 4)
    # A negative height means that the rows run from top to bottom.
    with _within_limits(tf.stack([tf.minimum(height, 2**32 - height), width])):
        return tf.io.decode_bmp(content.data, 3), tf.constant(-1, tf.int64)


def _plain_bmp(content: _Bytes) -> Tensor:
    """Whether a BMP holds colors: TensorFlow does not support palettes."""
    bits = content.int(28, 2)
    return ((bits == 24) | (bits == 32)) & (content.int(30, 4) == 0)


def _gif(content: _Bytes) -> tuple[Tensor, Tensor]:
    """The first frame, padded with black to the size of the image.

    TensorFlow decodes all frames, and a few bytes may decode to gigabytes; so it is
    given only the file up to the end of the first frame.
    """
    import tensorflow as tf

    end, top, left, height, width = _gif_frame(content)
    # As in Pillow, a frame may exceed the size that the header states.
    tall = tf.maximum(content.int(8, 2), top + height)
    wide = tf.maximum(content.int(6, 2), left + width)
    with _within_limits(tf.stack([tall, wide])):
        first = tf.strings.substr(content.data, tf.zeros_like(end), end) + b"\x3b"
        image = tf.io.decode_gif(first)[0]
    around = [[top, tall - top - height], [left, wide - left - width], [0, 0]]
    return tf.pad(image, around), tf.constant(-1, tf.int64)


def _gif_frame(content: _Bytes) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The end of a GIF's first frame, and its top, left, height and width."""
    import tensorflow as tf

    def table(place: Tensor) -> Tensor:
        flags = content.int(place, 1)
        size = 3 * 2 ** (flags % 8 + 1)
        return tf.where(flags >= 128, size, tf.zeros_like(size))

    def step(
        place: Tensor, frame: Tensor, inside: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        length = content.int(place, 1)
        image, extension = length == 0x2C, length == 0x21
        skipped = tf.where(image, 11 + table(place + 9), 2 * tf.ones_like(length))
        after = tf.where(image | extension, place + skipped, content.length)
        # Inside a frame or an extension are data blocks; the last has length 0.
        after = tf.where(inside, place + 1 + length, after)
        frame = tf.where(~inside & image, place, frame)
        return after, frame, tf.where(inside, length > 0, image | extension)

    def unfinished(place: Tensor, frame: Tensor, inside: Tensor) -> Tensor:
        return (place < content.length) & ((frame < 0) | inside)

    start = 13 + table(tf.constant(10, tf.int64))
    end, frame, inside = tf.while_loop(
        unfinished,
        step,
        (start, tf.constant(-1, tf.int64), tf.constant(False)),
        maximum_iterations=content.max_parts,
    )
    with _only_if((frame > 0) & ~unfinished(end, frame, inside)):
        left, top, width, height = (content.int(frame + i, 2) for i in (1, 3, 5, 7))
    return tf.minimum(end, content.length), top, left, height, width


def _chunk(content: _Bytes, start: int, name: bytes, big_endian: bool) -> Tensor:
    """The offset of the data of a chunk of a PNG or WebP; -1 if it has none."""
    import tensorflow as tf

    at, data = (4, 8) if big_endian else (0, 8)
    tail = 12 if big_endian else 8

    def step(place: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        length = content.int(place + 4 - at, 4, big_endian)
        found = tf.where(content.has(place + at, name), place + data, found)
        padding = 0 if big_endian else length % 2
        return place + tail + length + padding, found

    return tf.while_loop(
        lambda place, found: (place < content.length) & (found < 0),
        step,
        (tf.constant(start, tf.int64), tf.constant(-1, tf.int64)),
        maximum_iterations=content.max_parts,
    )[1]


def _jpeg_exif(content: _Bytes) -> Tensor:
    import tensorflow as tf

    def step(place: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        marker = content.int(place + 1, 1)
        exif = (marker == 0xE1) & content.has(place + 4, b"Exif\0\0")
        found = tf.where(exif, place + 10, found)
        length = 2 + content.int(place + 2, 2, big_endian=True)
        # Any number of 0xff may precede a marker.
        return place + tf.where(marker == 0xFF, tf.ones_like(length), length), found

    def unfinished(place: Tensor, found: Tensor) -> Tensor:
        # The image itself starts with 0xda.
        in_header = content.has(place, b"\xff") & (content.int(place + 1, 1) != 0xDA)
        return (place < content.length) & (found < 0) & in_header

    start = tf.constant(2, tf.int64), tf.constant(-1, tf.int64)
    _, found = tf.while_loop(
        unfinished, step, start, maximum_iterations=content.max_parts
    )
    return found


def _orientation(content: _Bytes, tiff: Tensor) -> Tensor:
    """The orientation in the EXIF data at an offset; 1 if there is none."""
    import tensorflow as tf

    def read(big_endian: bool) -> Tensor:
        first = tiff + content.int(tiff + 4, 4, big_endian)
        count = tf.minimum(content.int(first, 2, big_endian), 1000)
        entries = first + 2 + 12 * tf.range(count)
        tags, kinds, values = (
            content.int(entries + i, 2, big_endian) for i in (0, 2, 8)
        )
        chosen = (tags == 0x0112) & (kinds == 3)
        return tf.reduce_max(tf.where(chosen, values, tf.ones_like(values)))

    return tf.case(
        [
            ((tiff >= 0) & content.has(tiff, b"MM\0*"), lambda: read(True)),
            ((tiff >= 0) & content.has(tiff, b"II*\0"), lambda: read(False)),
        ],
        default=lambda: tf.constant(1, tf.int64),
    )


def _turned(image: Tensor, orientation: Tensor) -> Tensor:
    """An image turned upright from an EXIF orientation."""
    import tensorflow as tf

    def among(*orientations: int) -> Tensor:
        return tf.reduce_any(orientation == tf.constant(orientations, tf.int64))

    image = tf.transpose(image, tf.where(among(5, 6, 7, 8), [1, 0, 2], [0, 1, 2]))
    backwards = tf.where([among(3, 4, 7, 8), among(2, 3, 6, 7)])[:, 0]
    return tf.reverse(image, backwards)


def _gray(image: Tensor) -> Tensor:
    """Converts RGB to gray as Pillow does."""
    import tensorflow as tf

    weights = tf.constant([19595, 38470, 7471])
    total = tf.reduce_sum(tf.cast(image, tf.int32) * weights, -1, keepdims=True)
    return tf.cast((total + 2**15) // 2**16, tf.uint8)


def _resize(image: Tensor, resize: int, crop: int, kernel: str, mode: str) -> Tensor:
    """The same as `elu_zoo.images.resize`, with TensorFlow's name of the filter."""
    import tensorflow as tf

    size = tf.cast(tf.shape(image)[:2], tf.float64)
    resized = tf.fill([2], tf.constant(resize, tf.float64))
    if mode == "crop":
        resized = tf.maximum(tf.round(size * (resize / tf.reduce_min(size))), resize)
    first = tf.floor((resized - crop) / 2)
    # Only the pixels of the crop are computed.
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=(crop, crop),
        scale=tf.cast(resized / size, tf.float32),
        translation=tf.cast(-first, tf.float32),
        kernel_type=kernel,
        antialias=True,
    )[0]
    return tf.ensure_shape(tf.clip_by_value(image, 0, 255), (crop, crop, None))
