"""Runs an experiment of the paper and draws its figure.

    python -m training.paper figure2 --data DIR

Each run adds rows to docs/results/paper/FIGURE.csv; the figure is beside it. An
experiment that was stopped resumes from its checkpoints in --runs; runs whose rows are
in the CSV are not repeated. Two processes may run different variants at once.
"""

import argparse
import csv
import importlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from elu_zoo.errors import UserError
from training.commands import USER_ERROR, leave
from training.paper.experiment import Experiment

# The experiments, and the backend that each needs, if any. It has to be chosen before
# Keras is imported.
FIGURES = {
    "figure2": "jax",
    "figure3": "jax",
    "figure4": None,
    "figure6": None,
    "angles": None,
    "saturation": "jax",
    "activations": None,
    "depth": None,
    "initialization": None,
}
RESULTS = pathlib.Path(__file__).parents[2] / "docs/results/paper"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--data", type=pathlib.Path, help="folder of the data sets")
    parser.add_argument(
        "--variant", action="append", help="run only this variant; repeatable"
    )
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="number of seeds (default: 5)"
    )
    parser.add_argument("--quick", action="store_true", help="a trial of minutes")
    parser.add_argument("--runs", type=pathlib.Path, default="runs/paper")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true", help="only draw the figure")
    arguments = parser.parse_args(argv)
    module = importlib.import_module(f"training.paper.{arguments.figure}")
    experiment = module.experiment
    name = f"{experiment.name}_quick" if arguments.quick else experiment.name
    path = arguments.out / f"{name}.csv"
    unknown = {*(arguments.variant or ())} - {*experiment.variants}
    if unknown:
        parser.error(f"expected variants of {experiment.variants}, not {unknown}")
    if not arguments.draw:
        if not arguments.data:
            parser.error("expected --data DIR, the folder of the data sets")
        try:
            for new in complete(experiment, read(path), arguments):
                # Read again: another process may have added rows.
                write(path, read(path) + new)
        except (UserError, FileNotFoundError) as error:
            leave("training.paper", error, USER_ERROR)
    rows = read(path)
    if not rows:
        parser.error(f"expected rows in {path}; without --draw, the experiment runs")
    experiment.draw(rows, path.with_suffix(".svg"))
    print(f"{path}, {path.with_suffix('.svg')}")


def complete(
    experiment: Experiment, rows: list[dict], arguments: argparse.Namespace
) -> Iterator[list[dict]]:
    """Runs the variants and seeds whose rows are missing.

    Args:
        experiment: The experiment.
        rows: Rows of the CSV.
        arguments: Parsed arguments.

    Yields:
        The new rows of each run.
    """
    folder = arguments.runs / experiment.name
    there = {(row["variant"], int(row["seed"])) for row in rows}
    every = range(arguments.seeds)
    for seeds in [every] if experiment.together else [[seed] for seed in every]:
        for variant in arguments.variant or experiment.variants:
            missing = [seed for seed in seeds if (variant, seed) not in there]
            if missing:
                new = experiment.run(
                    arguments.data, folder, variant, missing, arguments.quick
                )
                yield [{"variant": variant} | row for row in new]


def read(path: pathlib.Path) -> list[dict]:
    """Reads the rows of a CSV file.

    Args:
        path: Path of the file.

    Returns:
        The rows, their values strings; an empty list if there is no file.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: pathlib.Path, rows: list[dict]) -> None:
    """Writes rows as a CSV file, floats with five significant digits.

    Args:
        path: Path of the file.
        rows: At least one row, all with the same fields.
    """
    from elu_zoo.files import replacing

    for row in rows:
        if row.keys() != rows[0].keys():
            raise UserError(
                f"Expected rows with the columns of {path}: {', '.join(rows[0])}. "
                f"Received: {', '.join(row)}. Use a different folder for --out."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({k: _short(v) for k, v in row.items()} for row in rows)


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value


if __name__ == "__main__":
    for figure, backend in FIGURES.items():
        if backend and figure in sys.argv:
            os.environ.setdefault("KERAS_BACKEND", backend)
    main()
