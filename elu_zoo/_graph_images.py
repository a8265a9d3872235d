"""Decoding and resizing of image bytes inside a TensorFlow graph."""

MAX_PIXELS = 100_000_000
"""Of an image for `serve_bytes`: a few kilobytes can decode to gigabytes."""


def decode(image_bytes, side, channels):
    """Images of the bytes, and which were images; each with a row of zeros at its end.

    An op that cannot decode an image fails the whole graph, but `tf.data` can leave the
    failing elements out: the rest is put back in its place by number.
    """
    import tensorflow as tf

    count = tf.shape(image_bytes, tf.int64)[0]
    shape = (side, side, channels)

    def decode(index, data):
        return index, _resize_and_crop(_decode_image(data, channels), side, channels)

    decoded = (
        tf.data.Dataset.from_tensor_slices(image_bytes)
        .enumerate()
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
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


def _decode_image(data, channels):
    """Pixels of a JPEG or PNG; fails for others, and for what would need gigabytes."""
    import tensorflow as tf

    jpeg = tf.io.is_jpeg(data)
    size = tf.cond(
        jpeg,
        lambda: tf.io.extract_jpeg_shape(data)[:2],
        # The place of width and height in a PNG.
        lambda: tf.io.decode_raw(
            tf.strings.substr(data, 16, 8), tf.int32, little_endian=False
        ),
    )
    png = tf.strings.substr(data, 0, 8) == b"\x89PNG\r\n\x1a\n"
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    checks = [
        tf.debugging.assert_equal(jpeg | png, True),
        tf.debugging.assert_less_equal(pixels, tf.constant(MAX_PIXELS, tf.int64)),
        # Resized by its shorter side, a strip would grow.
        tf.debugging.assert_less_equal(tf.reduce_max(size), 100 * tf.reduce_min(size)),
    ]
    with tf.control_dependencies(checks):
        return tf.cond(
            jpeg,
            # As PIL and others decode; the default is faster and less exact.
            lambda: tf.io.decode_jpeg(data, channels, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(data, channels),
        )


def _resize_and_crop(image, side, channels):
    import tensorflow as tf

    size = tf.shape(image)[:2]
    scale = side / tf.reduce_min(size)
    size = tf.cast(tf.round(tf.cast(size, tf.float64) * scale), tf.int32)
    size = tf.maximum(size, side)
    image = tf.image.resize(image, size, antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    image = image[top : top + side, left : left + side]
    return tf.ensure_shape(image, (side, side, channels))
