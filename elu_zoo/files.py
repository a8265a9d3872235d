"""Atomic file writes."""

import contextlib
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary path beside `path` that takes its place if the block succeeds.

    Args:
        path: String or path of the file to write or to replace.

    Yields:
        The path to write to, in the same folder. It is synced and renamed to `path`
        after the block; if the block raises, it is removed and `path` is as it was.

    Raises:
        OSError: If the folder cannot be written to.
    """
    path = pathlib.Path(path)
    part = path.with_name(f".part.{secrets.token_hex(4)}.{path.name}")
    # Not by tempfile, whose files are private: asking for the umask would change it.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike) -> None:
    """Raises an OSError now, not after hours, if no file can be made in a folder."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _sync_folder(folder):
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
