"""Errors that are the user's to mend."""


class UserError(ValueError):
    """A mistake in an argument, a file or a recipe.

    Commands show its message as one line. Every other exception is a fault of the
    program and keeps its traceback.

    Example:

    >>> issubclass(UserError, ValueError)
    True
    """


class ImageError(UserError):
    """A file, or bytes, that are no image which this package accepts.

    Args:
        message: What was expected and what came.
        path: Path of the file, or `None` for bytes and arrays.

    Attributes:
        path: As given.

    Example:

    >>> ImageError("Expected an image. Received: notes.txt", "notes.txt").path
    'notes.txt'
    """

    def __init__(self, message: str, path: object = None):
        super().__init__(message)
        self.path = path

    def __reduce__(self):
        return type(self), (*self.args, self.path)
