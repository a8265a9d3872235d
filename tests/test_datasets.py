import gzip
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from elu_zoo import datasets
from elu_zoo.errors import ImageError, UserError

DATA = os.environ.get("ELU_ZOO_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="needs the real data sets in the folder of ELU_ZOO_DATA"
)


def write_mnist(folder):
    (folder / "mnist").mkdir()
    images = np.arange(3 * 784, dtype="uint32").astype("uint8").reshape(3, 28, 28)
    header = np.array([2051, 3, 28, 28], ">i4").tobytes()
    (folder / "mnist/train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(header + images.tobytes())
    )
    header = np.array([2049, 3], ">i4").tobytes()
    (folder / "mnist/train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(header + bytes([5, 0, 9]))
    )
    return images


def test_mnist_idx_files(tmp_path):
    images = write_mnist(tmp_path)
    data = datasets.load("mnist", "train", tmp_path)
    np.testing.assert_array_equal(data.images[..., 0], images)
    np.testing.assert_array_equal(data.labels, [5, 0, 9])


def test_cifar100_binary_records_are_planes_of_red_green_blue(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    image = np.zeros((3, 32, 32), "uint8")
    image[0, 2, 5], image[2, 31, 0] = 200, 100
    record = bytes([7, 42]) + image.tobytes()
    for split in ("train", "test"):
        (folder / f"{split}.bin").write_bytes(record * 2)
    (folder / "fine_label_names.txt").write_text("\n".join(map(str, range(100))))
    for given in (tmp_path, folder):
        data = datasets.load("cifar100", "test", given)
        assert data.images.shape == (2, 32, 32, 3)
        assert data.images[1, 2, 5, 0] == 200 and data.images[1, 31, 0, 2] == 100
        assert list(data.labels) == [42, 42]


def test_cifar10_binary_records_in_the_order_of_their_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    image = np.zeros((3, 32, 32), "uint8")
    image[0, 2, 5], image[2, 31, 0] = 200, 100
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        (folder / f"{name}.bin").write_bytes(bytes([i]) + image.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    data = datasets.load("cifar10", "train", tmp_path)
    assert data.images.shape == (5, 32, 32, 3)
    assert data.images[4, 2, 5, 0] == 200 and data.images[4, 31, 0, 2] == 100
    assert list(data.labels) == [0, 1, 2, 3, 4]
    assert data.class_names == tuple("abcdefghij")
    assert list(datasets.load("cifar10", "test", tmp_path).labels) == [5]


def test_image_folder(tmp_path):
    for name, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (6, 4), color).save(tmp_path / "train" / name / "1.png")
    data = datasets.load("image_folder", "train", tmp_path)
    assert data.class_names == ("blue", "red")
    assert data.images.shape == (2, 4, 6, 3)
    assert list(data.images[1, 0, 0]) == [255, 0, 0]
    Image.new("RGB", (5, 4)).save(tmp_path / "train/red/2.png")
    with pytest.raises(ValueError, match="one size.*2.png of .4, 5."):
        datasets.load("image_folder", "train", tmp_path)
    with pytest.raises(FileNotFoundError, match="Expected image files"):
        datasets.load("image_folder", "test", tmp_path)


def test_image_folder_with_odd_things_in_it(tmp_path):
    for name in ("red", "blue", ".checkpoints"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "test" / name / "1.png")
    (tmp_path / "test/red/notes.txt").write_text("no image")
    with pytest.warns(UserWarning, match="1 left out. .*notes.txt"):
        data = datasets.load("image_folder", "test", tmp_path)
    assert data.class_names == ("blue", "red") and list(data.labels) == [0, 1]
    (tmp_path / "test/red/2.png").write_bytes(b"no image")
    with pytest.warns(), pytest.raises(ImageError, match="2.png"):
        datasets.load("image_folder", "test", tmp_path)


def test_unknown_names():
    with pytest.raises(ValueError, match="cifar99"):
        datasets.load("cifar99", "train", ".")
    with pytest.raises(ValueError, match="'validation'"):
        datasets.load("mnist", "validation", ".")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [12, 40])
def test_resized_as_pil_does(channels, side):
    shape = (3, 24, 24, channels)
    images = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    data = datasets.Dataset(images, np.arange(3), tuple("abc"))
    assert data.resized(24) is data
    resized = data.resized(side)
    assert resized.images.shape == (3, side, side, channels)
    assert resized.image_size == side and (resized.labels == data.labels).all()
    for image, before in zip(resized.images, images, strict=True):
        before = Image.fromarray(before if channels == 3 else before[..., 0])
        expected = np.asarray(before.resize((side, side), Image.Resampling.BILINEAR))
        # PIL rounds after each of its two passes.
        np.testing.assert_allclose(image, expected.reshape(image.shape), atol=1.01)


@needs_data
@pytest.mark.parametrize(
    "name, train, test, classes",
    [("mnist", 60_000, 10_000, 10), ("cifar100", 50_000, 10_000, 100)],
)
def test_real_data_sets(name, train, test, classes):
    for split, count in (("train", train), ("test", test)):
        data = datasets.load(name, split, pathlib.Path(DATA))
        assert len(data.images) == len(data.labels) == count
        assert len(data.class_names) == classes
        assert set(data.labels) == set(range(classes))
    counts = np.bincount(data.labels)
    if name == "cifar100":
        assert (counts == 100).all()


@needs_data
def test_real_tiny_imagenet():
    data = datasets.load("tiny_imagenet", "test", pathlib.Path(DATA))
    assert data.images.shape == (10_000, 64, 64, 3)
    assert (np.bincount(data.labels) == 50).all()
    assert len(set(data.class_names)) == 200


def test_a_model_with_two_classes_of_one_name_has_no_numbers():
    with pytest.raises(UserError, match="2 names, 1 of them distinct"):
        datasets.class_numbers(["a"], ["a", "a"])
