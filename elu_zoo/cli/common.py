"""Helpers shared by the subcommands."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from elu_zoo._environment import set_defaults
from elu_zoo._stderr import held_stderr
from elu_zoo.errors import UserError
from elu_zoo.files import check_writable

if TYPE_CHECKING:
    import keras

SOURCE_HELP = (
    "name of pretrained weights (see `elu-zoo list`), hf://owner/name on the Hugging "
    "Face Hub, a .keras file, or a folder that `elu-zoo finetune` wrote"
)
"""Help text of the arguments that take a model."""


OPTIONAL = ("matplotlib", "pandas")
"""Modules that Keras imports if they are installed, for what no command uses."""


def start_backend(whole: bool = False) -> None:
    """Imports Keras and its backend, and makes them find their devices.

    What they write to stderr meanwhile, such as that there is no GPU, is shown only on
    failure.

    Args:
        whole: Whether Keras gets its optional modules too, for a user's own code.

    Raises:
        UserError: If the backend cannot be imported.
    """
    set_defaults()
    try:
        with held_stderr(), _quick_imports(() if whole else OPTIONAL):
            import keras

            keras.ops.convert_to_numpy(keras.ops.zeros(1))
    # Keras raises a ValueError for a backend that it does not know.
    except (ImportError, ValueError) as error:
        raise UserError(
            "Expected the Keras backend that KERAS_BACKEND or keras.json names to be "
            f"installed. Received: {error}"
        ) from error


@contextlib.contextmanager
def _quick_imports(hidden: Sequence[str]) -> Iterator[None]:
    """Makes imports quicker: nothing is collected meanwhile, and less is imported.

    Args:
        hidden: Modules that cannot be imported meanwhile, unless they already are.
    """
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in hidden if name not in modules]
    enabled = gc.isenabled()
    gc.disable()
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
        # Modules stay, so the collector need not look at them again.
        gc.freeze()
        if enabled:
            gc.enable()


def known_model(source: str) -> str:
    """Resolves what a user typed to a weights name or a path.

    Args:
        source: Name of weights, their tag or their model, in any case, a path, or an
            address on the Hub.

    Returns:
        The published name, the path or the address.

    Raises:
        UserError: If there is no such model, or several match.

    Example:

    >>> known_model("ELUNet11")
    'elunet11.cifar100'
    """
    from elu_zoo._hub import is_address
    from elu_zoo.weights import find_weights, list_weights

    if is_address(source) or source in list_weights() or os.path.exists(source):
        return source
    if os.path.splitext(source)[1] == ".keras":
        raise UserError(f"Expected a saved model. There is no {source}")
    return find_weights(source)


def print_json(value: Any) -> None:
    """Prints a value as indented JSON."""
    print(json.dumps(value, indent=1))


def print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows in aligned columns.

    Args:
        rows: Rows of equal length; the first one is the header. Columns of numbers or
            percentages are aligned to the right.

    Example:

    >>> print_table([("name", "error"), ("a", 3), ("b", 12)])
    name  error
    a         3
    b        12
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numeric = [
        all(isinstance(row[i], (int, float)) or "%" in str(row[i]) for row in rows[1:])
        for i in range(len(widths))
    ]
    for row in texts:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


def load_model(source: str) -> tuple[keras.Model, list[str]]:
    """Loads a model and its class names, by a weights name or a path."""
    from elu_zoo.models import load
    from elu_zoo.records import class_names_of

    model = load(source)
    return model, list(class_names_of(model))


def add_model_argument(parser: argparse.ArgumentParser, name: str, **how: Any) -> None:
    """Adds an argument that takes a model; the shell completes weights names."""
    default = f" (default: {how['default']})" if "default" in how else ""
    action = parser.add_argument(name, **({"help": SOURCE_HELP + default} | how))
    action.completer = _complete_model  # type: ignore[attr-defined]  # argcomplete's


def add_resize_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the side of the images."""
    parser.add_argument(
        "--resize",
        type=positive,
        metavar="SIDE",
        help="image side in pixels, for models that take any size",
    )


def natural(text: str, least: int = 0) -> int:
    """Reads an option's whole number, of 0 or more by default."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of {least} or more, received {text!r}"
        )
    return int(text)


def positive(text: str) -> int:
    """Reads an option's whole number of 1 or more."""
    return natural(text, least=1)


def check_out_file(path: pathlib.Path) -> None:
    """Raises an error unless a file can be written at a path, before the work."""
    if path.is_dir():
        raise UserError(f"Expected --out to be a file. Received: the folder {path}")
    check_writable(path.parent)


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the precision that a network computes in."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="precision to compute in (default: the model's own); bfloat16 is faster "
        "on hardware that has it",
    )


def _complete_model(prefix: str, **_: Any) -> list[str]:
    import argcomplete

    from elu_zoo.weights import list_weights

    return [*list_weights(), *argcomplete.FilesCompleter()(prefix)]
