"""Measures a model on labelled images, or weights on the data set of their card.

FOLDER holds one folder of images per class, named after the classes of the model. DIR
holds the data set as its publishers distribute it, or is TensorFlow Datasets' folder.

examples:
  elu-zoo evaluate RUN photos --out report
  elu-zoo evaluate elunet11.cifar100 --data DIR
  elu-zoo evaluate elunet11.cifar100 --data DIR --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from elu_zoo.cli.common import (
    add_model_argument,
    check_out_file,
    load_model,
    print_json,
    start_backend,
)
from elu_zoo.errors import UserError

if TYPE_CHECKING:
    from elu_zoo.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    add_model_argument(parser, "name", metavar="MODEL")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="FOLDER/<class>/*.jpg"
    )
    images.add_argument(
        "--data", metavar="DIR", help="where the data set of the weights is"
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=["train", "test"],
        help="with --data: part of the data set (default: test)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="with --data: JSON file for all metrics; with FOLDER: folder for a report",
    )
    parser.add_argument("--json", action="store_true", help="print all metrics as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    if arguments.folder:
        _run_on_folder(arguments)
    else:
        _run_on_dataset(arguments)


def _run_on_dataset(arguments: argparse.Namespace) -> None:
    start_backend()
    from elu_zoo.files import replacing
    from elu_zoo.weights import get_record

    out = pathlib.Path(arguments.out) if arguments.out else None
    if out:
        check_out_file(out)
    record = get_record(arguments.name)
    result = _measured(arguments, record)
    if out:
        with replacing(out) as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.json:
        print_json(result)
    else:
        _print(arguments, record, result)
    if arguments.split == "test":
        _compare(record, result, quiet=arguments.json)


def _measured(arguments: argparse.Namespace, record: Record) -> dict[str, Any]:
    """The metrics on the data set of the card, and what they were measured with."""
    import keras

    from elu_zoo import datasets
    from elu_zoo.evaluation import evaluate

    data = datasets.load(record.dataset["name"], arguments.split, arguments.data)
    if record.class_names:
        data = data.with_classes(record.class_names)
    if record.preprocessing:
        data = data.resized(record.preprocessing.crop)
    model, class_names = load_model(arguments.name)
    backend = keras.backend.backend()
    return {
        "weights": record.name,
        "dataset": record.dataset["name"],
        "split": arguments.split,
        "input_shape": list(data.images.shape[1:]),
        "dtype": keras.config.dtype_policy().compute_dtype,
        "backend": backend,
        "versions": {x: importlib.metadata.version(x) for x in ("keras", backend)},
    } | evaluate(
        model,
        data.images,
        data.labels,
        class_names,
        verbose="auto" if sys.stdout.isatty() and not arguments.json else 0,
    )


def _compare(record: Record, result: dict[str, Any], quiet: bool) -> None:
    """Raises an error if the test error is not that of the card."""
    # On a different processor, rounding may change the answers to a few images.
    key, unit, tolerance = (
        ("error", "{:.2%}", 0.0005)
        if "error" in result
        else ("reconstruction_error", "{:.3f}", 0.005)
    )
    here, card = unit.format(result[key]), unit.format(record.metrics[key])
    differs = abs(result[key] - record.metrics[key]) > tolerance
    if not quiet:
        print(f"The card says {card}: {'IT DIFFERS' if differs else 'it agrees'}.")
    if differs:
        raise UserError(f"Expected {card}, which the card says. Received: {here}")


def _run_on_folder(arguments: argparse.Namespace) -> None:
    start_backend()
    from elu_zoo.heads import check_classifier
    from elu_zoo.image_files import open_image_folder
    from elu_zoo.images import preprocessing_of
    from elu_zoo.records import record_of
    from elu_zoo.reports import measure_held_out

    model, class_names = load_model(arguments.name)
    check_classifier(model)
    how = preprocessing_of(model)
    images, labels, _ = open_image_folder(
        arguments.folder, how["crop"], model.input_shape[-1], class_names, how
    )
    record = record_of(model)
    temperature = record.temperature if record else 1.0
    metrics = measure_held_out(
        arguments.out, model, images, labels, class_names, temperature
    )
    if arguments.json:
        print_json(metrics)
        return
    low, high = metrics["error_interval"]
    print(
        f"{metrics['n']} images: error {metrics['error']:.2%} (95% interval {low:.2%} "
        f"to {high:.2%}), calibration error {metrics['calibration_error']:.2%}"
    )
    if arguments.out:
        print(f"The report is in {arguments.out}")


def _print(
    arguments: argparse.Namespace, record: Record, result: dict[str, Any]
) -> None:
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    print(
        f"{record.name} on {result['n']} {arguments.split} images of "
        f"{result['dataset']}, {'x'.join(map(str, result['input_shape']))}, one view, "
        f"{result['dtype']}, {versions}\n{_metrics(result)}"
    )


def _metrics(result: dict[str, Any]) -> str:
    if "reconstruction_error" in result:
        return (
            f"  squared error      {result['reconstruction_error']:7.3f}  "
            "(per image, summed over its pixels, which are scaled to 0 to 1)\n"
            f"  unexplained var.   {result['unexplained_variance']:7.2%}"
        )
    low, high = result["error_interval"]
    return (
        f"  error              {result['error']:7.2%}  "
        f"(95% interval {low:.2%} to {high:.2%})\n"
        f"  top-5 error        {result['top5_error']:7.2%}\n"
        f"  cross-entropy      {result['loss']:7.3f}\n"
        f"  calibration error  {result['calibration_error']:7.2%}"
    )
