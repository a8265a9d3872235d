"""Evaluates weights on a data set and writes the metrics as JSON.

    python -m training.evaluate elunet11.cifar100 --data DIR --out FILE.json
    python -m training.evaluate RUN --data DIR

The metrics are error, top-5 error, calibration and confusion of published weights, or
of the last weights in the folder of a run (with --weights best, of the best ones). Each
image is seen in a single view.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.commands import parse, parser
from training.engine import device  # sets the environment before Keras
from training.summary import error_text

if TYPE_CHECKING:
    import keras

    from training.data.protocol import Examples


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    options = parser("training.evaluate", __doc__)
    options.add_argument("source", help="name of published weights, or a run's folder")
    options.add_argument("--data", required=True, help="folder of the data sets")
    options.add_argument("--split", default="test", choices=["train", "test"])
    options.add_argument("--weights", default="last", choices=["last", "best"])
    options.add_argument("--out", help="file to write, default: print")
    arguments = parse(options, argv)

    from elu_zoo.errors import UserError
    from elu_zoo.files import check_writable, replacing

    try:
        if arguments.out:
            check_writable(pathlib.Path(arguments.out).parent)
        model, dataset, data = _load(arguments)
        metrics = data.evaluate(model)
    except (UserError, OSError) as error:
        sys.exit(f"training.evaluate: {error}")
    result = {
        "source": arguments.source,
        "dataset": dataset,
        "split": arguments.split,
        "machine": device.description(),
    } | metrics
    text = json.dumps(result, indent=1) + "\n"
    if not arguments.out:
        print(text, end="")
        return
    with replacing(pathlib.Path(arguments.out)) as part:
        part.write_text(text, "utf-8")
    print(
        f"{arguments.source} on {metrics['n']} {arguments.split} images of {dataset}: "
        f"error {error_text(metrics)}"
        + (
            f", top-5 error {metrics['top5_error']:.2%}, calibration error "
            f"{metrics['calibration_error']:.2%}"
            if "top5_error" in metrics
            else ""
        )
    )


def _load(arguments: argparse.Namespace) -> tuple[keras.Model, str, Examples]:
    """The model, the name of its data set, and the split."""
    from elu_zoo.cli.common import known_model
    from elu_zoo.models import load
    from elu_zoo.weights import get_record, list_weights
    from training.data import sources
    from training.engine.run import load_run

    # As in `elu-zoo`, the name of weights comes first; a folder NAME is "./NAME".
    source, split = known_model(arguments.source), arguments.split
    if pathlib.Path(source).is_dir() and source not in list_weights():
        run = load_run(source)
        data = run.load_data(split, arguments.data)
        return run.build_model(arguments.weights), run.settings["dataset"], data
    record = get_record(source)
    data = sources.load(
        record.dataset["name"], split, arguments.data, list(record.class_names)
    )
    return load(source), record.dataset["name"], data


if __name__ == "__main__":
    main()
