"""Metrics of a network: error, calibration and confusions, or reconstruction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from elu_zoo import predictions
from elu_zoo.errors import UserError
from elu_zoo.records import class_names_of

if TYPE_CHECKING:
    import keras


def evaluate(
    model: keras.Model,
    images: np.ndarray,
    labels: npt.ArrayLike,
    class_names: Iterable[object] | None = None,
    batch_size: int = 250,
    verbose: str | int = 0,
) -> dict[str, Any]:
    """Classifies images once, at their own size, and compares with their labels.

    Args:
        model: Keras model that maps images to probabilities or logits. They are
            calibrated with the temperature of its record.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255.
        labels: Integers of shape `(n,)`, a list or an array.
        class_names: Optional names, one per class; default those of the model's record,
            or the class numbers.
        batch_size: Images per batch. Every image counts, including those of a smaller
            last batch.
        verbose: As in `keras.Model.predict`.

    Returns:
        A JSON-plain dict of metrics: those of `measure`, or for an autoencoder, whose
        labels are ignored, of `measure_reconstructions`.

    Raises:
        UserError: If images, labels and classes do not fit each other.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=3, width=0.05)
    >>> images = np.zeros((4, 32, 32, 3), "uint8")
    >>> evaluate(model, images, np.array([0, 1, 2, 0]))["n"]
    4
    """
    labels = np.asarray(labels)
    if labels.ndim == 0 or len(images) != len(labels) or len(images) == 0:
        raise UserError(
            "Expected one label per image, and at least one image. "
            f"Received: {len(images)} images, labels of shape {labels.shape}"
        )
    from elu_zoo.heads import gives_pixels

    outputs = model.predict(images, batch_size=batch_size, verbose=verbose)
    if gives_pixels(model):
        return measure_reconstructions(outputs, images)
    if class_names is None:
        class_names = class_names_of(model)
    return measure(predictions.probabilities(outputs, model), labels, class_names)


def measure(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Iterable[object] | None = None,
    bins: int = 15,
) -> dict[str, Any]:
    """Computes the metrics of a classifier from its probabilities.

    Args:
        probabilities: Array of shape `(n, classes)`; each row sums to 1.
        labels: Integers of shape `(n,)`, a list or an array.
        class_names: Optional names, one per class, a list or an array; default the
            class numbers.
        bins: Number of confidence bins, of equal width, for the calibration.

    Returns:
        A JSON-plain dict: `n`, `error` and its 95% Wilson `error_interval`,
        `top5_error`, `loss` (cross-entropy in nats), `calibration_error` (expected
        calibration error, Guo et al. 2017), `calibration` (count, mean confidence and
        accuracy of each non-empty bin), `class_error` (by class name), `confusions`
        (the most frequent wrong answers) and `confusion_matrix` (counts, true class by
        predicted class).

    Raises:
        UserError: If the shapes do not fit each other, or a row does not sum to 1.

    Example:

    >>> metrics = measure(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    >>> metrics["error"], metrics["confusion_matrix"]
    (0.5, [[1, 0], [1, 0]])
    """
    probabilities, labels = np.asarray(probabilities, "float64"), np.asarray(labels)
    n, classes = _checked_shape(probabilities)
    names = [str(x) for x in (range(classes) if class_names is None else class_names)]
    _check_labels(labels, names, probabilities)
    predicted = probabilities.argmax(-1)
    right = predicted == labels
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    table, calibration_error = _calibration(probabilities.max(-1), right, bins)
    counts = confusion.sum(-1)
    return {
        "n": n,
        "error": float(1 - right.mean()),
        "error_interval": _wilson(int(n - right.sum()), n),
        "top5_error": float(1 - _in_top(probabilities, labels, 5).mean()),
        "loss": cross_entropy(probabilities, labels),
        "calibration_error": calibration_error,
        "calibration": table,
        "class_error": {
            name: float(1 - confusion[i, i] / counts[i])
            for i, name in enumerate(names)
            if counts[i]
        },
        "confusions": _frequent(confusion, names),
        "confusion_matrix": confusion.tolist(),
    }


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean cross-entropy of a classifier.

    Args:
        probabilities: float64 array of shape `(n, classes)`.
        labels: Integer array of shape `(n,)`.

    Returns:
        The cross-entropy in nats; finite, even where a probability is 0.

    Example:

    >>> round(cross_entropy(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0])), 3)
    0.347
    """
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, np.finfo("float64").tiny)).mean())


def _checked_shape(probabilities: np.ndarray) -> tuple[int, int]:
    if probabilities.ndim != 2 or not len(probabilities):
        raise UserError(
            "Expected probabilities of shape (n, classes) with n of 1 or more. "
            f"Received: probabilities of shape {probabilities.shape}"
        )
    if not np.allclose(probabilities.sum(-1), 1, atol=1e-2):
        raise UserError(
            "Expected rows of probabilities that sum to 1. Received rows that sum to "
            f"{probabilities.sum(-1).min():.3g} to {probabilities.sum(-1).max():.3g}. "
            "A model that gives logits needs a softmax."
        )
    n, classes = probabilities.shape
    return n, classes


def _check_labels(
    labels: np.ndarray, names: list[str], probabilities: np.ndarray
) -> None:
    n, classes = probabilities.shape
    if labels.shape != (n,) or len(names) != classes:
        raise UserError(
            f"Expected labels of shape ({n},) and {classes} class names for "
            f"probabilities of shape {probabilities.shape}. Received: labels of shape "
            f"{labels.shape}, {len(names)} class names"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(
            "Expected labels to be integers, the class numbers. Received: labels of "
            f"dtype {labels.dtype}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"Expected labels from 0 to {classes - 1}. Received: {labels.min()} to "
            f"{labels.max()}"
        )


def measure_reconstructions(
    outputs: npt.ArrayLike, images: np.ndarray
) -> dict[str, Any]:
    """Computes the metrics of an autoencoder from its reconstructions.

    Args:
        outputs: Array of shape `(n, pixels)`, values from 0 to 1.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255.

    Returns:
        A JSON-plain dict: `n`, `reconstruction_error` (squared error per image, summed
        over its pixels scaled to 0 to 1, and averaged over the images) and
        `unexplained_variance` (its ratio to the error of always answering the mean
        image).

    Raises:
        UserError: If there is not one output per pixel.

    Example:

    >>> images = np.array([[[[0]]], [[[255]]]])
    >>> measure_reconstructions(np.array([[0.1], [0.9]]), images)["n"]
    2
    """
    outputs = np.asarray(outputs, "float64")
    pixels = np.reshape(images, (len(images), -1)) / 255
    if outputs.shape != pixels.shape:
        raise UserError(
            f"Expected one output per pixel, of shape {pixels.shape}. Received: "
            f"outputs of shape {outputs.shape}"
        )
    error = float(np.square(outputs - pixels).sum(-1).mean())
    variance = float(pixels.var(0).sum())
    if not variance:
        raise UserError(
            "Expected at least two different images, to compare the error with their "
            f"variance. Received: {len(images)} images without variance"
        )
    return {
        "n": len(images),
        "reconstruction_error": error,
        "unexplained_variance": error / variance,
    }


def _in_top(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    k = min(k, probabilities.shape[1])
    top = np.argpartition(-probabilities, k - 1, axis=-1)[:, :k]
    return (top == labels[:, None]).any(-1)


def _calibration(
    confidence: np.ndarray, right: np.ndarray, bins: int
) -> tuple[list[dict[str, float]], float]:
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    table, error = [], 0.0
    for b in range(bins):
        chosen = index == b
        count = int(chosen.sum())
        if not count:
            continue
        mean, accuracy = float(confidence[chosen].mean()), float(right[chosen].mean())
        table.append({"count": count, "confidence": mean, "accuracy": accuracy})
        error += count / len(right) * abs(mean - accuracy)
    return table, float(error)


def _wilson(k: int, n: int, z: float = 1.959964) -> list[float]:
    share, square = k / n, z * z / n
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n))
    center = share + square / 2
    return [(center - half) / (1 + square), (center + half) / (1 + square)]


def _frequent(
    confusion: np.ndarray, names: list[str], most: int = 20
) -> list[dict[str, Any]]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        {"true": names[i], "predicted": names[j], "count": int(wrong[i, j])}
        for i, j in zip(rows, columns, strict=True)
        if wrong[i, j]
    ]
