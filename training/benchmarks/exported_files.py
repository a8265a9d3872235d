"""Times the files that `elu_zoo.export` writes, each in its own runtime.

    python -m training.benchmarks.exported_files [--rounds 200] [--csv FILE]

For each format, precision, batch size and number of threads, the command prints the
latency (median and 99th percentile, in milliseconds), the images per second, and their
ratio to the float32 SavedModel's in the same rounds: its median and quartiles. Larger
batches are timed in fewer rounds. `exported_errors.py` measures what the precisions
cost. It needs the package's extra `export` and takes about four minutes on 2 cores.
"""

import argparse
import functools
import importlib.metadata
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from elu_zoo.reference import reference_images
from training.benchmarks import exports
from training.benchmarks.exports import Paths, load_model, loaded, write_files
from training.benchmarks.measuring import (
    compared,
    in_a_process,
    machine,
    timings,
    write_csv,
)

# Batch sizes, and what the number of rounds is divided by.
BATCHES = {1: 1, 8: 2, 32: 4}
THREADS = (1, 2)
RUNTIMES = ("onnxruntime", "openvino", "ai-edge-litert")


def measure(
    paths: Paths, shape: tuple[int, ...], threads: int, rounds: int
) -> list[dict[str, Any]]:
    """Times all files; runs in a fresh process, since TensorFlow's threads are fixed.

    Args:
        paths: Paths of the files.
        shape: `(height, width, channels)` of an image.
        threads: Number of threads to use.
        rounds: Number of rounds.

    Returns:
        Rows of the CSV file.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    runs = {key: loaded(key[0], path, threads) for key, path in paths.items()}
    rows = []
    for batch, divisor in BATCHES.items():
        images = np.resize(reference_images(shape), (batch, *shape)).astype("float32")
        calls = {key: functools.partial(run, images) for key, run in runs.items()}
        seconds = timings(calls, -(-rounds // divisor), time.perf_counter)
        rows += [
            {
                "format": format,
                "dtype": dtype,
                "batch": batch,
                "threads": threads,
                "rounds": len(values),
                "p50_ms": round(1000 * float(np.median(values)), 3),
                "p99_ms": round(1000 * float(np.percentile(values, 99)), 3),
                "images_per_second": round(batch / float(np.median(values)), 1),
            }
            | compared(seconds[exports.FILES[0]], values)
            for (format, dtype), values in seconds.items()
        ]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--width", type=float, help="width of a network with random weights"
    )
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts = machine() | {name: importlib.metadata.version(name) for name in RUNTIMES}
    rows: list[dict[str, Any]] = []
    print(", ".join(map(str, facts.values())))
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(arguments.width)
        shape = model.input_shape[1:]
        images = reference_images(shape, 64)
        paths = write_files(model, pathlib.Path(folder), images)
        for threads in THREADS:
            rows += in_a_process(measure, paths, shape, threads, arguments.rounds)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.csv:
        write_csv(arguments.csv, [facts | row for row in rows])


if __name__ == "__main__":
    main()
