"""What several subcommands share."""

import argparse
import contextlib
import faulthandler
import json
import os
import sys
import tempfile
from collections.abc import Iterator

from elu_zoo.errors import UserError


def start_backend() -> None:
    """Imports Keras and its backend, and has them find their devices.

    What they write to stderr meanwhile, such as that there is no GPU, is shown only if
    they fail.

    Raises:
        UserError: If the backend cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with held_stderr():
            import keras

            keras.ops.convert_to_numpy(keras.ops.zeros(1))
    except ImportError as error:
        raise UserError(
            "Expected Keras's backend to be installed, which KERAS_BACKEND or "
            f"keras.json names. Received: {error}"
        ) from error


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; shows it if the block fails."""
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:
        yield
        return
    with os.fdopen(stderr, "wb") as real, tempfile.TemporaryFile() as held:
        watched = not faulthandler.is_enabled()
        if watched:
            # A crash, say for want of an instruction, must not be silent.
            faulthandler.enable(real)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, ImportError | KeyboardInterrupt):
                held.seek(0)
                real.write(held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            if watched:
                faulthandler.disable()


def known_model(source: str) -> str:
    """The name of weights, or the path of a model, that a user means.

    Args:
        source: Name of weights, its tag or its model in any case, or a path.

    Returns:
        The name as published, or the path.

    Raises:
        UserError: If there is no such model, or several may be meant.
    """
    from elu_zoo.records import find_weights, list_weights

    if source in list_weights() or os.path.exists(source):
        return source
    if os.path.splitext(source)[1] == ".keras":
        raise UserError(f"Expected a saved model. There is no {source}")
    return find_weights(source)


def print_json(value):
    print(json.dumps(value, indent=1))


def print_table(rows):
    """Prints a table; the first row is its header, numbers are aligned to the right."""
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


def load_model(source):
    """The model of a weights name or of a `.keras` file, and its class names."""
    from elu_zoo.models import load
    from elu_zoo.records import class_names_of

    model = load(source)
    return model, list(class_names_of(model))


def add_model_argument(parser: argparse.ArgumentParser, name: str, **how) -> None:
    """Adds an argument that takes a model, and completes to names of weights."""
    action = parser.add_argument(name, **({"help": SOURCE_HELP} | how))
    action.completer = _complete_model


def _complete_model(prefix, **_):
    import argcomplete

    from elu_zoo.records import list_weights

    return [*list_weights(), *argcomplete.FilesCompleter()(prefix)]


SOURCE_HELP = (
    "name of pretrained weights (see `elu-zoo list`), a .keras file, or a folder that "
    "`elu-zoo finetune` wrote"
)
