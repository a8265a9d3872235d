"""What several subcommands share."""

import argparse
import contextlib
import difflib
import faulthandler
import json
import os
import pathlib
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
    from elu_zoo.records import list_weights

    names = list_weights()
    if source in names or os.path.exists(source):
        return source
    lowered = source.lower()
    meant = [n for n in names if lowered == n] or [
        n for n in names if lowered in n.split(".", 1)
    ]
    if len(meant) == 1:
        return meant[0]
    if os.path.splitext(source)[1] == ".keras":
        raise UserError(f"Expected a saved model. There is no {source}")
    meant = meant or difflib.get_close_matches(lowered, names, cutoff=0.5)
    hint = f". Did you mean {' or '.join(meant)}?" if meant else ""
    raise UserError(
        f"Expected the name of published weights, one of {names}, or a saved model. "
        f"Received: {source!r}{hint}"
    )


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
    import keras

    from elu_zoo.models import get_model_function
    from elu_zoo.records import get_record, list_weights

    path = pathlib.Path(source)
    # A folder that has the name of weights, such as their results, is "./NAME".
    named = str(source) in list_weights()
    if path.is_dir() and not named:
        path = path / "model.keras"
    if named or path.suffix != ".keras":
        record = get_record(str(source))
        model = get_model_function(record["model"])(weights=record["name"])
        return model, record["class_names"]
    if not path.is_file():
        raise FileNotFoundError(f"Expected a saved model. There is no {path}")
    try:
        model = keras.saving.load_model(path, compile=False)
    except TypeError as error:
        # Keras's message has the whole configuration of the model before the cause.
        cause = str(error).rsplit("Exception encountered: ", 1)[-1]
        raise ValueError(
            f"Expected a model of layers of Keras and elu_zoo. Received: {path}, which "
            f"Keras cannot load: {cause.splitlines()[0][:200]}"
        ) from error
    names = path.with_name("class_names.json")
    if names.is_file():
        return model, json.loads(names.read_text())
    return model, [str(i) for i in range(model.output_shape[-1])]


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
