"""Times `elu_zoo.ops.elu`, called eagerly, against TensorFlow's ReLU and ELU.

    python -m training.benchmarks.elu_op [--rounds 31] [--csv FILE]

The command prints medians in milliseconds and the ratios of `elu_zoo.ops.elu` to the
others in the same rounds, their median and quartiles, for the forward pass and for the
forward pass with its gradient. It takes about two minutes on 2 cores.
XLA computes tensors of `ops.XLA_MIN_SIZE` elements or more.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.benchmarks.measuring import compared, machine, timings, write_csv

SHAPES = ((64, 56, 56, 256), (128, 32, 32, 192), (64, 16, 16, 192), (1, 32, 32, 3))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)

    import keras
    import tensorflow as tf

    from elu_zoo import ops

    if keras.backend.backend() != "tensorflow":
        sys.exit("Expected the TensorFlow backend: set KERAS_BACKEND=tensorflow.")

    functions = {"relu": tf.nn.relu, "tf_elu": tf.nn.elu, "elu": ops.elu}
    facts, rows = machine(), []
    print(f"{', '.join(map(str, facts.values()))}, {arguments.rounds} rounds")
    for shape in SHAPES:
        x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
        for name, wrap in (("forward", lambda f: f), ("forward+backward", gradient)):
            calls = {k: functools.partial(wrap(f), x) for k, f in functions.items()}
            seconds = timings(calls, arguments.rounds, time.perf_counter)
            row: dict[str, Any] = {
                "shape": "x".join(map(str, shape)),
                "pass": name,
                **{
                    f"{k}_ms": round(1e3 * statistics.median(v), 4)
                    for k, v in seconds.items()
                },
                **compared(seconds["elu"], seconds["relu"], "elu_to_relu"),
                **compared(seconds["elu"], seconds["tf_elu"], "elu_to_tf_elu"),
            }
            rows.append(facts | row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)


def gradient(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a function that computes a function of a tensor and its gradient."""
    import tensorflow as tf

    def forward_and_backward(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)

    return forward_and_backward


if __name__ == "__main__":
    main()
