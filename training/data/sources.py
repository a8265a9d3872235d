"""The catalogue of the data sets that recipes name, and how to open one."""

import contextlib
import dataclasses
import functools
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from elu_zoo import datasets
from elu_zoo.files import replacing
from training.data.memory import MemoryDataset
from training.data.protocol import Examples
from training.data.records import RecordDataset

# Splits by the names that their shards have.
SPLITS = {"train": "train", "test": "validation"}


def load(
    name: str,
    split: str,
    data_dir: str | pathlib.Path,
    class_names: Sequence[str] | None = None,
) -> Examples:
    """Opens a split of a data set.

    Args:
        name: One of `CATALOGUE`: `"imagenet2012"`, `"imagenet2012_256"` (its images
            resized to 256×256), or a name of `elu_zoo.datasets.load`.
        split: `"train"` or `"test"`.
        data_dir: Folder of the data sets.
        class_names: Optional class names of a model, by which to number the labels.

    Returns:
        The examples, in memory or on disk.

    Raises:
        UserError: If there is no such data set or split, or a class of it is missing
            in `class_names`.
        FileNotFoundError: If the files are missing.
    """
    dataset = datasets.load(name, split, data_dir, CATALOGUE)
    return dataset.with_classes(class_names) if class_names else dataset


def _in_memory(entry: datasets.Entry) -> datasets.Entry:
    def load(data_dir: pathlib.Path, split: str) -> MemoryDataset:
        return MemoryDataset.of(entry.load(data_dir, split))

    return dataclasses.replace(entry, load=load)


def _on_disk(data_dir: pathlib.Path, split: str, folder: str) -> RecordDataset:
    return RecordDataset(data_dir / folder, SPLITS[split])


def _tiny_imagenet(data_dir: pathlib.Path, split: str) -> datasets.Dataset:
    """Tiny ImageNet; its decoded images are kept beside the files where possible."""
    files, labels, names = datasets.tiny_imagenet_files(data_dir, split)
    # A folder's time changes with its files.
    folders = {str(f.parent): f.parent.stat().st_mtime_ns for f in files[::20]}
    known = zlib.crc32("\n".join(map(str, (*files, folders))).encode())
    root = next(p for p in files[0].parents if (p / "wnids.txt").is_file())
    cache = root / f".decoded-{split}-{known:08x}.npz"
    images = _decoded(cache)
    if images is None:
        images = datasets.read_images(files, datasets.read_tiny)
        # A read-only folder is no reason to stop.
        with contextlib.suppress(OSError), replacing(cache) as part:
            np.savez(part, images=images)
    return datasets.Dataset(images, labels, names)


def _decoded(cache: pathlib.Path) -> np.ndarray | None:
    """The images in the file, or `None` if it is missing or damaged."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            return file["images"]  # Reading compares its checksum.
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


IMAGENET = datasets.Entry(
    load=functools.partial(_on_disk, folder="imagenet"),
    terms="ImageNet's terms of access allow non-commercial research and educational "
    "use.",
    url="https://www.image-net.org/download.php",
    archives={
        "train": "ILSVRC2012_img_train.tar",
        "validation": "ILSVRC2012_img_val.tar",
    },
    examples={"train": 1_281_167, "validation": 50_000},
)
_TINY_IMAGENET = datasets.CATALOGUE["tiny_imagenet"]

# Data sets by name: those of elu_zoo, in memory, and those that training.prepare makes.
CATALOGUE: dict[str, datasets.Entry] = {
    **{name: _in_memory(entry) for name, entry in datasets.CATALOGUE.items()},
    "tiny_imagenet": _in_memory(
        dataclasses.replace(_TINY_IMAGENET, load=_tiny_imagenet)
    ),
    "imagenet2012": IMAGENET,
    "imagenet2012_256": dataclasses.replace(
        IMAGENET, load=functools.partial(_on_disk, folder="imagenet-256")
    ),
}
