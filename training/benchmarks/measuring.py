"""What the benchmarks share: medians of rounds in a rotating order, and CSV files."""

import concurrent.futures
import csv
import multiprocessing
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]


def timings(
    calls: Mapping[Any, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[Any, list[float]]:
    """Times calls in several rounds, after one that compiles.

    Every round makes all calls once, in an order that rotates from round to round, so
    that drifting clocks and other work affect all of them alike.

    Args:
        calls: Functions without arguments, by name.
        rounds: Number of rounds.
        clock: `time.perf_counter` or `time.process_time`.

    Returns:
        By name, the seconds of the call in each round.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}


def medians(
    calls: Mapping[Any, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[Any, float]:
    """Times calls as `timings` does.

    Args:
        calls: Functions without arguments, by name.
        rounds: Number of rounds.
        clock: `time.perf_counter` or `time.process_time`.

    Returns:
        By name, the median of the seconds of the call.
    """
    seconds = timings(calls, rounds, clock)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compared(
    values: Sequence[float], others: Sequence[float], name: str = "ratio"
) -> dict[str, float]:
    """Compares two calls that were timed in the same rounds.

    Args:
        values: Seconds of one call in each round.
        others: Seconds of the other one.
        name: Name of the ratio.

    Returns:
        The median and the quartiles of the rounds' ratios of the first to the second,
        as columns of a CSV file.

    Example:

    >>> compared([2.0, 2.0, 2.0], [1.0, 2.0, 4.0])
    {'ratio': 1.0, 'ratio_low': 0.75, 'ratio_high': 1.5}
    """
    ratios = [a / b for a, b in zip(values, others, strict=True)]
    middle, low, high = np.percentile(ratios, [50, 25, 75])
    return {
        name: round(float(middle), 3),
        f"{name}_low": round(float(low), 3),
        f"{name}_high": round(float(high), 3),
    }


def spread(shares: Sequence[float]) -> str:
    """Writes the mean of shares in percent, of several with their standard deviation.

    Args:
        shares: At least one number from 0 to 1.

    Returns:
        A string.

    Example:

    >>> spread([0.29, 0.31])
    '30.00 ± 1.41%'
    """
    mean = f"{100 * statistics.mean(shares):.2f}"
    if len(shares) == 1:
        return f"{mean}%"
    return f"{mean} ± {100 * statistics.stdev(shares):.2f}%"


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


def write_csv(path: str | pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file.

    Args:
        path: Path of the file.
        rows: At least one row, all with the same fields.
    """
    from elu_zoo.files import replacing

    with replacing(pathlib.Path(path)) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def machine(facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the processor, its cores and versions, as columns of a CSV file.

    Args:
        facts: Result of `training.engine.device.description`; default of this process.
    """
    from training.engine import device

    facts = facts or device.description()
    names = ("processor", "processor_family_model", "cores", "backend")
    return {name: facts[name] for name in (*names, facts["backend"])}


def set_precision() -> dict[str, Any]:
    """Sets the precision that training has on this device.

    Returns:
        The machine and the precision, as columns of a CSV file.
    """
    facts = machine()  # Sets the environment before Keras is loaded.
    import keras

    from training.engine.device import default_precision

    keras.config.set_dtype_policy(default_precision())
    return facts | {"precision": default_precision()}
