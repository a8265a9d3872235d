"""Times `elu-zoo predict` against an older revision, and measures its memory.

    python -m training.benchmarks.predicting --images DIR --csv FILE \
        [--before REVISION] [--memory 5000 20000 100000]

Runs the command on 1 and on 4,000 of the JPEG files below DIR, as of this checkout, in
float32 and in bfloat16, and as of the revision, in rounds whose order rotates. By
default, the revision is the last one that held all images in memory. The difference
between 4,000 files and one is the time without the start of Python and TensorFlow.

`--memory` measures the peak memory for these numbers of files instead, once each.
"""

import argparse
import dataclasses
import io
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from training.benchmarks.measuring import ROOT, machine, timings, write_csv

FILES = 4000
BEFORE = "a3bdd38"
COMMAND = (sys.executable, "-m", "elu_zoo", "predict")

# A checkout, and options of the command.
Command = tuple[pathlib.Path, Sequence[str]]


@dataclasses.dataclass
class Process:
    """A command, and what its last run took.

    Attributes:
        checkout: Folder of the revision that it runs.
        arguments: Its arguments.
        cpu: Seconds of all cores together.
        peak: Peak memory in MiB.
    """

    checkout: pathlib.Path
    arguments: Sequence[str]
    cpu: float = 0.0
    peak: float = 0.0

    def __call__(self) -> None:
        """Runs the command.

        Raises:
            RuntimeError: If it fails.
        """
        process = subprocess.Popen(
            [*COMMAND, *self.arguments],
            cwd=self.checkout,
            env=os.environ | {"PYTHONPATH": str(self.checkout)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"The command of {self.checkout} failed: {status}")
        self.cpu = usage.ru_utime + usage.ru_stime
        self.peak = usage.ru_maxrss / 1024


def checked_out(revision: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes the files of a revision to a folder.

    Args:
        revision: Name of a commit.
        folder: Folder to write to.

    Returns:
        The folder.
    """
    command = ["git", "-C", str(ROOT), "archive", revision]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def compare(
    paths: Sequence[str], commands: dict[str, Command], rounds: int
) -> list[dict[str, Any]]:
    """Times several commands on one file and on all.

    Args:
        paths: Paths of the files.
        commands: Commands by name; the first one is the base of the ratios.
        rounds: Number of rounds, after one that fills the caches.

    Returns:
        Rows of the CSV file.
    """
    runs = {
        (name, count): Process(folder, [*paths[:count], *options])
        for name, (folder, options) in commands.items()
        for count in (1, len(paths))
    }
    seconds: dict[tuple[str, Any], list[float]] = timings(
        runs, rounds, time.perf_counter
    )
    for name in commands:
        all_files, one = seconds[name, len(paths)], seconds[name, 1]
        pairs = zip(all_files, one, strict=True)
        seconds[name, "after the start"] = [whole - start for whole, start in pairs]
    base = next(iter(commands))
    rows = []
    for (name, count), values in seconds.items():
        pairs = zip(seconds[base, count], values, strict=True)
        ratios = [before / now for before, now in pairs]
        run = runs[name, count if count in (1, len(paths)) else len(paths)]
        rows.append(row(name, count, values, run) | spread("speed_to_before", ratios))
    return rows


def row(revision: str, files: Any, seconds: list[float], run: Process) -> dict:
    """Makes a row of the CSV file."""
    return {
        "revision": revision,
        "files": files,
        "rounds": len(seconds),
        **spread("seconds", seconds),
        "cpu_seconds": f"{run.cpu:.2f}",
        "peak_mib": round(run.peak),
    }


def spread(name: str, values: list[float]) -> dict[str, str]:
    """The median, the lowest and the highest of values, as columns."""
    found = statistics.median(values), min(values), max(values)
    names = name, f"{name}_lowest", f"{name}_highest"
    return {name: f"{value:.2f}" for name, value in zip(names, found, strict=True)}


def peaks(
    paths: Sequence[str], counts: Sequence[int], folder: pathlib.Path
) -> list[dict[str, Any]]:
    """Measures the peak memory for several numbers of files.

    Args:
        paths: Paths of the files, repeated where they are too few.
        counts: Numbers of files.
        folder: Folder for the results.

    Returns:
        Rows of the CSV file.
    """
    rows = []
    for count in counts:
        some = itertools.islice(itertools.cycle(paths), count)
        (folder / "list").write_text("\n".join(some))
        out = folder / f"{count}.csv"
        run = Process(ROOT, [f"@{folder / 'list'}", "--out", str(out)])
        begin = time.perf_counter()
        run()
        rows.append(row("this checkout", count, [time.perf_counter() - begin], run))
        print(rows[-1], flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--before", default=BEFORE, metavar="REVISION")
    parser.add_argument("--memory", type=int, nargs="+", metavar="FILES")
    arguments = parser.parse_args(argv)
    paths = sorted(map(str, arguments.images.rglob("*.JPEG")))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if arguments.memory:
            rows = peaks(paths, arguments.memory, folder)
        else:
            # From all folders, as these are sorted by class.
            some = paths[:: max(1, len(paths) // arguments.files)][: arguments.files]
            before = checked_out(arguments.before, folder)
            commands: dict[str, Command] = {
                arguments.before: (before, []),
                "this checkout": (ROOT, []),
                "this checkout, bfloat16": (ROOT, ["--dtype", "bfloat16"]),
            }
            rows = compare(some, commands, arguments.rounds)
    rows = [machine() | found for found in rows]
    print(", ".join(map(str, machine().values())))
    for found in rows:
        print(*list(found.values())[5:])
    if arguments.csv:
        write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
