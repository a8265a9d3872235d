"""Finds the image size at which a trained network errs least, on held-out images.

    python -m training.train RECIPE --holdout 5000 --data DIR --out RUN
    python -m training.benchmarks.evaluation_size RUN --data DIR [--csv FILE]

Objects look larger in random crops, so a network trained on them often does better on
images larger than the crops (Touvron et al., 2019). RUN is the folder of a finished run
that held images out. They are resized as `elu_zoo.preprocess_input` does.
"""

import argparse
import sys
from typing import Any

from training.benchmarks.measuring import machine, write_csv

SIZES = (40, 44, 48, 52, 56, 60, 64, 72, 80)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args()

    facts = machine()  # Sets the environment before Keras is loaded.
    from elu_zoo.evaluation import evaluate
    from training.engine.run import load_run

    run = load_run(arguments.run)
    if not run.settings["holdout"]:
        sys.exit(f"Expected a run with --holdout. Received: {run.folder}")
    held_out: Any = run.load_data("holdout", arguments.data)
    model = run.build_model(input_shape=(None, None, held_out.channels))
    facts |= {
        "recipe": run.facts["recipe"],
        "epochs": run.settings["epochs"],
        "seed": run.settings["seed"],
        "held_out": len(held_out),
    }
    rows = []
    for size in arguments.sizes:
        metrics = evaluate(model, held_out.resized(size).images, held_out.labels)
        low, high = metrics["error_interval"]
        row = {
            "size": size,
            "error": round(metrics["error"], 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "loss": round(metrics["loss"], 4),
        }
        print(*(f"{key} {value}  " for key, value in row.items()), flush=True)
        rows.append(facts | row)
    if arguments.csv:
        write_csv(arguments.csv, rows)


if __name__ == "__main__":
    main()
