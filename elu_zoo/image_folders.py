"""Folders of images, sorted into one folder per class."""

import concurrent.futures
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from elu_zoo._names import check_class_names, printable, some
from elu_zoo.errors import ImageError, UserError
from elu_zoo.images import load_image

EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .tif .tiff .avif".split()
)
"""Suffixes of image files, in lower case."""

JUNK = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini"})
"""Names, in lower case, of what operating systems leave in folders of images."""


def load_image_folder(
    folder: str | os.PathLike[str],
    size: int = 32,
    channels: int = 3,
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Loads images sorted into one folder per class.

    Skips unreadable files, files without an image suffix, and folders without an image,
    and warns with their number and first names. Hidden files and what operating systems
    leave behind are skipped silently.

    Images are decoded in several threads, directly into the result. For folders that do
    not fit in memory, `elu_zoo.image_files.open_image_folder` leaves them in their
    files, and `elu_zoo.finetune` decodes them batch by batch.

    Args:
        folder: Path of a folder of class folders, `<class>/*.jpg`, whose files
            `read_image` reads.
        size: Side in pixels. The shorter side is resized to it and the center cropped.
        channels: 3 for RGB, 1 for gray.
        class_names: Classes of the model that the images are for, in its order. Labels
            are then positions in this list, whichever folders exist. Default: the names
            of the folders.

    Returns:
        `(images, labels, class_names)`: a uint8 array of shape
        `(n, size, size, channels)`, an integer array of shape `(n,)`, and the list of
        class names in order.

    Raises:
        UserError: If the name of a folder is not in `class_names` or not one line of
            text, if there are no images, or if there are fewer than two classes and no
            `class_names`.

    Example:

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (folder / name).mkdir()
    ...     Image.new("RGB", (40, 50)).save(folder / name / "1.png")
    >>> images, labels, class_names = load_image_folder(folder)
    >>> images.shape, labels.tolist(), class_names
    ((2, 32, 32, 3), [0, 1], ['cat', 'dog'])
    """
    folder = pathlib.Path(folder)
    classes = class_folders(folder, class_names)
    images, good = _load_files(
        [file for _, files in classes for file in files], size, channels
    )
    places = np.repeat(np.arange(len(classes)), [len(files) for _, files in classes])
    places = places[good]
    present = np.unique(places)
    empty = [path for i, (path, _) in enumerate(classes) if i not in present]
    warn_left_out("Folders without an image", empty)
    names = [classes[i][0].name for i in present]
    if len(names) < (2 if class_names is None else 1):
        raise UserError(
            f"Expected {printable(folder)} to have at least two folders with images, "
            f"one per class. Received: {names or 'none'}"
        )
    if class_names is None:
        return images, np.searchsorted(present, places), names
    class_names = list(class_names)
    numbers = np.array([class_names.index(name) for name in names])
    return images, numbers[np.searchsorted(present, places)], class_names


def class_folders(
    folder: pathlib.Path, class_names: Sequence[str] | None = None
) -> list[tuple[pathlib.Path, list[pathlib.Path]]]:
    """Lists the class folders of a folder and their image files.

    Warns about other files in them. Hidden files and what operating systems leave
    behind are skipped silently.

    Args:
        folder: Path of the folder.
        class_names: Permitted class names; by default all.

    Returns:
        A list of `(path, files)`, sorted by name.

    Raises:
        UserError: If there is no such folder, or a name is not in `class_names` or not
            one line of text.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "cat").mkdir()
    >>> (folder / "cat/1.png").touch()
    >>> [(path.name, [f.name for f in files]) for path, files in class_folders(folder)]
    [('cat', ['1.png'])]
    """
    if not folder.is_dir():
        raise UserError(
            f"Expected a folder of class folders. Received: {printable(folder)}"
        )
    classes: list[tuple[pathlib.Path, list[pathlib.Path]]] = []
    others: list[pathlib.Path] = []
    for path in _entries(folder):
        if path.is_dir():
            entries = _entries(path)
            files = [entry for entry in entries if _is_image(entry)]
            others += [entry for entry in entries if not _is_image(entry)]
            classes.append((path, files))
    check_class_names([path.name for path, _ in classes])
    if class_names is not None:
        unknown = [path.name for path, _ in classes if path.name not in class_names]
        if unknown:
            raise UserError(
                f"Expected folders named after the {len(class_names)} classes "
                f"{some(class_names)}. Received: {some(unknown)} in "
                f"{printable(folder)}"
            )
    warn_left_out("Files without an image suffix", others)
    return classes


def find_images(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Finds the image files below a folder.

    Args:
        folder: Path of a folder.

    Yields:
        Paths of files with one of `EXTENSIONS`, sorted within each folder. Hidden files
        and what operating systems leave behind are skipped.

    Example:

    >>> list(find_images("elu_zoo"))
    []
    """
    for path in _entries(pathlib.Path(folder)):
        if path.is_dir() and not path.is_symlink():
            yield from find_images(path)
        elif _is_image(path):
            yield path


def warn_left_out(what: str, paths: Sequence[pathlib.Path]) -> None:
    """Warns that paths are left out, if there are any.

    Args:
        what: What the paths are, such as `"Folders without an image"`.
        paths: The paths.

    Example:

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warn_left_out("Folders without an image", [pathlib.Path("empty")])
    >>> "1 left out" in str(caught[0].message)
    True
    """
    if paths:
        warnings.warn(
            f"{what}: {len(paths)} left out. {some(paths)}",
            stacklevel=3,
        )


def _load_files(
    files: Sequence[pathlib.Path], size: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes files; returns the images, and which files are images."""
    images = np.empty((len(files), size, size, channels), "uint8")
    good = np.ones(len(files), bool)
    workers = min(32, os.cpu_count() or 1)

    def load(first: int) -> None:
        for i in range(first, len(files), workers):
            try:
                image = load_image(files[i], channels, resize=size)
            except ImageError:
                good[i] = False
            else:
                images[i] = np.rint(image)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(load, first) for first in range(workers)]:
            done.result()
    bad = [file for file, fine in zip(files, good, strict=True) if not fine]
    warn_left_out("Files that cannot be read as images", bad)
    # In place, because a selection would take the memory twice.
    for target, source in enumerate(np.flatnonzero(good) if bad else ()):
        images[target] = images[source]
    return images[: good.sum()], good


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name[0] != "." and path.name.lower() not in JUNK
    )


def _is_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.is_file()
