"""Checkpoints: one file with everything, there whole or not at all."""

import json
import zipfile

import numpy as np

from elu_zoo.files import replacing

META = "meta.json"


def save(path, groups, meta):
    """Writes variables and facts to one file.

    Args:
        path: Path of the `.npz` file to write or replace.
        groups: Dict of lists of Keras variables, such as `{"model": model.variables}`.
        meta: JSON-plain dict.
    """
    arrays = {
        f"{group}/{index}": np.asarray(variable)
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    arrays[META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with replacing(path) as part:
        np.savez(part, **arrays)


def restore(path, groups):
    """Assigns what `save` wrote.

    Args:
        path: Path of the file.
        groups: As in `save`, of the same model and optimizer.

    Returns:
        The `meta` of `save`.

    Raises:
        ValueError: If the file is damaged or holds other variables. Nothing has been
            assigned then.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop(META).tobytes())
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, EOFError) as error:
        raise ValueError(
            f"Expected {path} to be a checkpoint; it is damaged ({error}). Delete it "
            "to start the run anew."
        ) from error
    variables = {
        f"{group}/{index}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if shapes != found:
        differing = sorted(set(shapes.items()) ^ set(found.items()))[:4]
        raise ValueError(
            f"Expected {path} to hold the variables of this recipe's model and "
            f"optimizer. Received others: {differing}. Use another run folder."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return meta
