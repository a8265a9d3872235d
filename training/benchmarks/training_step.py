"""Times a training step of ELUNet11: oneDNN off and on, precisions, image sizes.

    python -m training.benchmarks.training_step [--rounds 3] [--csv FILE]

Each setting runs in processes of its own, in an order that rotates from round to round.
The command prints the medians in images per second and their ratio to the first row. It
runs in a checkout and takes about three minutes on 2 cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from training.benchmarks.measuring import ROOT, machine, write_csv

SETTINGS: list[dict[str, Any]] = [
    {"onednn": "0", "precision": "float32", "image_size": 32},
    {"onednn": "1", "precision": "float32", "image_size": 32},
    {"onednn": "1", "precision": "mixed_bfloat16", "image_size": 32},
    {"onednn": "1", "precision": "float32", "image_size": 24},
    {"onednn": "1", "precision": "float32", "image_size": 16},
]

STEP = """
import dataclasses, pathlib, statistics, sys, time
from training.engine import device
import keras, numpy as np
from training.data.memory import MemoryDataset
from training.data.stream import Stream
from training.engine.model import build_model
from training.engine.recipe import load_recipe
from training.engine.steps import Steps
from training.engine.strategy import make_placement

precision, size, batch_size = sys.argv[1], int(sys.argv[2]), 64
keras.config.set_dtype_policy(precision)
recipe = load_recipe(
    pathlib.Path("training/recipes/elunet11_cifar100.py"),
    batch_size=batch_size,
    image_sizes={0: size},
    augmentation=(),
)
images = np.random.default_rng(0).integers(0, 256, (batch_size, 32, 32, 3), "uint8")
labels = np.arange(batch_size) % 100
data = MemoryDataset(images, labels, tuple(map(str, range(100))))
model = build_model(recipe, 100, (None, None, 3))
optimizer = recipe.optimizer(1e-3)
optimizer.build(model.trainable_variables)
steps = Steps(model, optimizer, recipe, make_placement("none"), jit=False)
batch = Stream(data, batch_size, image_sizes=recipe.image_sizes).batch(0)
seconds = []
while len(seconds) < 2 or sum(seconds) < 6:
    begin = time.perf_counter()
    np.asarray(steps.train([batch]))
    seconds.append(time.perf_counter() - begin)
print(batch_size / statistics.median(seconds[1:]))
"""


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args()

    speeds: list[list[float]] = [[] for _ in SETTINGS]
    for round_ in range(arguments.rounds):
        for k in range(len(SETTINGS)):
            i = (k + round_) % len(SETTINGS)
            speeds[i].append(images_per_second(SETTINGS[i]))
    facts, rows = machine(), []
    print(", ".join(map(str, facts.values())))
    for setting, values in zip(SETTINGS, speeds, strict=True):
        row = setting | {
            "images_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(values) / statistics.median(speeds[0]), 3),
        }
        rows.append(facts | row)
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.csv:
        write_csv(arguments.csv, rows)


def images_per_second(setting: Mapping[str, Any]) -> float:
    """Times a setting in a fresh process.

    Args:
        setting: One of `SETTINGS`.

    Returns:
        Images per second.
    """
    result = subprocess.run(
        [sys.executable, "-c", STEP, setting["precision"], str(setting["image_size"])],
        cwd=ROOT,
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": setting["onednn"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return float(result.stdout.split()[-1])


if __name__ == "__main__":
    main()
