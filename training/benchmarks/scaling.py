"""Measures how inference scales, and how well a simple cost model predicts it.

    python -m training.benchmarks.scaling [--rounds 7] [--csv FILE]

`ELUNet11` answers batches of 1 to 1024 images, and `ELUNet15` at a quarter of its width
images of 32 to 224 pixels, with one thread and with two, in float32; then one, two and
four processes with one thread each answer at the same time. The order of the cases
rotates from round to round. The cost model has two constants for each network and
number of threads, seconds per batch and seconds per multiply-add, fitted to all of its
cases; processes share the cores.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from training.benchmarks.measuring import in_a_process, machine, timings, write_csv
from training.benchmarks.workers import ARGUMENTS, examples

BATCHES = (1, 4, 16, 64, 256, 1024)
SIZES = (32, 64, 96, 128, 160, 224)
THREADS = (1, 2)
PROCESSES = (1, 2, 4)

# Sizes of images and batches, by network.
NETWORKS: dict[str, list[dict[str, Any]]] = {
    "ELUNet11": [{"size": 32, "batch": batch} for batch in BATCHES],
    "ELUNet15": [{"size": size, "batch": 8} for size in SIZES],
}
# What each of several processes answers.
SHARED = {"size": 32, "batch": 64}
BATCHES_PER_ROUND = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=float, help="replaces the networks' widths")
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts, rows = machine(), []
    print(", ".join(map(str, facts.values())))
    for row in measure(arguments.rounds, arguments.width):
        rows.append(facts | row)
        print("  ".join(map(str, row.values())), flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)


def measure(rounds: int, width: float | None = None) -> Iterator[dict[str, Any]]:
    """Measures all cases.

    Args:
        rounds: Number of rounds.
        width: Replaces the widths of the networks.

    Yields:
        Rows of the CSV file, without the machine.
    """
    alone = 0.0
    for threads in THREADS:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
        for name, cases in NETWORKS.items():
            cases = [complete(name, case, width) for case in cases]
            work, seconds = in_a_process(timed, cases, rounds)
            predicted = fitted(work, seconds)
            for case, taken, expected in zip(cases, seconds, predicted, strict=True):
                yield row(case, threads, 1, case["batch"] / taken, taken / expected)
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
    case = complete("ELUNet11", SHARED, width)
    for processes in PROCESSES:
        speed = case["batch"] * processes / side_by_side(case, processes, rounds)
        alone = alone or speed
        expected = alone * min(processes, os.cpu_count() or 1)
        yield row(case, 1, processes, speed, expected / speed)


def complete(name: str, case: Mapping[str, Any], width: float | None) -> dict[str, Any]:
    """Adds the network to a case."""
    settings = ARGUMENTS.get(name, {}) | ({"width": width} if width else {})
    return {"model": name, "arguments": settings, **case}


def network(case: Mapping[str, Any]) -> tuple[Any, Callable[[], Any]]:
    """Builds the network of a case.

    Args:
        case: The case.

    Returns:
        The model, and a function that answers a batch.
    """
    from elu_zoo.models import build_model

    images, _ = examples(case)
    shape = images.shape[1:]
    model = build_model(case["model"], case["arguments"], input_shape=shape)
    return model, lambda: model.predict_on_batch(images)


def row(
    case: Mapping[str, Any],
    threads: int,
    processes: int,
    speed: float,
    ratio: float,
) -> dict[str, Any]:
    """Makes a row of the CSV file.

    Args:
        case: The case.
        threads: Number of threads of a process.
        processes: Number of processes.
        speed: Images per second of all processes.
        ratio: Time that was measured, to the time that the cost model predicts.

    Returns:
        The row.
    """
    return {
        "model": case["model"],
        "image_size": case["size"],
        "batch_size": case["batch"],
        "threads": threads,
        "processes": processes,
        "images_per_second": round(speed, 1),
        "to_prediction": round(ratio, 3),
    }


def timed(
    cases: Sequence[Mapping[str, Any]], rounds: int
) -> tuple[list[int], list[float]]:
    """Times batches.

    Args:
        cases: The cases.
        rounds: Number of rounds.

    Returns:
        For each case, the multiply-adds and the median seconds of a batch.
    """
    from training.engine import device  # Sets the environment before Keras is loaded.

    del device
    from training.engine.cost import multiply_adds

    work, calls = [], {}
    for number, case in enumerate(cases):
        model, calls[number] = network(case)
        work.append(case["batch"] * multiply_adds(model))
    seconds = timings(calls, rounds, time.perf_counter)
    return work, [statistics.median(values) for values in seconds.values()]


def fitted(work: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Fits `seconds = a + b · work`, with the least squares of the relative errors.

    Args:
        work: Multiply-adds of each batch.
        seconds: What the batches took.

    Returns:
        The seconds that the fit predicts.

    Example:

    >>> [round(s, 6) for s in fitted([1, 2, 4], [3.0, 5.0, 9.0])]
    [3.0, 5.0, 9.0]
    """
    columns = np.stack([np.ones(len(work)), np.array(work, float)], 1)
    relative = columns / np.array(seconds)[:, None]
    scale = np.linalg.norm(relative, axis=0)
    solution, *_ = np.linalg.lstsq(relative / scale, np.ones(len(work)), rcond=None)
    return (columns @ (solution / scale)).tolist()


def side_by_side(case: Mapping[str, Any], processes: int, rounds: int) -> float:
    """Times processes that answer at the same time.

    Args:
        case: The case of each process.
        processes: Number of processes.
        rounds: Number of rounds; each process answers `BATCHES_PER_ROUND` in one.

    Returns:
        The median seconds until each process has answered one batch.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with concurrent.futures.ProcessPoolExecutor(
        processes, context, _share, (barrier,)
    ) as pool:
        futures = [pool.submit(_answer, case, rounds) for _ in range(processes)]
        spans = [future.result() for future in futures]
    ends = [max(ends) for ends in zip(*spans, strict=True)]
    return statistics.median(ends) / BATCHES_PER_ROUND


_barrier: Any = None


def _share(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _answer(case: Mapping[str, Any], rounds: int) -> list[float]:
    from training.engine import device  # Sets the environment before Keras is loaded.

    del device
    _, compute = network(case)
    compute()
    seconds = []
    for _ in range(rounds):
        _barrier.wait(timeout=600)
        start = time.perf_counter()
        for _ in range(BATCHES_PER_ROUND):
            compute()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
