"""Networks of the demo with int8 weights, and which of them lose nothing by it."""

from __future__ import annotations

import csv
import pathlib
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "docs/results/int8.csv"
# In percentage points; the standard error of 10,000 images is about 0.5.
NOTHING = 0.1


def rows(path: pathlib.Path = OUT) -> list[dict[str, Any]]:
    """Reads what was measured.

    Args:
        path: Path of the CSV file.

    Returns:
        One dict per file of weights; an empty list if there is no file.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def loses_nothing(file: str) -> bool:
    """Tells whether int8 weights were measured to answer as well.

    Args:
        file: Name of the published weights file.

    Returns:
        Whether the error is at most `NOTHING` above the published one; `False` if it
        was not measured.
    """
    return any(
        row["weights"] == file and float(row["above_published"]) <= NOTHING
        for row in rows()
    )


def write(name: str, path: pathlib.Path) -> None:
    """Exports published weights, rounded to int8.

    Args:
        name: Name of the weights.
        path: ONNX file to write.
    """
    import onnx

    import elu_zoo

    elu_zoo.export(elu_zoo.load(name), path, "onnx")
    model = onnx.load(path)
    round_weights(model.graph)
    onnx.save(model, path)


def round_weights(graph: Any) -> None:
    """Stores weights as int8, which the runtime widens when it loads them.

    Args:
        graph: ONNX graph with weights in float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    for tensor in list(graph.initializer):
        array, name = numpy_helper.to_array(tensor), tensor.name
        # What is small, such as biases, stays exact.
        if array.dtype != np.float32 or array.ndim < 2 or array.size < 1024:
            continue
        # Output channels come first in a kernel, and last in a matrix.
        others = tuple(range(1, array.ndim)) if array.ndim > 2 else 0
        largest = np.abs(array).max(others, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype("float32")
        rounded = np.rint(array / scale).astype("int8")
        tensor.CopyFrom(numpy_helper.from_array(rounded, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        wide = f"{name}_wide"
        nodes = (
            helper.make_node("Cast", [f"{name}_int8"], [wide], to=TensorProto.FLOAT),
            helper.make_node("Mul", [wide, f"{name}_scale"], [name]),
        )
        for place, node in enumerate(nodes):
            graph.node.insert(place, node)
