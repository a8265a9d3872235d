"""Reading and writing `.weights.h5` files."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from elu_zoo.errors import UserError
from elu_zoo.files import replacing

if TYPE_CHECKING:
    import h5py
    import keras


def load_weights(
    model: keras.Model,
    path: str | os.PathLike[str],
    skip: Iterable[str] = (),
    ignore: Collection[keras.Layer] = (),
) -> None:
    """Loads a `.weights.h5` file into a model of this package.

    Layers are matched by name, independently of the model's `name`. The file must hold
    the weights of exactly the model's layers; otherwise nothing is loaded. Anything
    else that Keras saves there, such as the state of the optimizer, is ignored.

    Args:
        model: Keras model of this package.
        path: Path of a file written by `save_weights`, or by the method
            `save_weights` of a Keras model (Keras 3.6 or later).
        skip: Prefixes of layer names to skip in model and file.
        ignore: Layers of the model that the file does not hold, whatever their names.

    Raises:
        UserError: If the file does not fit the model.
    """
    import h5py

    layers = [layer for layer in model.layers if layer not in ignore]
    try:
        with h5py.File(path) as file:
            stored = _layers(file, path)
            assignments = _match(model.name, layers, stored, tuple(skip), path)
            arrays = [_array(item) for _, item in assignments]
    except OSError as error:
        raise UserError(
            f"Expected {path} to be a `.weights.h5` file. It cannot be read: {error}"
        ) from error
    for (variable, _), array in zip(assignments, arrays, strict=True):
        variable.assign(array)


def read_layer(path: str | os.PathLike[str], name: str) -> list[np.ndarray]:
    """Reads the variables of one layer.

    Args:
        path: Path of a file that `load_weights` has read.
        name: Name of the layer.

    Returns:
        The variables, in order.
    """
    import h5py

    with h5py.File(path) as file:
        return [_array(item) for item in _layers(file, path)[name]]


def _match(
    name: str,
    layers: Iterable[keras.Layer],
    stored: dict[str, list[h5py.Dataset]],
    skip: tuple[str, ...],
    path: str | os.PathLike[str],
) -> list[tuple[keras.Variable, h5py.Dataset]]:
    """Pairs each variable of a model's layers with its dataset in the file."""
    stored = {n: items for n, items in stored.items() if not n.startswith(skip)}
    wanted = {
        layer.name: layer.weights
        for layer in layers
        if layer.weights and not layer.name.startswith(skip)
    }
    problems = [f"{key}: not in the file" for key in wanted if key not in stored]
    problems += [f"{key}: not in the model" for key in stored if key not in wanted]
    for key in wanted.keys() & stored.keys():
        shapes = [tuple(variable.shape) for variable in wanted[key]]
        found = [item.shape for item in stored[key]]
        if shapes != found:
            problems.append(f"{key}: {found} in the file, {shapes} in the model")
    if problems:
        raise UserError(
            f"Expected {path} to hold the weights of {name}. "
            f"{len(problems)} layers differ: " + "; ".join(sorted(problems)[:5]) + ". "
            "Build the model with the arguments (classes, width, ...) that the file "
            "was made with."
        )
    return [
        pair
        for key, variables in wanted.items()
        for pair in zip(variables, stored[key], strict=True)
    ]


def save_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes a model's weights, rounded to bfloat16 and compressed.

    The values are stored as float32 with the low 16 bits 0, which halves the compressed
    size. The same weights always give the same bytes. Keras's `load_weights` reads the
    file too.

    Args:
        model: Keras model of this package.
        path: Path of the `.weights.h5` file to write or replace.

    Raises:
        UserError: If the path does not end in `.weights.h5`.
    """
    path = pathlib.Path(path)
    if not path.name.endswith(".weights.h5"):
        raise UserError(f"Expected a path that ends in .weights.h5. Received: {path}")
    with replacing(path) as part:
        model.save_weights(part)
        compress(part, part)


def compress(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Rounds and compresses a weights file of Keras, as `save_weights` does.

    Args:
        source: Path of the file to read.
        path: Path of the file to write, which may be the same.
    """
    import h5py

    with h5py.File(source) as file:
        variables = [
            (item.name, item.parent.attrs["name"], _array(item))
            for item in _variables(file)
        ]
    with h5py.File(path, "w") as file:
        for name, layer, array in variables:
            options = {"compression": 9, "shuffle": True} if array.ndim else {}
            array = round_to_bfloat16(array)
            item = file.create_dataset(name, data=array, track_times=False, **options)
            item.parent.attrs["name"] = layer


def round_to_bfloat16(array: npt.ArrayLike) -> np.ndarray:
    """Rounds float values to the nearest bfloat16, ties to even.

    Args:
        array: Array of any shape.

    Returns:
        A float32 array; an integer array is returned unchanged.

    Example:

    >>> round_to_bfloat16(np.float32([1.0, 1.003, 3.14159265]))
    array([1.      , 1.      , 3.140625], dtype=float32)
    """
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    return array.astype(ml_dtypes.bfloat16).astype("float32")


def _layers(
    file: h5py.File, path: str | os.PathLike[str]
) -> dict[str, list[h5py.Dataset]]:
    """The variables of each layer in a weights file, by the layer's name."""
    layers: dict[Any, dict[int, h5py.Dataset]] = {}
    for item in _variables(file):
        layer = layers.setdefault(item.parent.attrs.get("name"), {})
        layer[int(item.name.rsplit("/", 1)[1])] = item
    if None in layers:
        raise UserError(
            f"Expected {path} to name its layers, as Keras 3.6 and later do. Load it "
            "with the model's own `load_weights`, and save it again."
        )
    return {name: [layer[i] for i in sorted(layer)] for name, layer in layers.items()}


def _variables(file: h5py.File) -> list[h5py.Dataset]:
    """The variables of the layers in a Keras weights file: `/layers/<key>/vars/<i>`."""
    import h5py

    found: list[h5py.Dataset] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        # Links are not visited, so a file cannot pull in another file.
        if isinstance(item, h5py.Dataset) and name.startswith("layers/"):
            if item.external or item.is_virtual:
                raise UserError(f"Expected no links. Received: {file.filename}:{name}")
            found.append(item)

    file.visititems(visit)
    return found


def _array(dataset: h5py.Dataset) -> np.ndarray:
    # HDF5 has no bfloat16; Keras stores the bytes and names the dtype beside them.
    if dataset.attrs.get("dtype") == "bfloat16":
        return dataset[()].view(ml_dtypes.bfloat16).astype("float32")
    return dataset[()]
