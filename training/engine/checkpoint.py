"""Checkpoints: one file with the whole state, written atomically."""

import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.files import replacing

# Variables by group, such as `{"model": model.variables}`.
Groups = Mapping[str, Sequence[Any]]

META = "meta.json"
# Number of checkpoints to keep.
KEPT = 2

logger = logging.getLogger(__name__)


class DamagedCheckpoint(UserError):
    """A file that is not a whole checkpoint."""


def save(
    folder: str | pathlib.Path, groups: Groups, meta: Mapping[str, Any]
) -> pathlib.Path:
    """Writes variables and facts to one file and removes all but the last two.

    Args:
        folder: Folder of the run.
        groups: Keras variables by group, such as `{"model": model.variables}`.
        meta: JSON-plain facts, with the number of completed steps as `"step"`.

    Returns:
        Path of the file, `checkpoint-<step>.npz`.

    Raises:
        OSError: If the file cannot be written. Earlier checkpoints are left unchanged.
    """
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in _named(groups).items()}
    arrays[META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    path = pathlib.Path(folder) / f"checkpoint-{meta['step']:08d}.npz"
    with replacing(path) as part:
        np.savez(part, **arrays)
    for old in find(folder)[KEPT:]:
        old.unlink()
    return path


def find(folder: str | pathlib.Path) -> list[pathlib.Path]:
    """Finds the checkpoints in a folder.

    Args:
        folder: Folder of the run.

    Returns:
        Paths of the checkpoints, the newest first.
    """
    files = pathlib.Path(folder).glob("checkpoint-*.npz")
    return sorted(
        (p for p in files if re.fullmatch(r"checkpoint-\d+\.npz", p.name)), reverse=True
    )


def restore(
    folder: str | pathlib.Path,
    groups: Groups,
    check: Callable[[dict[str, Any]], Any] | None = None,
) -> dict[str, Any] | None:
    """Assigns the variables of the newest whole checkpoint.

    A damaged checkpoint is logged and left in place; the one before it is used.

    Args:
        folder: Folder of the run.
        groups: Variables as in `save`, of the same model and optimizer.
        check: Called with the `meta` of the checkpoint before anything is assigned; it
            raises an error if the checkpoint is not the expected one.

    Returns:
        The `meta` of `save`, or `None` if there is no checkpoint.

    Raises:
        DamagedCheckpoint: If there are checkpoints and none is whole.
        UserError: If a checkpoint holds different variables. Nothing has been assigned
            then.
    """
    files = find(folder)
    for path in files:
        try:
            arrays, meta = _read(path)
        except DamagedCheckpoint as error:
            logger.warning("%s", error)
            continue
        if check:
            check(meta)
        _assign(path, arrays, groups)
        return meta
    if files:
        raise DamagedCheckpoint(
            f"Expected a whole checkpoint in {folder}. All are damaged: "
            f"{', '.join(p.name for p in files)}. Move them away to start afresh."
        )
    return None


def _named(groups: Groups) -> dict[str, Any]:
    return {
        f"{group}/{index}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop(META).tobytes())
    except Exception as error:  # zipfile and its decompressors raise many types.
        raise DamagedCheckpoint(
            f"Expected {path} to be a checkpoint. It is damaged ({error})."
        ) from error
    return arrays, meta


def _assign(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], groups: Groups
) -> None:
    variables = _named(groups)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if shapes != found:
        differing = sorted(set(shapes.items()) ^ set(found.items()))[:4]
        raise UserError(
            f"Expected {path} to hold the variables of this recipe's model and "
            f"optimizer. Received others: {differing}. Use a different run folder."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
