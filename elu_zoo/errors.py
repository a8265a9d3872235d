"""Errors that the user can correct."""

import os
from typing import Any


class UserError(ValueError):
    """A mistake in an argument, a file or a recipe.

    Commands show its message on one line. Any other exception is a fault of the program
    and keeps its traceback.

    Example:

    >>> issubclass(UserError, ValueError)
    True
    """


class ImageError(UserError):
    """A file or bytes that this package does not accept as an image.

    Args:
        message: What was expected and what was received.
        path: Path of the file, or `None` for bytes and arrays.

    Attributes:
        path: The argument `path`.

    Example:

    >>> ImageError("Expected an image. Received: notes.txt", "notes.txt").path
    'notes.txt'
    """

    def __init__(
        self, message: str, path: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.path)
