"""Images that stay in their files and are decoded on demand, a batch at a time."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from elu_zoo._names import printable
from elu_zoo.errors import ImageError, UserError
from elu_zoo.image_folders import class_folders, warn_left_out
from elu_zoo.images import load_image

CACHE_BYTES = 256 * 2**20
"""Total size of the decoded images to keep; others are decoded each time."""


class ImageFiles:
    """Images in files, indexed like an array of shape `(n, side, side, channels)`.

    Only requested images are decoded, in several threads. The first ones decoded are
    kept, as many as fit into `cache_bytes`.

    Args:
        paths: Paths of the files.
        size: Side in pixels. The shorter side is resized to it and the center cropped.
        channels: 3 for RGB, 1 for gray.
        cache_bytes: Number of bytes of decoded images to keep.
        preprocessing: Arguments of `elu_zoo.images.resize` that make images of that
            size in a different way.

    Example:

    >>> files = ImageFiles(["a.jpg", "b.jpg"], 32)
    >>> files.shape, files.dtype
    ((2, 32, 32, 3), dtype('uint8'))
    """

    dtype = np.dtype("uint8")

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        size: int,
        channels: int = 3,
        cache_bytes: int = CACHE_BYTES,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        self.paths = [pathlib.Path(path) for path in paths]
        self.size, self.channels, self.cache_bytes = size, channels, cache_bytes
        self.preprocessing = {"resize": size} | dict(preprocessing or {})
        self._room = cache_bytes // (size * size * channels)
        self._cache: dict[int, np.ndarray] = {}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array of all images: `(n, side, side, channels)`."""
        return (len(self.paths), self.size, self.size, self.channels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        """A uint8 array: one image for a number, otherwise a batch."""
        chosen = self._numbers(index)
        if chosen.ndim == 0:
            return self._image(int(chosen))
        images = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        with _threads() as pool:
            for image, decoded in zip(
                images, pool.map(self._image, chosen.tolist()), strict=True
            ):
                image[:] = decoded
        return images

    def take(self, index: npt.ArrayLike) -> ImageFiles:
        """Selects images without decoding them.

        Args:
            index: Integer array of shape `(n,)`, the numbers of the images, or a mask.

        Returns:
            An `ImageFiles` of length n.
        """
        chosen = self._numbers(np.asarray(index)).tolist()
        taken = ImageFiles(
            [self.paths[i] for i in chosen],
            self.size,
            self.channels,
            self.cache_bytes,
            self.preprocessing,
        )
        taken._cache = {
            n: self._cache[i] for n, i in enumerate(chosen) if i in self._cache
        }
        return taken

    def _numbers(self, index: Any) -> np.ndarray:
        """The numbers that an index of an array selects, from 0."""
        if np.size(index) == 0:
            index = np.zeros(0, int)  # NumPy's empty lists are of floats.
        return np.asarray(np.arange(len(self))[index])

    def unreadable(self) -> list[int]:
        """Decodes every file once to find those that cannot be read.

        Returns:
            The numbers of the files that cannot be read as images.
        """
        bad: list[int] = []
        numbers = range(len(self))
        with _threads() as pool:
            # In parts, because a task per file for a million files takes a gigabyte.
            for part in (numbers[i : i + 1000] for i in range(0, len(self), 1000)):
                good = pool.map(self._is_readable, part)
                bad += [n for n, fine in zip(part, good, strict=True) if not fine]
        return bad

    def _is_readable(self, number: int) -> bool:
        try:
            self._image(number)
        except ImageError:
            return False
        return True

    def _image(self, number: int) -> np.ndarray:
        if number in self._cache:
            return self._cache[number]
        image = load_image(self.paths[number], self.channels, **self.preprocessing)
        image = np.rint(image).astype("uint8")
        if len(self._cache) < self._room:
            self._cache[number] = image
        return image


def open_image_folder(
    folder: str | os.PathLike[str],
    size: int = 32,
    channels: int = 3,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> tuple[ImageFiles, np.ndarray, list[str]]:
    """Finds images sorted into one folder per class, which stay in their files.

    Decodes every file once. Skips unreadable files and folders without an image, and
    warns with their number and first names.

    Args:
        folder: Path of a folder of class folders, `<class>/*.jpg`.
        size: Side in pixels. The shorter side is resized to it and the center cropped.
        channels: 3 for RGB, 1 for gray.
        class_names: Names of the classes in the order of their numbers, such as those
            of the model to evaluate. Default: the names of the folders, sorted.
        preprocessing: As in `ImageFiles`, such as the result of
            `elu_zoo.images.preprocessing_of`.

    Returns:
        `(images, labels, class_names)`: an `ImageFiles`, an integer array of shape
        `(n,)`, and the list of class names in order.

    Raises:
        UserError: If there are no images, if a folder is not in `class_names`, or if
            there are fewer than two classes and no `class_names`.

    Example:

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (folder / name).mkdir()
    ...     Image.new("RGB", (40, 50)).save(folder / name / "1.png")
    >>> images, labels, class_names = open_image_folder(folder)
    >>> images[:2].shape, labels.tolist(), class_names
    ((2, 32, 32, 3), [0, 1], ['cat', 'dog'])
    """
    folder = pathlib.Path(folder)
    found = class_folders(folder, class_names)
    paths = [file for _, files in found for file in files]
    names = [path.name for path, files in found for _ in files]
    images = ImageFiles(paths, size, channels, preprocessing=preprocessing)
    unreadable = images.unreadable()
    warn_left_out("Files that cannot be read as images", [paths[i] for i in unreadable])
    good = np.setdiff1d(np.arange(len(paths)), unreadable)
    names = [names[i] for i in good]
    with_images = sorted(set(names))
    empty = [path for path, _ in found if path.name not in set(names)]
    warn_left_out("Folders without an image", empty)
    if class_names is None:
        if len(with_images) < 2:
            raise UserError(
                f"Expected {printable(folder)} to have at least two folders with "
                f"images, one per class. Received: {with_images or 'none'}"
            )
        class_names = with_images
    class_names = [str(name) for name in class_names]
    if not names:
        raise UserError(f"Expected images in {printable(folder)}. Received: none")
    numbers = {name: number for number, name in enumerate(class_names)}
    return images.take(good), np.array([numbers[n] for n in names]), class_names


class Batches(keras.utils.PyDataset):
    """Batches of a training or held-out set, a pure function of seed and epoch.

    Args:
        images: Array of shape `(n, height, width, channels)`, or `ImageFiles`.
        labels: Integer array of shape `(n,)`.
        batch_size: Images per batch; the last batch may be smaller.
        seed: Seed of the order and the augmentation; `None` for the given order without
            augmentation.
        augment: Whether to flip images at random and shift them by up to an eighth of
            their size.

    Raises:
        UserError: If images are to be augmented without a seed.

    Example:

    >>> images, labels = np.zeros((5, 8, 8, 3), "uint8"), np.arange(5)
    >>> batches = Batches(images, labels, batch_size=2)
    >>> [batches[i][1].tolist() for i in range(len(batches))]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        images: np.ndarray | ImageFiles,
        labels: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        augment: bool = False,
    ) -> None:
        super().__init__()
        if augment and seed is None:
            raise UserError(
                "Expected a seed to augment images. Received: seed=None, augment=True"
            )
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.seed, self.augment = seed, augment
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Number of the epoch that the batches belong to."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch, self._order = epoch, np.arange(len(self.labels))
        if self.seed is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(self._order)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * self.batch_size :][: self.batch_size]
        images = self.images[chosen]
        if self.augment and self.seed is not None:
            rng = np.random.default_rng((self.seed, self.epoch, index))
            images = flipped_and_shifted(images, rng)
        return images, self.labels[chosen]


def flipped_and_shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips half of the images, and shifts each by up to an eighth of its size.

    Args:
        images: Array of shape `(n, height, width, channels)`.
        rng: NumPy generator.

    Returns:
        An array of the same shape. The image is mirrored into the uncovered area.

    Example:

    >>> images = np.zeros((2, 32, 32, 3), "uint8")
    >>> flipped_and_shifted(images, np.random.default_rng(0)).shape
    (2, 32, 32, 3)
    """
    n, height, width, _ = images.shape
    y, x = height // 8, width // 8
    padded = np.pad(images, ((0, 0), (y, y), (x, x), (0, 0)), mode="reflect")
    padded = np.where(rng.random((n, 1, 1, 1)) < 0.5, padded[:, :, ::-1], padded)
    corners = rng.integers(0, (2 * y + 1, 2 * x + 1), (n, 2))
    return np.stack(
        [
            image[top : top + height, left : left + width]
            for image, (top, left) in zip(padded, corners, strict=True)
        ]
    )


def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count())
