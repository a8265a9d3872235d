"""One set of limits and formats: the same verdict on a file by every path."""

import functools
import io
import struct
import zlib

import keras
import numpy as np
import pytest
from made_up import WITHOUT_OPS, encoded_images
from PIL import Image

from elu_zoo import datasets
from elu_zoo.batch import Predictor
from elu_zoo.errors import ImageError, UserError
from elu_zoo.image_files import open_image_folder
from elu_zoo.image_folders import load_image_folder
from elu_zoo.images import preprocess_input


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def claiming(kind, width, height):
    """The start of a file that says how large it is."""
    if kind == "PNG":
        data = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        chunk = b"IHDR" + data
        checksum = struct.pack(">I", zlib.crc32(chunk))
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + checksum
    content = encode(Image.new("RGB", (16, 16)), kind)
    place, form = {"GIF": (6, "<HH"), "BMP": (18, "<II")}[kind]
    claim = struct.pack(form, width, height)
    return content[:place] + claim + content[place + len(claim) :]


@functools.cache
def files():
    """Contents by name, and the names of those to accept."""
    good = {name: content for name, (content, _) in encoded_images().items()}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        good[f"{kind} 100 to 1"] = encode(Image.new("RGB", (100, 1)), kind)
    bad = {"nothing": b"", "text": b"text", "a start": b"\xff\xd8\xff"}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        bad[f"{kind} 101 to 1"] = encode(Image.new("RGB", (101, 1)), kind)
    for kind in ("PNG", "GIF", "BMP"):
        for size in ((60_000, 60_000), (0, 0), (0, 50)):
            # A GIF is as large as its first frame.
            group = good if kind == "GIF" and 0 in size else bad
            group[f"{kind} that claims {size}"] = claiming(kind, *size)
    for size in ((1, 101), (12_000, 2), (11_000, 10_000)):
        bad[f"PNG {size}"] = encode(Image.new("1", size), "PNG")
    for kind in ("DDS", "EPS", "TGA", "PPM", "ICO", "PCX"):
        bad[kind] = encode(Image.new("RGB", (16, 16)), kind)
    return good | bad, set(good)


def each(read):
    """A path that takes one content: whether it makes an image of it."""

    def accepts(contents, tmp_path):
        found = set()
        for name, content in contents.items():
            try:
                read(content)
            except (ImageError, UserError):
                continue
            found.add(name)
        return found

    return accepts


def of_folders(load):
    """A path that takes class folders, of which it leaves out those without images."""

    def accepts(contents, tmp_path):
        for name, content in contents.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "1.jpg").write_bytes(content)
        return set(load(tmp_path, 8)[2])

    return accepts


def predict(contents, tmp_path):
    errors = Predictor("elunet11.cifar100")(list(contents.values()))["error"]
    return {name for name, e in zip(contents, errors, strict=True) if e is None}


def train(content):
    (pixels,) = datasets.read_images([content])
    assert pixels.ndim == 3


def train_on_imagenet(content):
    from training.data.decoding import sides_of
    from training.data.stored_images import resized, rgb_jpeg

    assert all(sides_of(resized(rgb_jpeg(content), 8)))


def serve(contents, tmp_path):
    import tensorflow as tf

    from elu_zoo._graph_images import decode

    _, valid = decode(tf.constant(list(contents.values())), 3, 8, 8)
    return {name for name, ok in zip(contents, valid.numpy()[:-1], strict=True) if ok}


PATHS = {
    "preprocess_input": each(lambda x: preprocess_input(x, "elunet11.cifar100")),
    "predict": predict,
    "finetune": of_folders(open_image_folder),
    "load_image_folder": of_folders(load_image_folder),
    "train": each(train),
    "train on ImageNet": each(train_on_imagenet),
    "serve": serve,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", PATHS)
def test_the_same_verdict_by_every_path(zoo, tmp_path, path):
    contents, expected = files()
    if path == "serve":
        if keras.backend.backend() != "tensorflow":
            pytest.skip("graphs are TensorFlow's")
        expected = expected - set(WITHOUT_OPS)
    folder = tmp_path / "images"
    folder.mkdir()
    assert PATHS[path](contents, folder) == expected


def test_the_limits_for_jpeg_files_that_are_decoded_by_ops():
    tf = pytest.importorskip("tensorflow")
    from training.data.crops import CenterCrop
    from training.data.decoding import decode, decode_ops

    sizes = [(100, 1), (101, 1), (1, 101), (40, 30)]
    contents = [encode(Image.new("RGB", size), "JPEG") for size in sizes]
    draws = np.zeros((len(contents), 0), "float32")
    _, good = decode(contents, CenterCrop(8), draws, 8)
    _, by_ops = decode_ops(tf.constant(contents), CenterCrop(8), tf.constant(draws), 8)
    assert list(good) == list(by_ops.numpy()) == [True, False, False, True]
