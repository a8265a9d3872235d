"""Checkpoints: one file with the whole state, written atomically."""

import json
import logging
import pathlib
import re

import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.files import replacing

META = "meta.json"
KEPT = 2

logger = logging.getLogger(__name__)


class DamagedCheckpoint(UserError):
    """A file that is no whole checkpoint."""


def save(folder, groups, meta):
    """Writes variables and facts to one file and removes all but the last two.

    Args:
        folder: Folder of the run.
        groups: Dict of lists of Keras variables, such as `{"model": model.variables}`.
        meta: JSON-plain dict with the number of steps done as `"step"`.

    Returns:
        The `pathlib.Path` of the file, `checkpoint-<step>.npz`.

    Raises:
        OSError: If it cannot be written. The checkpoints before are as they were.
    """
    arrays = {name: np.asarray(variable) for name, variable in _named(groups).items()}
    arrays[META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    path = pathlib.Path(folder) / f"checkpoint-{meta['step']:08d}.npz"
    with replacing(path) as part:
        np.savez(part, **arrays)
    for old in find(folder)[KEPT:]:
        old.unlink()
    return path


def find(folder):
    """Paths of the checkpoints in a folder, the newest first."""
    files = pathlib.Path(folder).glob("checkpoint-*.npz")
    return sorted(
        (p for p in files if re.fullmatch(r"checkpoint-\d+\.npz", p.name)), reverse=True
    )


def restore(folder, groups, check=None):
    """Assigns the variables of the newest whole checkpoint.

    A damaged one is logged and left where it is; the one before is used.

    Args:
        folder: Folder of the run.
        groups: As in `save`, of the same model and optimizer.
        check: Called with the `meta` of the checkpoint before anything is assigned, to
            raise an error if it is not the one that is expected.

    Returns:
        The `meta` of `save`, or `None` if there is no checkpoint.

    Raises:
        DamagedCheckpoint: If there are checkpoints and none is whole.
        UserError: If one holds other variables. Nothing has been assigned then.
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
            f"{', '.join(p.name for p in files)}. Move them away to start anew."
        )
    return None


def _named(groups):
    return {
        f"{group}/{index}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def _read(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop(META).tobytes())
    except Exception as error:  # zipfile and its decompressors have many of their own
        raise DamagedCheckpoint(
            f"Expected {path} to be a checkpoint; it is damaged ({error})."
        ) from error
    return arrays, meta


def _assign(path, arrays, groups):
    variables = _named(groups)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if shapes != found:
        differing = sorted(set(shapes.items()) ^ set(found.items()))[:4]
        raise UserError(
            f"Expected {path} to hold the variables of this recipe's model and "
            f"optimizer. Received others: {differing}. Use another run folder."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
