"""The exported files that the benchmarks compare: written, and loaded to run."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Images per call.
BATCH = 100

# Exported files by format and precision.
Paths = Mapping[tuple[str, str], pathlib.Path]

FILES = [
    ("saved_model", "float32"),
    ("saved_model", "bfloat16"),
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("onnx", "int8"),
    ("openvino", "float32"),
    ("openvino", "float16"),
    ("openvino", "int8"),
    ("litert", "float32"),
    ("litert", "float16"),
    ("litert", "int8"),
]


def load_model(width: float | None) -> Any:
    """Loads the network to export.

    Args:
        width: Width of a network with random weights; `None` for published weights.

    Returns:
        A Keras model.
    """
    import elu_zoo

    if width is None:
        return elu_zoo.ELUNet11(weights="cifar100")
    return elu_zoo.ELUNet11(width=width)


def write_files(model: Any, folder: pathlib.Path, calibration: np.ndarray) -> Paths:
    """Exports every file.

    Args:
        model: Keras model.
        folder: Folder to write to.
        calibration: Images to calibrate int8 with.

    Returns:
        The paths.
    """
    import elu_zoo
    from elu_zoo._runtimes import RUNTIMES

    paths = {}
    for format, dtype in FILES:
        path, images = folder / dtype / format, None
        if format in RUNTIMES:
            path = path.with_suffix(RUNTIMES[format].suffix)
            if dtype in RUNTIMES[format].calibrated:
                images = calibration
        exported = elu_zoo.export(model, path, format, dtype=dtype, calibration=images)
        paths[format, dtype] = exported.path
    return paths


def loaded(
    format: str, path: pathlib.Path, threads: int
) -> Callable[[np.ndarray], Any]:
    """Loads an exported file.

    Args:
        format: Format of the file.
        path: Path of the file.
        threads: Number of threads to use.

    Returns:
        A function from float32 images to probabilities.
    """
    from elu_zoo._runtimes import RUNTIMES

    if format in RUNTIMES:
        return RUNTIMES[format].load(path, threads)
    import tensorflow as tf

    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda images: signature(image=tf.constant(images))["probabilities"].numpy()


def error(
    run: Callable[[np.ndarray], Any], images: np.ndarray, labels: np.ndarray
) -> float:
    """Returns the percentage of images that a function classifies wrongly."""
    batches = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
    answers = [np.asarray(run(x.astype("float32"))).argmax(1) for x in batches]
    return 100 * float(np.mean(np.concatenate(answers) != labels))
