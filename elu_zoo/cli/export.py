"""Exports a model to a file for a server or a runtime.

examples:
  elu-zoo export elunet11.cifar100 --out served
  elu-zoo export DIR --out model.tflite --format litert --dtype int8
  elu-zoo export DIR --out model.xml --format openvino --dtype int8 --calibration photos
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from elu_zoo.cli.common import (
    add_model_argument,
    add_resize_argument,
    known_model,
    load_model,
    print_json,
    start_backend,
)

if TYPE_CHECKING:
    import keras
    import numpy as np

FORMATS = ["saved_model", "onnx", "openvino", "litert"]
"""Values of `--format`; listed here so that `--help` imports no backend."""

DTYPES = ["float32", "bfloat16", "float16", "int8"]
"""Values of `--dtype`; which of them a format has is checked later."""


CALIBRATION_IMAGES = 512
"""Largest number of images to calibrate with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    add_model_argument(parser, "model", metavar="MODEL")
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="file to write (.onnx, .xml, .tflite), or folder for a SavedModel",
    )
    parser.add_argument(
        "--format",
        default="saved_model",
        choices=FORMATS,
        help="format of the file (default: saved_model)",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="precision (default: float32); saved_model: float32, bfloat16; "
        "the others: float32, float16, int8",
    )
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="N",
        help="classes per answer of a SavedModel (default: 5)",
    )
    add_resize_argument(parser)
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help='have the model answer "none of these" if no class is that probable',
    )
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="PATH",
        help="images or folders of typical images, of which up to "
        f"{CALIBRATION_IMAGES} are used; onnx and openvino need them for int8",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    start_backend()
    from elu_zoo.exporting import export
    from elu_zoo.predictions import set_threshold

    model, class_names = load_model(known_model(arguments.model))
    set_threshold(model, arguments.threshold)
    path, difference = export(
        model,
        arguments.out,
        arguments.format,
        class_names,
        dtype=arguments.dtype,
        top=arguments.top,
        resize=arguments.resize,
        calibration=_images(model, arguments.calibration, arguments.resize),
    )
    if arguments.json:
        print_json({"path": str(path), "difference": difference})
        return
    print(f"{path}: probabilities differ from the model's by at most {difference:.1g}")


def _images(
    model: keras.Model, names: Sequence[str] | None, resize: int | None
) -> np.ndarray | None:
    """Reads the images to calibrate with, evenly spaced among those that are named."""
    from elu_zoo.batch import find_paths
    from elu_zoo.image_files import ImageFiles
    from elu_zoo.images import preprocessing_of

    if names is None:
        return None
    paths = find_paths(names)
    step = -(-len(paths) // CALIBRATION_IMAGES)
    how = preprocessing_of(model, resize)
    channels = model.input_shape[-1]
    return ImageFiles(paths[::step], how["crop"], channels, preprocessing=how)[:]
