"""Times imports and the first prediction of a cold process.

    python -m training.benchmarks.startup [--rounds 7] [--csv FILE]

Each line of `PROGRAMS` runs in a fresh Python process, in an order that rotates from
round to round. The command prints the median seconds of whole processes, and the ratio
to `import keras` in the same rounds: its median and quartiles. It needs the package's
extra `export` and takes about three minutes on 2 cores.
"""

import argparse
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from training.benchmarks.measuring import (
    ROOT,
    compared,
    in_a_process,
    machine,
    timings,
    write_csv,
)

IMAGE = "import numpy; image = numpy.zeros((1, 32, 32, 3), 'float32'); "
PROGRAMS = {
    "import keras": "import keras",
    "import elu_zoo": "import elu_zoo",
    "first prediction, elu_zoo": IMAGE + "import elu_zoo; "
    "elu_zoo.ELUNet11(weights='cifar100').predict(image, verbose=0)",
    "first prediction, onnxruntime": IMAGE + "import onnxruntime; "
    "onnxruntime.InferenceSession('model.onnx').run(None, {'image': image})",
    "first prediction, OpenVINO": IMAGE + "import openvino; "
    "openvino.Core().compile_model('model.xml', 'CPU')(image)",
    "first prediction, LiteRT": IMAGE
    + "from ai_edge_litert.interpreter import Interpreter; "
    "Interpreter('model.tflite').get_signature_runner()(image=image)",
}
FILES = {"onnx": "model.onnx", "openvino": "model.xml", "litert": "model.tflite"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts, rows = machine(), []
    print(", ".join(map(str, facts.values())))
    with tempfile.TemporaryDirectory() as folder:
        in_a_process(export, folder)
        calls = {
            name: functools.partial(run, program, folder)
            for name, program in PROGRAMS.items()
        }
        seconds = timings(calls, arguments.rounds, time.perf_counter)
    for name, values in seconds.items():
        row: dict[str, Any] = {
            "program": name,
            "rounds": arguments.rounds,
            "seconds": round(statistics.median(values), 3),
        }
        row |= compared(values, seconds["import keras"], "to_import_keras")
        rows.append(facts | row)
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.csv:
        write_csv(arguments.csv, rows)


def export(folder: str) -> None:
    """Exports the network of the programs.

    Args:
        folder: Folder to write to.
    """
    import elu_zoo

    model = elu_zoo.ELUNet11(weights="cifar100")
    for format, name in FILES.items():
        elu_zoo.export(model, pathlib.Path(folder) / name, format)


def run(program: str, folder: str) -> None:
    """Runs a program in a fresh process.

    Args:
        program: Python code.
        folder: Folder to run it in.
    """
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    main()
