"""Times the files that `elu_zoo.export` writes, each in its own runtime.

    python -m training.benchmarks.exported_files [--rounds 51] [--csv FILE]

For each format, precision, batch size and number of threads, the command prints the
latency (median and 99th percentile, in milliseconds), the images per second, and their
ratio to the float32 SavedModel's in the same rounds. It needs the package's extra
`export` and takes about four minutes on 2 cores.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from elu_zoo.reference import reference_images
from training.benchmarks.measuring import machine, timings, write_csv

# Exported files by format and precision.
Paths = Mapping[tuple[str, str], pathlib.Path]

FILES = [
    ("saved_model", "float32"),
    ("saved_model", "bfloat16"),
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("openvino", "float32"),
    ("openvino", "float16"),
    ("litert", "float32"),
    ("litert", "float16"),
    ("litert", "int8"),
]
BATCHES = (1, 8, 32)
THREADS = (1, 2)


def write_files(
    folder: pathlib.Path, width: float | None
) -> tuple[Paths, tuple[int, ...]]:
    """Exports every file.

    Args:
        folder: Folder to write to.
        width: Width of a network with random weights; `None` for published weights.

    Returns:
        The paths, and the shape of an image.
    """
    import elu_zoo
    from elu_zoo._runtimes import RUNTIMES

    if width is None:
        model = elu_zoo.ELUNet11(weights="cifar100")
    else:
        model = elu_zoo.ELUNet11(width=width)
    paths = {}
    for format, dtype in FILES:
        path = folder / dtype / format
        if format in RUNTIMES:
            path = path.with_suffix(RUNTIMES[format].suffix)
        exported = elu_zoo.export(model, path, format, dtype=dtype)
        paths[format, dtype] = exported.path
    return paths, model.input_shape[1:]


def loaded(
    format: str, path: pathlib.Path, threads: int
) -> Callable[[np.ndarray], Any]:
    """Loads an exported file.

    Args:
        format: Format of the file.
        path: Path of the file.
        threads: Number of threads to use.

    Returns:
        A function from float32 images to probabilities.
    """
    from elu_zoo._runtimes import RUNTIMES

    if format in RUNTIMES:
        return RUNTIMES[format].load(path, threads)
    import tensorflow as tf

    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda images: signature(image=tf.constant(images))["probabilities"].numpy()


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
    for batch in BATCHES:
        images = np.resize(reference_images(shape), (batch, *shape)).astype("float32")
        calls = {key: functools.partial(run, images) for key, run in runs.items()}
        seconds = timings(calls, rounds, time.perf_counter)
        first = np.median(seconds[FILES[0]])
        rows += [
            {
                "format": format,
                "dtype": dtype,
                "batch": batch,
                "threads": threads,
                "p50_ms": round(1000 * float(np.median(values)), 3),
                "p99_ms": round(1000 * float(np.percentile(values, 99)), 3),
                "images_per_second": round(batch / float(np.median(values)), 1),
                "ratio": round(float(first / np.median(values)), 3),
            }
            for (format, dtype), values in seconds.items()
        ]
    return rows


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a fresh process.

    Args:
        function: Function of a module.
        *arguments: Arguments of the function.

    Returns:
        The result of the function.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument(
        "--width", type=float, help="width of a network with random weights"
    )
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts, rows = machine(), []
    print(f"{', '.join(map(str, facts.values()))}, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        paths, shape = write_files(pathlib.Path(folder), arguments.width)
        for threads in THREADS:
            rows += in_a_process(measure, paths, shape, threads, arguments.rounds)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.csv:
        write_csv(arguments.csv, [facts | row for row in rows])


if __name__ == "__main__":
    main()
