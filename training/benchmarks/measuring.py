"""What the benchmarks share: medians of rounds in a rotating order, and CSV files."""

import csv
import pathlib
import statistics

ROOT = pathlib.Path(__file__).parents[2]


def timings(calls, rounds, clock):
    """Seconds of each call in each round, without a first round, which compiles.

    Every round makes all calls once, in an order that rotates from round to round, so
    that drifting clocks and other work hit all of them alike.

    Args:
        calls: Dict of functions without arguments.
        rounds: Number of rounds.
        clock: `time.perf_counter` or `time.process_time`.

    Returns:
        A dict with the names of `calls`, a list for each.
    """
    seconds = {name: [] for name in calls}
    names = list(calls)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}


def medians(calls, rounds, clock):
    """Median of the `timings` of each call."""
    seconds = timings(calls, rounds, clock)
    return {name: statistics.median(values) for name, values in seconds.items()}


def write_csv(path, rows):
    """Writes dicts with the same keys to a file."""
    from elu_zoo.files import replacing

    with replacing(pathlib.Path(path)) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def machine():
    """The processor, its cores, and versions, as columns of a CSV file."""
    from training.engine import device

    facts = device.description()
    names = ("processor", "processor_family_model", "cores", "backend", "tensorflow")
    return {name: facts[name] for name in names}
