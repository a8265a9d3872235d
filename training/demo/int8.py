"""Measures the errors of the demo's networks with weights of 8 bits.

    python -m training.demo.int8 --data DIR [NAME ...]

Each network classifies the test images of its data set in onnxruntime, as in the
browser: the weights have one scale per output channel, and the arithmetic is in
float32. The rows go to `docs/results/int8.csv`. The demo offers the files that lose
nothing by it.
"""

from __future__ import annotations

import csv
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.commands import parse, parser

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "docs/results/int8.csv"
# In percentage points; the standard error of 10,000 images is about 0.5.
NOTHING = 0.1
# Weights files of fewer bytes are small enough.
LARGE = 1 << 20
BATCH = 100


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    options = parser("training.demo.int8", __doc__)
    options.add_argument("names", nargs="*", help="published weights (default: all)")
    options.add_argument("--data", required=True, help="folder of the data sets")
    options.add_argument("--out", type=pathlib.Path, default=OUT)
    arguments = parse(options, argv)

    from elu_zoo.weights import get_record, list_weights
    from training.benchmarks.measuring import write_csv

    records = map(get_record, list_weights())
    files = {r.file: r.name for r in records if r.class_names and r.bytes > LARGE}
    kept = {row["weights"]: row for row in rows(arguments.out)}
    try:
        for file, name in files.items():
            if not arguments.names or name in arguments.names:
                kept[file] = measure(name, arguments.data)
    except (ValueError, OSError) as error:
        sys.exit(f"training.demo.int8: {error}")
    write_csv(arguments.out, [row for file, row in kept.items() if file in files])


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
    """Says whether weights in 8 bits were measured to answer as well.

    Args:
        file: Name of the published weights file.
    """
    return any(
        row["weights"] == file and float(row["above_published"]) <= NOTHING
        for row in rows()
    )


def measure(name: str, data: str) -> dict[str, Any]:
    """Measures the error of one network on the test images.

    Args:
        name: Name of the published weights.
        data: Folder of the data sets.

    Returns:
        A row of the CSV file; errors are in percent.
    """
    import onnxruntime

    from elu_zoo import datasets
    from elu_zoo.weights import get_record
    from training.benchmarks.exported_errors import error
    from training.benchmarks.exported_files import loaded

    record = get_record(name)
    assert record.preprocessing  # Weights that give classes have it.
    test = datasets.load(record.dataset["name"], "test", data)
    test = test.with_classes(record.class_names).resized(record.preprocessing.crop)
    published = 100 * record.metrics["error"]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.onnx"
        write(name, path)
        found = error(loaded("onnx", path, threads=0), test.images, test.labels)
        megabytes = round(path.stat().st_size / 1e6, 2)
    return {
        "weights": record.file,
        "onnxruntime": onnxruntime.__version__,
        "images": len(test),
        "megabytes": megabytes,
        "error": round(found, 2),
        "above_published": round(found - published, 2),
    }


def write(name: str, path: pathlib.Path) -> None:
    """Exports published weights in 8 bits.

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
    """Stores weights in 8 bits, which the runtime widens when it loads them.

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


if __name__ == "__main__":
    main()
