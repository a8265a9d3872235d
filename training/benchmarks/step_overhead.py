"""Measures the share of a training step's time that is not arithmetic.

    python -m training.benchmarks.step_overhead [--rounds 5] [--csv FILE]

For each network and image size, the step of its recipe, which draws random numbers and
gathers and augments images, is compared with the same step of a ready batch. The order
rotates from round to round. The command prints medians of CPU time, which other work on
the machine disturbs least, and the median of the shares in each round. `--width` makes
the networks narrower, which makes the share larger.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from training.benchmarks.measuring import set_precision, timings, write_csv
from training.benchmarks.recipe_steps import steps

# Recipe, side of the data set's images, sizes to train at.
CASES = [
    ("elunet11_cifar100", 32, (16, 24, 32)),
    ("elunet18_cifar100", 32, (16, 24, 32)),
    ("elunet15_tiny_imagenet", 64, (32, 48)),
]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=float, help="replaces the recipes'")
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts, rows = set_precision(), []
    print(", ".join(map(str, facts.values())))
    for name, side, sizes in CASES:
        for size in sizes:
            row = measure(name, side, size, arguments)
            rows.append(facts | row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if arguments.csv:
                write_csv(arguments.csv, rows)


def measure(
    name: str, side: int, size: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Times both steps.

    Args:
        name: Name of the recipe.
        side: Side of the data set's images in pixels.
        size: Side to train at.
        arguments: Parsed arguments.

    Returns:
        A row: seconds of CPU time of both steps, and the share.
    """
    run, ready = steps(name, side, size, arguments)
    seconds = timings({"whole": run, "ready": ready}, arguments.rounds, clock())
    pairs = zip(seconds["whole"], seconds["ready"], strict=True)
    shares = [1 - ready / whole for whole, ready in pairs]
    medians = {k: round(statistics.median(v), 4) for k, v in seconds.items()}
    share = round(statistics.median(shares), 4)
    return {
        "recipe": name,
        "image_size": size,
        "batch_size": arguments.batch_size,
        "whole_seconds": medians["whole"],
        "ready_seconds": medians["ready"],
        "not_arithmetic": share,
    }


def clock() -> Callable[[], float]:
    """Returns the clock of CPU time, or of elapsed time with a GPU, which uses none."""
    from training.engine import device

    return time.perf_counter if device.accelerator() else time.process_time


if __name__ == "__main__":
    main()
