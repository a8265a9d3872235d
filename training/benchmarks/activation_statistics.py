"""Times `fit` with and without `elu_zoo.diagnostics.ActivationStatistics`.

    python -m training.benchmarks.activation_statistics [--rounds 7] [--csv FILE]

The callback measures a batch of images before and after every 100th update. The command
prints medians of the CPU time of 100 steps, including the first measurement, and their
ratio. It takes about three minutes on 2 cores.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.benchmarks.measuring import machine, medians, write_csv

STEPS = 100


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--models", nargs="+", default=["MNISTClassifier", "ELUNet11"])
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts, rows = machine(), []
    for name in arguments.models:
        calls = fits(name, arguments.steps)
        seconds = medians(calls, arguments.rounds, time.process_time)
        row = {
            "model": name,
            "steps": arguments.steps,
            **{f"{key}_s": round(value, 3) for key, value in seconds.items()},
            "ratio": round(seconds["followed"] / seconds["plain"], 3),
        }
        print(row, flush=True)
        rows.append(facts | row)
    if arguments.csv:
        write_csv(arguments.csv, rows)


def fits(name: str, steps: int, batch_size: int = 64) -> dict[str, Callable[[], Any]]:
    """Makes functions that train a model for some steps.

    Args:
        name: Name of the model function.
        steps: Number of steps.
        batch_size: Number of images per step.

    Returns:
        `"followed"`, with the callback, and `"plain"`, without it.
    """
    from elu_zoo.diagnostics import ActivationStatistics
    from elu_zoo.models import build_model

    model = build_model(name, {}, classes=10)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch_size, *model.input_shape[1:])).astype("uint8")
    x = np.concatenate([x] * steps)
    y = np.arange(len(x)) % 10
    statistics = ActivationStatistics(x[:batch_size], every=steps)
    fit = functools.partial(model.fit, x, y, batch_size, shuffle=False, verbose=0)
    return {
        "plain": fit,
        "followed": functools.partial(fit, callbacks=[statistics]),
    }


if __name__ == "__main__":
    main()
