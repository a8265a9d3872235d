"""Evaluates weights on a data set and writes the figures as JSON.

    python -m training.evaluate elunet11.cifar100 --data DIR --out FILE.json
    python -m training.evaluate RUN --data DIR

Error, top-5 error, calibration and confusion of published weights, or of the last (or
best, with --weights best) weights of a run's folder. A single view of each image.
"""

import argparse
import json
import pathlib
import sys

from training.engine import device


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="name of published weights, or a run's folder")
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--weights", default="last", choices=["last", "best"])
    parser.add_argument("--out", help="file to write, default: print")
    arguments = parser.parse_args(argv)

    from elu_zoo.files import replacing
    from training.data import sources

    try:
        model, dataset = _load(arguments.source, arguments.weights)
        data = sources.load(dataset, arguments.split, arguments.data)
        figures = sources.evaluate(model, data)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"training.evaluate: {error}")
    result = {
        "source": arguments.source,
        "dataset": dataset,
        "split": arguments.split,
        "machine": device.description(),
    } | figures
    text = json.dumps(result, indent=1) + "\n"
    if not arguments.out:
        print(text, end="")
        return
    with replacing(pathlib.Path(arguments.out)) as part:
        part.write_text(text)
    low, high = figures["error_interval"]
    print(
        f"{arguments.source} on {figures['n']} {arguments.split} images of {dataset}: "
        f"error {figures['error']:.2%} (95 % interval {low:.2%} to {high:.2%}), top-5 "
        f"error {figures['top5_error']:.2%}, calibration error "
        f"{figures['calibration_error']:.2%}"
    )


def _load(source, which):
    from elu_zoo.weights import get_record
    from training.engine.run import load_run

    if pathlib.Path(source).is_dir():
        run = load_run(source)
        return run.build_model(which), run.settings["dataset"]
    from elu_zoo.models import get_model_function

    record = get_record(source)
    model = get_model_function(record["model"])(weights=source)
    return model, record["dataset"]["name"]


if __name__ == "__main__":
    main()
