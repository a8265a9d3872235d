"""Atomic file writes."""

import contextlib
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from elu_zoo.errors import UserError

if TYPE_CHECKING:
    import filelock

LOCK = ".lock"
"""Name of the file that `locked` makes."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path that replaces `path` if the block succeeds.

    Args:
        path: Path of the file to write or replace.

    Yields:
        The path to write to, in the same folder. After the block the file is synced and
        renamed to `path`. If the block raises, the file is removed and `path` is left
        unchanged.

    Raises:
        OSError: If the folder cannot be written to.

    Example:

    >>> folder = tempfile.TemporaryDirectory()
    >>> with replacing(f"{folder.name}/a.txt") as part:
    ...     _ = part.write_text("all of it")
    >>> os.listdir(folder.name)
    ['a.txt']
    >>> folder.cleanup()
    """
    path = pathlib.Path(path)
    part = path.with_name(f".part.{secrets.token_hex(4)}.{path.name}")
    # tempfile would make a private file, and reading the umask means changing it.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Checks that files can be created in a folder, before hours of work.

    Args:
        folder: Path of the folder.

    Raises:
        OSError: If no file can be created in it.

    Example:

    >>> check_writable(tempfile.gettempdir())
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def locked(folder: str | os.PathLike[str]) -> "filelock.BaseFileLock":
    """Locks a folder against other processes, by a file `.lock` in it.

    Args:
        folder: Path of the folder.

    Returns:
        The lock, to release; a context manager.

    Raises:
        UserError: If another process has locked it.

    Example:

    >>> folder = tempfile.mkdtemp()
    >>> with locked(folder):
    ...     print(os.listdir(folder))
    ['.lock']
    """
    import filelock

    lock = filelock.FileLock(pathlib.Path(folder) / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(
            f"Expected {folder} not to be in use. Another process is writing to it"
        ) from error
    return lock


def _sync_folder(folder: pathlib.Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
