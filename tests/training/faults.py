"""Kills workers of a training job at random, again and again, and compares the end.

    python tests/training/faults.py --workers 2 --kills 20 --log faults.log

A job on made-up data runs once undisturbed. Then the same job runs under the supervisor
command of docs/training.md while a worker, the chief or all are killed (SIGKILL) at
random moments. It has to end by itself with the same bits.
"""

import argparse
import pathlib
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/training")]

import launch  # noqa: E402
from made_up import write_cifar100  # noqa: E402

from training.engine.checkpoint import find  # noqa: E402

RECIPE = """
from training.data.augmentation import random_crop, random_flip
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet11",
    model_arguments={{"width": 0.04, "dropout": 0.1}},
    dataset="cifar100",
    batch_size=20,
    epochs={epochs},
    image_sizes={{0: 16}},
    augmentation=[random_crop(4), random_flip()],
    learning_rate=lambda steps: WarmupLinear(0.02, steps),
    optimizer=lambda schedule: ConvMuon(schedule, use_ema=True, ema_momentum=0.9),
)
"""


def run_faults(
    folder, workers, kills, epochs, seed=0, say=print, delay=2.0, recipe=RECIPE
):
    """Raises `AssertionError` unless the killed job ends with the same bits."""
    write_cifar100(folder / "data")
    (folder / "recipe.py").write_text(recipe.format(epochs=epochs))

    def start(name, supervised):
        logs = folder / name
        logs.mkdir()
        arguments = launch.command(folder / "recipe.py", folder / "data", logs / "run")
        return logs, launch.start(arguments, logs, workers, supervised=supervised)

    logs, processes = start("undisturbed", supervised=False)
    launch.finish(processes, logs)
    expected = launch.arrays(logs / "run")

    rng = random.Random(seed)
    logs, supervisors = start("killed", supervised=True)
    try:
        number = 0
        while number < kills:
            before = _newest(logs / "run")
            # Not before the job has got on, so that the kills hit training.
            _wait(lambda before=before: _newest(logs / "run") != before, supervisors)
            if all(process.poll() is not None for process in supervisors):
                raise AssertionError(f"the job ended after {number} of {kills} kills")
            time.sleep(rng.uniform(0, delay))
            victims = rng.choice([[0], [rng.randrange(workers)], range(workers)])
            step = _newest(logs / "run")
            killed = [w for w in victims if _kill_child(supervisors[w])]
            # Between two starts there is nothing to kill.
            if killed:
                number += 1
                say(f"kill {number}: workers {killed} after checkpoint {step}")
        launch.finish(supervisors, logs)
    finally:
        for process in supervisors:
            _kill_child(process)
            process.kill()
    actual = launch.arrays(logs / "run")
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    say(f"{len(actual)} arrays of the last checkpoint are equal bit by bit")


def _newest(out):
    files = find(out) if out.is_dir() else []
    return int(files[0].stem.split("-")[1]) if files else 0


def _wait(condition, processes, timeout=600):
    end = time.monotonic() + timeout
    while not condition() and any(process.poll() is None for process in processes):
        if time.monotonic() > end:
            raise AssertionError(f"no progress in {timeout} s")
        time.sleep(0.05)


def _kill_child(supervisor):
    """Kills the training process of a supervisor, if there is one just now."""
    result = subprocess.run(
        ["pkill", f"-{signal.SIGKILL.value}", "-P", str(supervisor.pid), "python"]
    )
    return result.returncode == 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=pathlib.Path)
    arguments = parser.parse_args()
    lines = []

    def say(text):
        lines.append(f"{time.strftime('%H:%M:%S')} {text}")
        print(lines[-1], flush=True)

    say(
        f"{arguments.workers} workers, {arguments.kills} kills, seed {arguments.seed}, "
        f"{platform.machine()}, Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_faults(
                pathlib.Path(folder),
                arguments.workers,
                arguments.kills,
                arguments.epochs,
                arguments.seed,
                say,
            )
        finally:
            if arguments.log:
                arguments.log.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
