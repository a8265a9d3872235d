"""Reports on what a classifier gets right and wrong: tables and figures in a folder.

The figures need Matplotlib. Their colors are distinguishable by color-blind readers.
"""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from elu_zoo.evaluation import measure
from elu_zoo.files import replacing
from elu_zoo.image_files import Batches, ImageFiles
from elu_zoo.predictions import fit_temperature, gives_logits, with_temperature
from elu_zoo.records import attach_record, record_of

if TYPE_CHECKING:
    import matplotlib.axes

BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#999999"
"""Colors of the color-blind-safe palette of Okabe and Ito."""

STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    # A class may be named "$5".
    "text.parse_math": False,
}
"""Matplotlib settings of all figures."""

MOST_NAMES, MOST_COUNTS = 40, 12
"""Most classes for which a confusion matrix shows names, and counts, legibly."""


def write_report(
    folder: str | os.PathLike[str],
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    images: np.ndarray | ImageFiles,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Writes a report on a model's answers to labelled images.

    The files are `metrics.json` (see `elu_zoo.evaluation.measure`), `classes.csv` (one
    row per class), `errors.csv` (one row per error, the most confident first),
    `confusion_matrix.png` and `errors.png` (the most confident errors).

    Args:
        folder: Path of the folder; it is created, and existing files are replaced.
        probabilities: Array of shape `(n, classes)`.
        labels: Integer array of shape `(n,)`.
        class_names: One name per class.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255, or
            `elu_zoo.image_files.ImageFiles`, whose paths `errors.csv` then contains.
        temperature: Temperature of the probabilities, to be recorded.

    Returns:
        The metrics and the temperature, as in `metrics.json`.

    Raises:
        UserError: If the shapes do not fit each other.
        OSError: If the folder cannot be written to.

    Example:

    >>> import tempfile
    >>> folder, images = tempfile.mkdtemp(), np.zeros((3, 8, 8, 3))
    >>> answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    >>> report = write_report(folder, answers, np.array([0, 1, 1]), ["a", "b"], images)
    >>> round(report["error"], 3), sorted(os.listdir(folder))[0]
    (0.333, 'classes.csv')
    """
    folder = pathlib.Path(folder)
    metrics = measure(probabilities, labels, class_names)
    metrics["temperature"] = temperature
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "metrics.json") as part:
        part.write_text(json.dumps(metrics, indent=1) + "\n")
    matrix = np.array(metrics["confusion_matrix"])
    write_csv(folder / "classes.csv", class_rows(matrix, class_names))
    errors = find_errors(probabilities, labels)
    write_csv(
        folder / "errors.csv",
        _error_rows(errors, probabilities, labels, class_names, images),
    )
    draw_confusion_matrix(matrix, class_names, folder / "confusion_matrix.png")
    draw_errors(
        errors[:24], probabilities, labels, class_names, images, folder / "errors.png"
    )
    return metrics


def measure_held_out(
    folder: str | os.PathLike[str] | None,
    model: keras.Model,
    images: np.ndarray | ImageFiles,
    labels: np.ndarray,
    class_names: Sequence[str],
    temperature: float | None = None,
) -> dict[str, Any]:
    """Classifies labelled images and writes a report.

    Args:
        folder: Path of the report's folder, or `None` to write no report.
        model: Keras model that gives probabilities or logits.
        images: Array of shape `(n, height, width, channels)`, or `ImageFiles`, values
            from 0 to 255.
        labels: Integer array of shape `(n,)`.
        class_names: One name per class.
        temperature: Temperature of the probabilities. Default: it is fitted to these
            images, and stored in the model's record.

    Returns:
        The metrics; see `elu_zoo.evaluation.measure`.

    Raises:
        UserError: If the shapes do not fit each other.
        OSError: If the folder cannot be written to.

    Example:

    >>> import elu_zoo
    >>> model, images = elu_zoo.MNISTClassifier(classes=2), np.zeros((4, 28, 28, 1))
    >>> metrics = measure_held_out(None, model, images, np.zeros(4, int), ["a", "b"])
    >>> metrics["n"]
    4
    """
    probabilities = model.predict(Batches(images, labels, 64), verbose=0)
    if gives_logits(model):
        probabilities = keras.ops.softmax(probabilities)
    probabilities = keras.ops.convert_to_numpy(probabilities)
    if temperature is None:
        temperature = fit_temperature(probabilities, labels)
        if record := record_of(model):
            new = dataclasses.replace(
                record, temperature=temperature, calibrated_on=len(labels)
            )
            attach_record(model, new)
    probabilities = with_temperature(probabilities, temperature)
    if folder is None:
        return measure(probabilities, labels, class_names)
    return write_report(folder, probabilities, labels, class_names, images, temperature)


def class_rows(matrix: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Makes one row per class: images, accuracy, precision, most frequent mistake.

    Args:
        matrix: Counts of shape `(classes, classes)`, true class by predicted class.
        class_names: One name per class.

    Returns:
        A list of dicts. A share of no images is an empty string.

    Example:

    >>> class_rows(np.array([[3, 1], [0, 0]]), ["cat", "dog"])[0]["mistaken_for"]
    'dog'
    """
    rows = []
    for number, name in enumerate(class_names):
        own, right = int(matrix[number].sum()), int(matrix[number, number])
        answers = int(matrix[:, number].sum())
        wrong = matrix[number] * (np.arange(len(matrix)) != number)
        rows.append(
            {
                "class": name,
                "images": own,
                "accuracy": f"{right / own:.4f}" if own else "",
                "precision": f"{right / answers:.4f}" if answers else "",
                "mistaken_for": class_names[wrong.argmax()] if wrong.any() else "",
            }
        )
    return rows


def find_errors(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Finds the misclassified images.

    Args:
        probabilities: Array of shape `(n, classes)`.
        labels: Integer array of shape `(n,)`.

    Returns:
        An integer array of their indices, the most confident error first.

    Example:

    >>> find_errors(np.array([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2]]), np.array([1, 0, 0]))
    array([1, 0])
    """
    wrong = np.flatnonzero(probabilities.argmax(-1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(-1), kind="stable")]


def draw_learning_curve(
    history: Mapping[str, Sequence[Any]],
    path: str | os.PathLike[str],
    end: Mapping[str, float] | None = None,
) -> None:
    """Draws loss and accuracy per epoch, and marks the epoch that was kept.

    Args:
        history: As `elu_zoo.finetune` returns it.
        path: Path of the PNG file to write.
        end: Held-out metrics at the end, the attribute of the history. A star shows
            them: they differ from those of the epoch if the model ends with a mean.

    Example:

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/curve.png"
    >>> history = {"loss": [2, 1], "accuracy": [0.4, 0.6]}
    >>> history |= {"stage": [1, 2], "kept": [False, True]}
    >>> draw_learning_curve(history, path)
    >>> os.path.getsize(path) > 0
    True
    """
    epochs = np.arange(1, len(history["loss"]) + 1)
    with _figure(path, 1, 2, figsize=(8, 3.2)) as axes:
        for axis, metric, factor in zip(
            axes, ("loss", "accuracy"), (1, 100), strict=True
        ):
            for name, color, label in (
                (metric, ORANGE, "training"),
                (f"val_{metric}", BLUE, "held out"),
            ):
                if name in history:
                    values = factor * np.array(history[name], float)
                    axis.plot(epochs, values, color=color, marker=".", label=label)
            last = factor * end[f"val_{metric}"] if end else None
            _mark_stages(axis, history, last)
            axis.set_xlabel("epoch")
            axis.set_ylabel("accuracy (%)" if metric == "accuracy" else metric)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].legend()


def _mark_stages(
    axis: "matplotlib.axes.Axes",
    history: Mapping[str, Sequence[Any]],
    end: float | None,
) -> None:
    first = history["stage"].count(1)
    if 0 < first < len(history["stage"]):
        axis.axvline(first + 0.5, color=GRAY, linewidth=1, linestyle=":")
        axis.annotate(
            " whole network",
            (first + 0.5, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            color="#666666",
            fontsize=8,
        )
    if True in history["kept"]:
        kept = history["kept"].index(True) + 1
        axis.axvline(kept, color=BLUE, linewidth=1, linestyle="--", label="kept")
        if end is not None:
            axis.plot(kept, end, "*", color=BLUE, markersize=9, label="at the end")


def draw_confusion_matrix(
    matrix: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Draws how often each class gets each answer, in percent of the class.

    Args:
        matrix: Counts of shape `(classes, classes)`, true class by predicted class.
        class_names: One name per class.
        path: Path of the PNG file to write.

    Example:

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/matrix.png"
    >>> draw_confusion_matrix(np.array([[9, 1], [0, 5]]), ["cat", "dog"], path)
    >>> os.path.getsize(path) > 0
    True
    """
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(3.5 + 0.22 * len(matrix), 11)
    with _figure(path, 1, 1, figsize=(side + 1, side)) as axis:
        drawn = axis.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        axis.figure.colorbar(drawn, label="share of the class (%)", shrink=0.8)
        axis.spines[:].set_visible(False)
        axis.set_xlabel("answer")
        axis.set_ylabel("class")
        if len(matrix) <= MOST_NAMES:
            names = [shortened(name) for name in class_names]
            axis.set_xticks(range(len(names)), names, rotation=90)
            axis.set_yticks(range(len(names)), names)
        if len(matrix) <= MOST_COUNTS:
            for (row, column), count in np.ndenumerate(matrix):
                color = "black" if shares[row, column] > 50 else "white"
                axis.text(column, row, count, ha="center", va="center", color=color)


def draw_errors(
    errors: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    images: np.ndarray | ImageFiles,
    path: str | os.PathLike[str],
) -> None:
    """Draws a contact sheet of misclassified images.

    Args:
        errors: Integer array of indices of the images, such as the first of those from
            `find_errors`.
        probabilities: Array of shape `(n, classes)`.
        labels: Integer array of shape `(n,)`.
        class_names: One name per class.
        images: Array of shape `(n, height, width, channels)`, or `ImageFiles`, values
            from 0 to 255.
        path: Path of the PNG file to write.

    Example:

    >>> import tempfile
    >>> path, images = f"{tempfile.mkdtemp()}/errors.png", np.zeros((2, 8, 8, 3))
    >>> answers, labels = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0])
    >>> draw_errors(np.array([1]), answers, labels, ["cat", "dog"], images, path)
    >>> os.path.getsize(path) > 0
    True
    """
    columns = min(6, max(len(errors), 1))
    rows = max(1, -(-len(errors) // columns))
    size = (max(1.6 * columns, 3), 2.1 * rows)
    with _figure(path, rows, columns, figsize=size, squeeze=False) as axes:
        for axis in axes.flat:
            axis.axis("off")
        if not len(errors):
            axes[0, 0].text(0.5, 0.5, "no errors", ha="center")
        for axis, number in zip(axes.flat, errors, strict=False):
            image = np.clip(images[int(number)], 0, 255).astype("uint8")
            image = image[..., : 3 if image.shape[-1] >= 3 else 1]
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            answer = probabilities[number].argmax()
            share = probabilities[number, answer]
            axis.set_title(
                f"{shortened(class_names[labels[number]])}\n"
                f"{share:.0%} {shortened(class_names[answer])}",
                fontsize=7,
            )
        if len(errors):
            axes[0, 0].figure.suptitle(
                "class, and below it the answer with its probability", fontsize=8
            )


def shortened(name: str, most: int = 20) -> str:
    """Shortens a name to the length of a label in a figure.

    Args:
        name: Any text.
        most: Largest number of characters of the label.

    Returns:
        The name, or its beginning and an ellipsis.

    Example:

    >>> shortened("a_very_long_name_of_a_class")
    'a_very_long_name_of…'
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows to a CSV file, atomically.

    Args:
        path: Path of the file.
        rows: Dicts with the same keys. Without any, the file has no columns.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "rows.csv"
    >>> write_csv(path, [{"name": "cat", "count": 2}])
    >>> path.read_text().splitlines()
    ['name,count', 'cat,2']
    """
    rows = list(rows)
    with (
        replacing(path) as part,
        # File names need not be valid text.
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, rows[0] if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _error_rows(
    errors: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    images: np.ndarray | ImageFiles,
) -> list[dict[str, Any]]:
    paths = getattr(images, "paths", None)
    return [
        {
            "file": str(paths[number]) if paths else number,
            "class": class_names[labels[number]],
            "answer": class_names[probabilities[number].argmax()],
            "probability": f"{probabilities[number].max():.4f}",
        }
        for number in errors
    ]


@contextlib.contextmanager
def _figure(
    path: str | os.PathLike[str],
    rows: int,
    columns: int,
    figsize: tuple[float, float],
    **arguments: Any,
) -> Iterator[Any]:
    """Gives the axes of a figure in the common style; writes it after the block."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # Without pyplot no window opens, and the caller's figures are untouched.
        figure = Figure(figsize=figsize)
        yield figure.subplots(rows, columns, **arguments)
        with replacing(path) as part:
            figure.savefig(part, format="png", dpi=120)
