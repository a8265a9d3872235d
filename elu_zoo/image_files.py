"""Images that stay in their files: decoded when asked for, a batch at a time."""

import concurrent.futures
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from elu_zoo.errors import ImageError, UserError
from elu_zoo.images import class_folders, load_image, printable, warn_left_out

# Decoded images are kept up to this size in all; beyond, files are decoded each time.
CACHE_BYTES = 256 * 2**20


class ImageFiles:
    """Images in files, indexed like an array of shape `(n, side, side, channels)`.

    Only the images that are asked for are decoded, on several threads. Those decoded
    first are kept, as many as fit in `cache_bytes`.

    Args:
        paths: List of paths.
        size: Side in pixels. The shorter side is resized to it, the center cropped.
        channels: 3 for RGB, 1 for gray.
        cache_bytes: Bytes of decoded images to keep.
        preprocessing: Arguments of `elu_zoo.images.resize` that give images of that
            size in another way.

    Example:

    >>> files = ImageFiles(["a.jpg", "b.jpg"], 32)
    >>> files.shape, files.dtype
    ((2, 32, 32, 3), dtype('uint8'))
    """

    dtype = np.dtype("uint8")

    def __init__(
        self, paths, size, channels=3, cache_bytes=CACHE_BYTES, preprocessing=None
    ):
        self.paths = [pathlib.Path(path) for path in paths]
        self.size, self.channels, self.cache_bytes = size, channels, cache_bytes
        self.preprocessing = preprocessing or {"resize": size}
        self._room = cache_bytes // (size * size * channels)
        self._cache = {}

    @property
    def shape(self):
        """As of an array."""
        return (len(self.paths), self.size, self.size, self.channels)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        """A uint8 array: one image for a number, else a batch."""
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        if np.ndim(index) == 0:
            return self._image(int(index))
        with _threads() as pool:
            return np.stack([*pool.map(self._image, index)])

    def take(self, index):
        """The images of some numbers as another `ImageFiles`; nothing is decoded."""
        taken = ImageFiles(
            [self.paths[i] for i in index],
            self.size,
            self.channels,
            self.cache_bytes,
            self.preprocessing,
        )
        taken._cache = {
            n: self._cache[i] for n, i in enumerate(index) if i in self._cache
        }
        return taken

    def unreadable(self):
        """Decodes every file once.

        Returns:
            The numbers of those that cannot be read as images.
        """
        bad, numbers = [], range(len(self))
        with _threads() as pool:
            # In parts: a task for each of a million files would take a gigabyte.
            for part in (numbers[i : i + 1000] for i in range(0, len(self), 1000)):
                good = pool.map(self._is_readable, part)
                bad += [n for n, fine in zip(part, good, strict=True) if not fine]
        return bad

    def _is_readable(self, number):
        try:
            self._image(number)
        except ImageError:
            return False
        return True

    def _image(self, number):
        if number in self._cache:
            return self._cache[number]
        image = load_image(self.paths[number], self.channels, **self.preprocessing)
        image = np.rint(image).astype("uint8")
        if len(self._cache) < self._room:
            self._cache[number] = image
        return image


def open_image_folder(
    folder: str | os.PathLike,
    size: int = 32,
    channels: int = 3,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> tuple["ImageFiles", np.ndarray, list[str]]:
    """Finds images sorted into one folder per class; they stay in their files.

    Every file is decoded once. Files that cannot be read are left out, and folders
    without an image are no classes; warnings count and name them.

    Args:
        folder: Path of a folder with folders of images, `<class>/*.jpg`.
        size: Side in pixels. The shorter side is resized to it, the center cropped.
        channels: 3 for RGB, 1 for gray.
        class_names: Names of the classes in the order of their numbers, such as those
            of the model to evaluate. Default: the folders, in the order of their names.
        preprocessing: As of `ImageFiles`, such as `elu_zoo.images.preprocessing_of`
            gives for a model.

    Returns:
        `(images, labels, class_names)`: an `ImageFiles`, an integer array of shape
        `(n,)` and a list.

    Raises:
        UserError: If there are not at least two classes with images, or with
            `class_names` no images or folders of other names.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"Expected a folder of class folders. Received: {printable(folder)}"
        )
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
    """Batches of a training or a held-out set, a pure function of seed and epoch.

    Args:
        images: Array of shape `(n, height, width, channels)`, or `ImageFiles`.
        labels: Integer array of shape `(n,)`.
        batch_size: Images a batch; the last may be smaller.
        seed: Of order and augmentation; `None` for the images in order, as they are.
        augment: Whether to flip images at random and shift them by up to an eighth.
    """

    def __init__(self, images, labels, batch_size, seed=None, augment=False):
        super().__init__()
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.seed, self.augment = seed, augment
        self.epoch = 0

    @property
    def epoch(self):
        """Number of the epoch that the batches are of."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self._epoch, self._order = epoch, np.arange(len(self.labels))
        if self.seed is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(self._order)

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index):
        chosen = self._order[index * self.batch_size :][: self.batch_size]
        images = self.images[chosen]
        if self.augment:
            rng = np.random.default_rng((self.seed, self.epoch, index))
            images = flipped_and_shifted(images, rng)
        return images, self.labels[chosen]


def flipped_and_shifted(images, rng):
    """Flips half of the images, and shifts each by up to an eighth of its sides.

    Args:
        images: Array of shape `(n, height, width, channels)`.
        rng: NumPy generator.

    Returns:
        An array of the same shape. What a shift uncovers is the image mirrored.
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


def _threads():
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count())
