"""Measures where the time of a training step goes, by kind of operation.

    python -m training.benchmarks.step_profile [--rounds 9] [--csv FILE]

For each network, TensorFlow's profiler records the operations of some steps of its
recipe: forward, backward, the optimizer, and the augmentation of the images. Operations
run beside each other, so the shares are of the time of all operations, which is more
than the time that passes.
"""

import argparse
import collections
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from training.benchmarks.measuring import set_precision, write_csv
from training.benchmarks.recipe_steps import steps

# Recipe, side of the data set's images, sizes to train at.
CASES = [
    ("elunet11_cifar100", 32, (32,)),
    ("elunet18_cifar100", 32, (16, 32)),
    ("elunet15_tiny_imagenet", 64, (48,)),
]

# Kinds of operations by patterns of their names, `scope:type`. The first match counts.
KINDS = {
    "optimizer": r"muon|optimizer",
    "convolution, gradient": r":.*Conv2DBackprop",
    "convolution, with the bias and ELU fused into it": r":.*Conv2D",
    "ELU, gradient": r":.*EluGrad",
    "ELU, where it is not fused": r":.*Elu$",
    "bias, gradient": r":.*BiasAddGrad",
    "pooling": r":.*(Max|Avg)Pool",
    "dropout": r"dropout",
    "casts": r":.*Cast$",
    "output layers": r":.*MatMul",
    "other": "",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="steps to profile")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--width", type=float, help="replaces the recipes'")
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts, rows = set_precision(), []
    print(", ".join(map(str, facts.values())))
    for name, side, sizes in CASES:
        for size in sizes:
            run, _ = steps(name, side, size, arguments)
            case = {"recipe": name, "image_size": size}
            case["batch_size"] = arguments.batch_size
            for row in measure(run, arguments.rounds):
                rows.append(facts | case | row)
                print("  ".join(map(str, [*case.values(), *row.values()])), flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)


def measure(run: Callable[[], Any], count: int) -> Iterator[dict[str, Any]]:
    """Profiles a step.

    Args:
        run: Function that computes a step.
        count: Number of steps, after two that compile and warm up.

    Yields:
        A row for each of `KINDS`: milliseconds of its operations per step and their
        share, with the milliseconds that a step takes.
    """
    run(), run()
    start = time.perf_counter()
    events = profiled(run, count)
    passed = (time.perf_counter() - start) / count
    milliseconds: dict[str, float] = collections.defaultdict(float)
    for name, duration in events:
        milliseconds[kind_of(name)] += duration / count
    total = sum(milliseconds.values())
    for kind in KINDS:
        yield {
            "kind": kind,
            "milliseconds": round(milliseconds[kind], 1),
            "share": round(milliseconds[kind] / total, 4),
            "step_milliseconds": round(1000 * passed, 1),
        }


def kind_of(name: str) -> str:
    """Finds the kind of an operation.

    Args:
        name: Its name and type, as the profiler writes them.

    Returns:
        One of `KINDS`.

    Example:

    >>> kind_of("elunet11/stack1_conv1/BiasAdd:_MklNativeFusedConv2D")
    'convolution, with the bias and ELU fused into it'
    >>> kind_of("conv_muon/Mul_17:Mul")
    'optimizer'
    """
    return next(kind for kind in KINDS if re.search(KINDS[kind], name))


def profiled(run: Callable[[], Any], count: int) -> Iterable[tuple[str, float]]:
    """Calls a function under TensorFlow's profiler.

    Args:
        run: The function.
        count: Number of calls.

    Returns:
        Names, with types, and milliseconds of the operations that ran.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(count):
                run()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    (plane,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    names = plane.event_metadata
    return [
        (name, event.duration_ps / 1e9)
        for line in plane.lines
        for event in line.events
        # Operations have a name and a type; functions and the executor do not.
        if re.fullmatch(r"[^ :]+:\w+", name := names[event.metadata_id].name)
    ]


if __name__ == "__main__":
    main()
