"""Measures the errors of the files that `elu_zoo.export` writes, on a whole test set.

    python -m training.benchmarks.exported_errors --data DIR [--csv FILE]

Each file of `exports.FILES` classifies the test images of CIFAR-100 in its own runtime.
The command prints its size in megabytes, its error in percent, and how much higher than
the Keras model's the error is. Files in int8 that need calibration are calibrated on
512 training images.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from training.benchmarks.exports import error, load_model, loaded, write_files
from training.benchmarks.measuring import machine, write_csv

CALIBRATION_IMAGES = 512


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument(
        "--images", type=int, help="number of test images (default: all)"
    )
    parser.add_argument(
        "--width", type=float, help="width of a network with random weights"
    )
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)

    facts, rows = machine(), []
    from elu_zoo import datasets

    model = load_model(arguments.width)
    train = datasets.load("cifar100", "train", arguments.data).images
    test = datasets.load("cifar100", "test", arguments.data)
    images, labels = (x[: arguments.images] for x in (test.images, test.labels))
    plain = error(model.predict_on_batch, images, labels)
    chosen = np.random.default_rng(0).choice(len(train), CALIBRATION_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(model, pathlib.Path(folder), train[chosen])
        for (format, dtype), path in paths.items():
            wrong = error(loaded(format, path, threads=1), images, labels)
            row = {
                "format": format,
                "dtype": dtype,
                "megabytes": round(size(path) / 1e6, 2),
                "images": len(images),
                "error": round(wrong, 2),
                "above_model": round(wrong - plain, 2),
            }
            rows.append(facts | row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)


def size(path: pathlib.Path) -> int:
    """Returns the bytes of an exported file, which may have parts or be a folder."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*")
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
