"""Measures the errors of the demo's networks with int8 weights.

    python -m training.demo.int8 --data DIR [NAME ...]

Each network classifies the test images of its data set in onnxruntime, as in the
browser: the weights have one scale per output channel, and the arithmetic is in
float32. The rows go to `docs/results/int8.csv`. The demo offers the files that lose
nothing by it.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from training.commands import parse, parser
from training.demo.quantized import OUT, rows, write

# Weights files of fewer bytes are small enough.
LARGE = 1 << 20


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
    from training.benchmarks.exports import error, loaded

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


if __name__ == "__main__":
    main()
