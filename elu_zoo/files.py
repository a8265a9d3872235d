"""Writing a file so that it is there whole or not at all."""

import contextlib
import os
import pathlib
import tempfile


@contextlib.contextmanager
def replacing(path):
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
    descriptor, name = tempfile.mkstemp(
        prefix=".part.", suffix=f".{path.name}", dir=path.parent
    )
    os.close(descriptor)
    part = pathlib.Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder):
    """Raises an OSError now, not after hours, if no file can be made in a folder."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder):
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
