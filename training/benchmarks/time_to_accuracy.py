"""Measures the time to the paper's error on CIFAR-100, over several seeds.

    python -m training.benchmarks.time_to_accuracy --data DIR --runs DIR [--csv FILE]

Each seed is a run of `elunet11_cifar100_fast.py`, which aims at the 28.75 % of the
paper's 11-layer network (section 4.2), in a folder of `--runs`; a run that was stopped
resumes, and one that `training.train` finished there is only measured. Its time is that
of compilation, steps, checkpoints and the evaluation at the end, without loading the
data and without interruptions; core-minutes count all cores that the process may use.
The second error is that of the mean of the probabilities of an image and its mirror
image.
"""

import argparse
import os
import pathlib
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.benchmarks.measuring import ROOT, machine, spread, write_csv

if TYPE_CHECKING:
    import keras

RECIPE = ROOT / "training/recipes/elunet11_cifar100_fast.py"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--runs", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3, help="number of runs")
    parser.add_argument("--smoke", action="store_true", help="run a small version")
    parser.add_argument("--csv", help="file for the rows")
    arguments = parser.parse_args(argv)

    rows = []
    for seed in range(arguments.seeds):
        out = arguments.runs / f"{RECIPE.stem}-{seed}{'-smoke' * arguments.smoke}"
        rows.append(measure(seed, arguments.data, out, arguments.smoke))
        if arguments.csv:
            write_csv(arguments.csv, rows)
    print(summary(rows))


def measure(seed: int, data: str, out: pathlib.Path, smoke: bool) -> dict[str, Any]:
    """Trains the recipe, or resumes its run, and measures its errors.

    Args:
        seed: Seed of the run.
        data: Folder of the data sets.
        out: Folder of the run.
        smoke: Whether to run a small version of the recipe.

    Returns:
        Columns of the CSV file.
    """
    machine()  # Sets the environment before Keras is loaded.
    _train(seed, data, out, smoke)
    from training.engine.cost import training_flop
    from training.engine.run import load_run

    run = load_run(out)
    model, test = run.build_model(), run.load_data("test", data)
    shape, classes = run.facts["input_shape"], len(run.class_names)
    return machine(run.facts["machine"]) | {
        "precision": run.settings["precision"],
        "recipe": RECIPE.stem,
        "seed": seed,
        "pflop": round(training_flop(run.settings, shape, classes) / 1e15, 3),
        "seconds": round(run.rows[-1]["seconds"]),
        "error": round(test.evaluate(model)["error"], 4),
        "error_mirrored": round(test.evaluate(with_mirror_image(model))["error"], 4),
    }


def _train(seed: int, data: str, out: pathlib.Path, smoke: bool) -> None:
    """Runs the recipe in a process of its own, which saves its state when stopped.

    A finished run is only compared with the recipe and the code.
    """
    command = [sys.executable, "-m", "training.train", str(RECIPE)]
    command += ["--data", data, "--out", str(out), "--seed", str(seed), "--quiet"]
    child = subprocess.Popen(
        [*command, "--smoke"] if smoke else command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    # A terminal sends Ctrl-C to both processes.
    interrupted = signal.signal(signal.SIGINT, lambda *_: None)
    terminated = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    status = child.wait()
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, terminated)
    if status:
        sys.exit(status)  # It has said why.


def with_mirror_image(model: "keras.Model") -> "keras.Model":
    """Makes a model that sees each image and its mirror image.

    Args:
        model: Classifier whose outputs are probabilities.

    Returns:
        A model whose probabilities are the means of both.
    """
    import keras

    images = keras.Input(model.input_shape[1:])
    views = [model(images), model(keras.ops.flip(images, axis=2))]
    return keras.Model(images, keras.layers.average(views))


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Says in a line what the runs reached.

    Args:
        rows: Rows of the CSV file.

    Returns:
        The line.
    """
    first = rows[0]
    minutes = statistics.mean(row["seconds"] * row["cores"] for row in rows) / 60
    errors = " and ".join(
        spread([row[name] for row in rows]) for name in ("error", "error_mirrored")
    )
    return (
        f"{first['recipe']}: {minutes:.0f} core-minutes, {errors} test error without "
        f"and with the mirror image, n = {len(rows)}, {first['pflop']} PFLOP, "
        f"{first['precision']}; {first['processor']}"
    )


if __name__ == "__main__":
    main()
