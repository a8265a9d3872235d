"""Shared by the servers: the newest version of a model, and checks of requests."""

import base64
import binascii
import contextlib
import ctypes
import logging
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError

BATCH = 64
"""Images per batch of the network; larger requests are split."""

MAX_IMAGES = 1024
"""Largest number of images per request."""

SECONDS_BETWEEN_LOOKS = 2.0
"""Seconds between checks for a new version of the model."""

_log = logging.getLogger(__name__)


class RequestError(ValueError):
    """An invalid request, which the client has to fix; the message is one line."""


class ServedModel:
    """The newest version of a SavedModel of `elu_zoo.export_saved_model`.

    A version that appears later is loaded while the current one serves, and replaces it
    between two requests. One that cannot be loaded is logged, and tried again when its
    files change, as they do while they are being copied.

    Args:
        folder: Folder of the versions, subfolders whose names are numbers.

    Attributes:
        version: Number of the version that serves.

    Raises:
        FileNotFoundError: If the folder has no version that can be loaded.

    Example:

    >>> import elu_zoo, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> model = elu_zoo.ELUNet11(width=0.05, classes=2)
    >>> path = elu_zoo.export_saved_model(model, folder)
    >>> ServedModel(folder).classify([b"no image"])["valid"]
    array([False])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        _return_freed_memory()
        self._folder = pathlib.Path(folder)
        self._failed: dict[int, list[tuple[str, int, int]]] = {}
        for version in _versions(self._folder):
            if self._serve(version):
                break
        else:
            raise FileNotFoundError(
                f"Expected a folder with versions of an exported model, such as "
                f"{self._folder / '1'}. Received: {self._folder} without one that can "
                "be loaded"
            )
        self._closed = threading.Event()
        # Not a daemon: Python must not exit while TensorFlow loads a model in it.
        threading.Thread(target=self._follow_versions).start()

    def close(self) -> None:
        """Stops looking for new versions."""
        self._closed.set()

    def output_shapes(self) -> dict[str, list[int]]:
        """The shape of each output by name; -1 stands for the number of images."""
        return {
            name: [-1 if size is None else size for size in spec.shape]
            for name, spec in self._signature().structured_outputs.items()
        }

    def classify(self, contents: list[bytes]) -> dict[str, np.ndarray]:
        """Runs the signature `serve_bytes` on encoded images.

        Args:
            contents: Encoded images, at most `MAX_IMAGES`.

        Returns:
            Arrays `classes` (strings, of dtype object) and `probabilities` (float32),
            of shape `(n, top)`, and `valid` (bool), of shape `(n,)`.

        Raises:
            RequestError: If there are too many images.
        """
        if len(contents) > MAX_IMAGES:
            raise RequestError(
                f"Expected at most {MAX_IMAGES} images per request. Received: "
                f"{len(contents)}"
            )
        signature = self._signature()
        parts = [
            signature(
                image_bytes=tf.constant(part, tf.string, shape=[len(part)]),
            )
            for part in _parts(contents)
        ]
        answer = {
            name: np.concatenate([part[name].numpy() for part in parts])
            for name in parts[0]
        }
        decoded = [name.decode() for name in answer["classes"].ravel()]
        shape = answer["classes"].shape
        answer["classes"] = np.array(decoded, object).reshape(shape)
        return answer

    def _signature(self) -> Any:
        return self._model.signatures["serve_bytes"]

    def _load(self, version: int) -> Any:
        model = tf.saved_model.load(str(self._folder / str(version)))
        if "serve_bytes" not in model.signatures:
            raise ValueError(
                "Expected the signature serve_bytes, which elu_zoo exports. Received: "
                f"{list(model.signatures)}"
            )
        return model

    def _follow_versions(self) -> None:
        main = threading.main_thread()
        while not self._closed.wait(SECONDS_BETWEEN_LOOKS) and main.is_alive():
            for version in _versions(self._folder):
                if version == self.version:
                    break
                if self._serve(version):
                    _log.info("Serving version %s", version)
                    break

    def _serve(self, version: int) -> bool:
        """Loads a version; returns false if it cannot be, or could not and is the same.

        What it serves then stays.
        """
        files: list[tuple[str, int, int]] = []
        try:
            files = _files(self._folder / str(version))
            if files == self._failed.get(version):
                return False
            self._model, self.version = self._load(version), version
        except Exception as error:  # TensorFlow raises many kinds
            self._failed[version] = files
            _log.warning("Version %s cannot be loaded: %s", version, error)
            return False
        return True


def _return_freed_memory() -> None:
    """Makes glibc return freed blocks of 256 KiB or more to the system.

    By default its threshold rises to the largest block seen, such as a photograph's
    pixels, and the holes that such blocks leave make the process grow for hours.
    """
    mmap_threshold, arena_max = -3, -8  # Of malloc.h.
    with contextlib.suppress(AttributeError, OSError, TypeError):  # Another libc.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**18)
        mallopt(arena_max, 2)


def decode_base64(text: object) -> bytes:
    """Decodes a base64 string from a request.

    Args:
        text: The string; any other value is an error of the client.

    Returns:
        The bytes.

    Raises:
        RequestError: If `text` is not a string, or not base64.

    Example:

    >>> decode_base64("R0lG")
    b'GIF'
    """
    if not isinstance(text, str):
        raise RequestError(
            f"Expected each image as a base64 string. Received: {_kind(text)}"
        )
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise RequestError(
            f"Expected each image as a base64 string. Received: {len(text)} characters "
            "that are not base64"
        ) from None


def first_fault(error: "RequestValidationError") -> str:
    """Describes the first place where a request does not fit its schema.

    Args:
        error: What FastAPI raised for the request.

    Returns:
        One line, which does not repeat the request.
    """
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:200]}"


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _parts(contents: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [contents[i : i + BATCH] for i in range(0, len(contents), BATCH)] or [[]]


def _files(folder: pathlib.Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files in a folder, which tell when they change."""
    files = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return sorted((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in files)


def _versions(folder: pathlib.Path) -> list[int]:
    """The numbers of the versions, the newest first."""
    try:
        names = [path.name for path in folder.iterdir() if path.name.isdecimal()]
    except OSError:
        return []
    # Without names such as 0002, since the path of a version is made from its number.
    versions = {int(name) for name in names if name == str(int(name))}
    return sorted(versions, reverse=True)
