"""Names of files and classes as text."""

import os
import unicodedata
from collections.abc import Sequence
from typing import Any

from elu_zoo.errors import UserError


def printable(name: Any) -> str:
    r"""Returns a name as one line of text, with unprintable characters escaped.

    Args:
        name: String or path.

    Returns:
        A string.

    Example:

    >>> printable("Käse\n")
    'Käse\\n'
    """
    return "".join(
        character.encode("unicode_escape").decode() if _breaks(character) else character
        for character in os.fspath(name)
    )


def check_class_names(names: Sequence[str]) -> None:
    """Checks that class names fit into every file that the package writes.

    Args:
        names: The names.

    Raises:
        UserError: If a name is not one line of UTF-8 text.

    Example:

    >>> check_class_names(["cat", "Käse", "猫"])
    """
    bad = [name for name in names if any(map(_breaks, name))]
    if bad:
        raise UserError(
            "Expected names of classes that are one line of UTF-8 text. "
            f"Received: {some(bad)}. Rename them."
        )


def some(names: Sequence[Any]) -> str:
    """Lists the first five names."""
    shown = ", ".join(printable(name) for name in names[:5])
    return shown + (", ..." if len(names) > 5 else "")


def _breaks(character: str) -> bool:
    """Whether it is a control character, a line's end or part of no UTF-8 text."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
