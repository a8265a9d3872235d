"""Data sets in memory, from the publishers' files or from TensorFlow Datasets."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gzip
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from elu_zoo._names import printable
from elu_zoo.errors import UserError
from elu_zoo.image_folders import class_folders
from elu_zoo.images import read_image, resize

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The images of one split.

    Attributes:
        images: Array of shape `(examples, height, width, channels)`, values from 0 to
            255; uint8 unless resized.
        labels: int64 array of shape `(examples,)`.
        class_names: One name per class.

    Example:

    >>> images, labels = np.zeros((4, 28, 28, 1), "uint8"), np.array([0, 1, 1, 0])
    >>> dataset = Dataset(images, labels, ("cat", "dog"))
    >>> len(dataset[:2]), dataset.resized(32).image_size
    (2, 32)
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.images.shape[1]

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.images.shape[-1]

    def __getitem__(self, index: Any) -> Self:
        return dataclasses.replace(
            self, images=self.images[index], labels=self.labels[index]
        )

    def resized(self, side: int) -> Self:
        """Resizes the images to a square.

        Args:
            side: Side of the square in pixels.

        Returns:
            A `Dataset` whose images are float32 and resized as by
            `elu_zoo.preprocess_input`; this data set if they have that size already.
        """
        if self.images.shape[1:3] == (side, side):
            return self
        from PIL import Image

        images = self.images[..., 0] if self.channels == 1 else self.images
        resized = np.empty((len(self), side, side, self.channels), "float32")
        for target, image in zip(resized, images, strict=True):
            target[:] = resize(Image.fromarray(image), side)
        return dataclasses.replace(self, images=resized)

    def with_classes(self, class_names: Sequence[str]) -> Self:
        """Renumbers the labels by the classes of a model.

        Args:
            class_names: The classes of the model, in its order; they must include all
                classes of the data set.

        Returns:
            A `Dataset` with these class names.

        Raises:
            UserError: If a class is missing from `class_names`.
        """
        numbers = class_numbers(self.class_names, class_names)
        return dataclasses.replace(
            self, labels=numbers[self.labels], class_names=tuple(class_names)
        )


def class_numbers(names: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Finds the numbers that a model gives to the classes of a data set.

    Args:
        names: Class names of the data set.
        class_names: Class names of the model.

    Returns:
        An integer array with one number per class of the data set.

    Raises:
        UserError: If the model lacks a class of the data set, or has two of one name.

    Example:

    >>> class_numbers(["cat", "dog"], ["ant", "dog", "cat"])
    array([2, 1])
    """
    if tuple(names) == tuple(class_names):
        return np.arange(len(names))
    numbers = {name: number for number, name in enumerate(class_names)}
    unknown = [name for name in names if name not in numbers]
    if len(numbers) < len(class_names):
        raise UserError(
            "Expected class names without duplicates. Received: "
            f"{len(class_names)} names, {len(numbers)} of them distinct"
        )
    if unknown:
        raise UserError(
            f"Expected the {len(class_names)} classes that the network was trained on. "
            f"Received: {len(names)} classes, of which the network does not know: "
            f"{', '.join(unknown[:5])}"
        )
    return np.array([numbers[name] for name in names])


@dataclasses.dataclass(frozen=True)
class Entry:
    """Everything known about a data set besides its examples.

    Attributes:
        load: Function of the folder of the data sets and `"train"` or `"test"` that
            returns the split.
        terms: Terms of use, as sentences of a model card.
        url: URL of the terms.
        tfds: Whether TensorFlow Datasets prepares it under the same name.
        hub: Name of the data set on the Hugging Face Hub, if it has one.
        archives: File names of the official archives by split, for data sets that
            `training.prepare` reads itself.
        examples: Number of images in these archives by split.

    Example:

    >>> CATALOGUE["mnist"].tfds
    True
    """

    load: Callable[[pathlib.Path, str], Any]
    terms: str
    url: str
    tfds: bool = False
    hub: str | None = None
    archives: Mapping[str, str] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str],
    catalogue: Mapping[str, Entry] | None = None,
) -> Any:
    """Loads a split of a data set.

    Args:
        name: `"cifar10"`, `"cifar100"`, `"mnist"`, `"tiny_imagenet"` or
            `"image_folder"`.
        split: `"train"` or `"test"` (for Tiny ImageNet, the labelled validation
            images).
        data_dir: Folder that holds the publisher's folder, or that folder itself:
            `cifar-10-batches-bin/`, `cifar-100-binary/`, `mnist/` with its
            `*-ubyte.gz`, `tiny-imagenet-200/`; for an image folder
            `<split>/<class>/*.jpg`. If these are missing, TensorFlow Datasets provides
            CIFAR and MNIST, with this as its data folder.
        catalogue: Data sets to choose from; default `CATALOGUE`.

    Returns:
        A `Dataset`.

    Raises:
        UserError: If there is no such data set or split.
        FileNotFoundError: If the files do not exist.

    Example:

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (folder / "train" / name).mkdir(parents=True)
    ...     Image.new("RGB", (8, 8)).save(folder / "train" / name / "1.jpg")
    >>> data = load("image_folder", "train", folder)
    >>> len(data), data.class_names
    (2, ('cat', 'dog'))
    """
    catalogue = CATALOGUE if catalogue is None else catalogue
    if name not in catalogue:
        raise UserError(
            f"Expected one of the data sets {sorted(catalogue)}. Received: {name!r}"
        )
    if split not in ("train", "test"):
        raise UserError(f"Expected the split 'train' or 'test'. Received: {split!r}")
    data_dir = pathlib.Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"Expected the folder of the data sets. There is no folder {data_dir}"
        )
    return catalogue[name].load(data_dir, split)


def _folder(data_dir: pathlib.Path, name: str, file: str) -> pathlib.Path:
    """The folder of a data set: the given one if it holds `file`, or one inside it."""
    return data_dir if (data_dir / file).is_file() else data_dir / name


def _cifar10(data_dir: pathlib.Path, split: str) -> Dataset:
    folder = _folder(data_dir, "cifar-10-batches-bin", "test_batch.bin")
    batches = {
        "train": [f"data_batch_{i}" for i in range(1, 6)],
        "test": ["test_batch"],
    }
    files = [folder / f"{batch}.bin" for batch in batches[split]]
    if not all(file.is_file() for file in files):
        return _tfds("cifar10", data_dir, split, f"{folder}/*.bin")
    return _cifar(files, 1, folder / "batches.meta.txt")


def _cifar100(data_dir: pathlib.Path, split: str) -> Dataset:
    folder = _folder(data_dir, "cifar-100-binary", "test.bin")
    if not (folder / "train.bin").is_file():
        return _tfds("cifar100", data_dir, split, f"{folder}/train.bin and test.bin")
    return _cifar([folder / f"{split}.bin"], 2, folder / "fine_label_names.txt")


def _cifar(
    files: Sequence[pathlib.Path], label_bytes: int, names: pathlib.Path
) -> Dataset:
    """Reads records of label bytes, the last being the label, then red, green, blue."""
    length = label_bytes + 3072
    count = sum(file.stat().st_size for file in files) // length
    images, labels = np.empty((count, 32, 32, 3), np.uint8), np.empty(count, int)
    end = 0
    for records in _records(files, length):
        start, end = end, end + len(records)
        labels[start:end] = records[:, label_bytes - 1]
        planes = records[:, label_bytes:].reshape(-1, 3, 32, 32)
        images[start:end] = planes.transpose(0, 2, 3, 1)
    return Dataset(images, labels, tuple(names.read_text("utf-8").split()))


def _records(
    files: Sequence[pathlib.Path], length: int, at_once: int = 1000
) -> Iterator[np.ndarray]:
    """Reads the rows of files in parts, so that the images are in memory only once."""
    for file in files:
        for start in range(0, file.stat().st_size, at_once * length):
            part = np.fromfile(file, np.uint8, at_once * length, offset=start)
            yield part.reshape(-1, length)


def _mnist(data_dir: pathlib.Path, split: str) -> Dataset:
    folder = _folder(data_dir, "mnist", "t10k-images-idx3-ubyte.gz")
    prefix = {"train": "train", "test": "t10k"}[split]
    files = [
        folder / f"{prefix}-images-idx3-ubyte.gz",
        folder / f"{prefix}-labels-idx1-ubyte.gz",
    ]
    if not all(file.is_file() for file in files):
        return _tfds("mnist", data_dir, split, " and ".join(map(str, files)))
    images, labels = (gzip.decompress(file.read_bytes()) for file in files)
    return Dataset(
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1),
        np.frombuffer(labels, np.uint8, offset=8).astype(int),
        tuple("0123456789"),
    )


def _tiny_imagenet(data_dir: pathlib.Path, split: str) -> Dataset:
    files, labels, names = tiny_imagenet_files(data_dir, split)
    return Dataset(read_images(files, read_tiny), labels, names)


def tiny_imagenet_files(
    data_dir: pathlib.Path, split: str
) -> tuple[list[pathlib.Path], np.ndarray, tuple[str, ...]]:
    r"""Lists the files of Tiny ImageNet.

    Args:
        data_dir: Folder that holds `tiny-imagenet-200/`.
        split: `"train"` or `"test"`.

    Returns:
        Paths of the images, their labels, and the class names.

    Raises:
        FileNotFoundError: If the files do not exist.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "tiny-imagenet-200"
    >>> (folder / "val").mkdir(parents=True)
    >>> _ = (folder / "wnids.txt").write_text("n01443537")
    >>> _ = (folder / "words.txt").write_text("n01443537\tgoldfish, Carassius")
    >>> row = "val_0.JPEG\tn01443537\t0\t32\t44\t62"
    >>> _ = (folder / "val/val_annotations.txt").write_text(row)
    >>> files, labels, names = tiny_imagenet_files(folder.parent, "test")
    >>> files[0].name, labels.tolist(), names
    ('val_0.JPEG', [0], ('goldfish',))
    """
    folder = _folder(data_dir, "tiny-imagenet-200", "wnids.txt")
    if not (folder / "wnids.txt").is_file():
        raise FileNotFoundError(
            f"Expected the unpacked tiny-imagenet-200.zip in {folder}. Received: none"
        )
    ids = (folder / "wnids.txt").read_text("utf-8").split()
    words = dict(
        line.split("\t", 1)
        for line in (folder / "words.txt").read_text("utf-8").splitlines()
    )
    names = tuple(words[wnid].split(",")[0].replace(" ", "_") for wnid in ids)
    if split == "train":
        files = [
            (file, label)
            for label, wnid in enumerate(ids)
            for file in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        ]
    else:
        annotations = (
            (folder / "val" / "val_annotations.txt").read_text("utf-8").splitlines()
        )
        rows = [line.split("\t")[:2] for line in annotations]
        files = [
            (folder / "val" / "images" / file, ids.index(wnid)) for file, wnid in rows
        ]
    paths, labels = zip(*files, strict=True)
    return list(paths), np.array(labels), names


def read_images(
    files: Sequence[pathlib.Path], read: Callable[[pathlib.Path], Any] = read_image
) -> np.ndarray:
    """Reads RGB images of one size on all processors, directly into the result.

    Args:
        files: Paths of the images.
        read: Function that returns the pixels of a file.

    Returns:
        A uint8 array of shape `(files, height, width, 3)`.

    Raises:
        ImageError: If a file is not an image.
        UserError: If the size of an image differs from that of the first.

    Example:

    >>> import tempfile
    >>> from PIL import Image
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "1.png"
    >>> Image.new("RGB", (8, 4)).save(file)
    >>> read_images([file, file]).shape
    (2, 4, 8, 3)
    """
    images = np.empty((len(files), *np.shape(read(files[0]))), "uint8")

    def fill(start: int) -> None:
        for number, file in enumerate(files[start : start + 500], start):
            image = np.asarray(read(file))
            if image.shape != images.shape[1:]:
                raise UserError(
                    "Expected images of one size; resize them first. Received: "
                    f"{printable(files[0])} of {images.shape[1:3]}, "
                    f"{printable(file)} of {image.shape[:2]}"
                )
            images[number] = image

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(files), 500)))
    return images


def read_tiny(file: pathlib.Path) -> Any:
    """Reads an image of Tiny ImageNet; simplejpeg takes a third of Pillow's time.

    The pixels are those of `read_image`. Limits and orientations are not checked; these
    files do not need that.

    Args:
        file: Path of a JPEG file.

    Returns:
        The pixels, as an array or a PIL image.

    Raises:
        ImageError: If the file is not an image.

    Example:

    >>> import tempfile
    >>> from PIL import Image
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "1.jpg"
    >>> Image.new("RGB", (8, 4)).save(file)
    >>> np.asarray(read_tiny(file)).shape
    (4, 8, 3)
    """
    try:
        import simplejpeg

        return simplejpeg.decode_jpeg(file.read_bytes())
    except (ImportError, KeyError, ValueError):  # It takes whole JPEG files only.
        return read_image(file)


def _image_folder(data_dir: pathlib.Path, split: str) -> Dataset:
    folder = data_dir / split
    classes = class_folders(folder) if folder.is_dir() else []
    files = [file for _, files in classes for file in files]
    if not files:
        raise FileNotFoundError(
            f"Expected image files in {folder}/<class>/. There are none."
        )
    labels = np.repeat(np.arange(len(classes)), [len(files) for _, files in classes])
    names = tuple(path.name for path, _ in classes)
    return Dataset(read_images(files), labels, names)


def _tfds(name: str, data_dir: pathlib.Path, split: str, expected: str) -> Dataset:
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=data_dir, try_download_gcs=False
            )
        )
    except Exception as error:
        raise FileNotFoundError(
            f"Expected {expected}, or a data set {name} in {data_dir} that TensorFlow "
            f"Datasets finds or downloads; it could not: {error}"
        ) from error
    examples = tfds.data_source(name, split=split, data_dir=data_dir)
    features = builder.info.features
    images = np.empty((len(examples), *features["image"].shape), np.uint8)
    labels = np.empty(len(examples), int)
    for number, example in enumerate(examples):
        images[number], labels[number] = example["image"], example["label"]
    return Dataset(images, labels, tuple(features["label"].names))


CATALOGUE: dict[str, Entry] = {
    "cifar10": Entry(
        load=_cifar10,
        terms="CIFAR-10 (Krizhevsky, 2009) was collected for research; its images come "
        "from the web and belong to their owners.",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        tfds=True,
    ),
    "cifar100": Entry(
        load=_cifar100,
        terms="CIFAR-100 (Krizhevsky, 2009) was collected for research; its images "
        "come from the web and belong to their owners.",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        tfds=True,
        hub="uoft-cs/cifar100",
    ),
    "mnist": Entry(
        load=_mnist,
        terms="MNIST (LeCun, Cortes, Burges) is derived from NIST's Special Databases "
        "1 and 3; Creative Commons Attribution-Share Alike 3.0.",
        url="http://yann.lecun.com/exdb/mnist/",
        tfds=True,
        hub="ylecun/mnist",
    ),
    "tiny_imagenet": Entry(
        load=_tiny_imagenet,
        terms="Tiny ImageNet is 200 of ImageNet's 1,000 classes, 100,000 images shrunk "
        "to 64×64; here it stands in for ImageNet. Its labelled val images are the "
        "test split. ImageNet's terms allow non-commercial research and educational "
        "use.",
        url="https://www.image-net.org/download.php",
        hub="zh-plus/tiny-imagenet",
    ),
    "image_folder": Entry(
        load=_image_folder,
        terms="A folder of images; its terms are its owner's to state.",
        url="none",
    ),
}
"""The data sets by name."""
