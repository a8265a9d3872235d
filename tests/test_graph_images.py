"""What a served graph makes of image bytes, against the one reader."""

import functools
import io

import keras
import numpy as np
import pytest
from made_up import WITHOUT_OPS, encoded_images, exif, mutated
from PIL import Image

from elu_zoo import images as reader
from elu_zoo.errors import UserError

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="graphs are TensorFlow's"
)
IMAGES = encoded_images()


@functools.cache
def graph(channels, **how):
    import tensorflow as tf

    from elu_zoo import _graph_images

    return tf.function(
        lambda data: _graph_images.decode(data, channels, **how),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


def decode(items, channels=3, **how):
    import tensorflow as tf

    how = how or {"resize": 24, "crop": 20}
    images, valid = graph(channels, **how)(tf.constant(items, tf.string, [len(items)]))
    assert images.shape == (len(items) + 1, how["crop"], how["crop"], channels)
    return images.numpy()[:-1], valid.numpy()[:-1]


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_and_orientation_as_the_reader(channels):
    items = [content for content, _ in IMAGES.values()]
    images, valid = decode(items, channels)
    for name, content, image, ok in zip(IMAGES, items, images, valid, strict=True):
        assert ok == (name not in WITHOUT_OPS), name
        if ok:
            expected = reader.load_image(content, channels, resize=24, crop=20)
            np.testing.assert_allclose(image, expected, atol=2e-3, err_msg=name)


@pytest.mark.parametrize(
    "how",
    [
        {"resize": 40, "crop": 32, "interpolation": "bicubic", "mode": "squash"},
        {"resize": 24, "crop": 20},
    ],
)
def test_sizes_as_the_reader(how):
    rng = np.random.default_rng(0)
    sizes = (300, 600), (600, 300), (7, 500), (33, 40), (1, 100)
    items = [
        encode(Image.fromarray(rng.integers(0, 256, (*size, 3), "uint8")), "PNG")
        for size in sizes
    ]
    images, valid = decode(items, **how)
    assert valid.all()
    for content, image in zip(items, images, strict=True):
        np.testing.assert_allclose(image, reader.load_image(content, **how), atol=5e-3)


def test_filters_that_tensorflow_lacks():
    with pytest.raises(UserError, match="interpolation='hamming'"):
        decode([b""], resize=8, crop=8, interpolation="hamming")


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_leave_the_rest_alone():
    good = IMAGES["png"][0]
    expected = reader.load_image(good, resize=24, crop=20)
    for name, (content, _) in IMAGES.items():
        if "rotated" in name and "6" not in name:
            continue
        images, valid = decode([*mutated(content, 100), good])
        assert valid[-1] and not images[:-1][~valid[:-1]].any()
        np.testing.assert_allclose(images[-1], expected, atol=2e-3)


def test_frames_after_the_first_are_not_decoded():
    first = Image.fromarray(IMAGES["gif"][1])
    content = encode(first, "GIF", save_all=True, append_images=[first.rotate(90)])
    frame = content.rindex(b"\x2c\0\0\0\0")
    # The second frame claims four gigapixels.
    large = content[: frame + 5] + b"\xff" * 4 + content[frame + 9 :]
    images, valid = decode([content, large, content[: frame + 12]])
    assert valid.all()
    np.testing.assert_array_equal(images, images[[0, 0, 0]])


def test_batches_of_none():
    images, valid = decode([])
    assert len(images) == len(valid) == 0


def test_files_of_countless_parts_are_not_read_to_the_end():
    image = Image.fromarray(IMAGES["png"][1])
    plain, turned = (encode(image, "JPEG", exif=exif(n)) for n in (1, 6))
    filled = turned[:2] + b"\xff" * 100_000 + turned[2:]
    gif = IMAGES["gif"][0]
    start = gif.index(b"\x2c\0\0\0\0")
    comment = b"\x21\xfe" + b"\1x" * 50_000 + b"\0"
    images, valid = decode([plain, filled, gif[:start] + comment + gif[start:]])
    assert valid.tolist() == [True, True, False]
    np.testing.assert_array_equal(images[1], images[0])
