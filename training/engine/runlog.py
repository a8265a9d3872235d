"""What a run leaves to read: a CSV log, its plot and TensorBoard events."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from elu_zoo.files import replacing
from training.data.phases import counted_from_start

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Numbers by field; "" where a row has no value.
Row = dict[str, Any]

FIELDS = (
    "step",
    "epoch",
    "learning_rate",
    "train_loss",
    "train_error",
    "eval_loss",
    "eval_error",
    "skipped_images",
    "images_per_second",
    "seconds",
)


class RunLog:
    """Rows of numbers, one per logging interval or evaluation.

    Args:
        path: Path of the CSV file.
        step: Step that the run continues from; later rows are dropped, since the run
            will write them again.
        write: Whether to write the file; only one worker does.

    Attributes:
        rows: The rows so far.
    """

    def __init__(
        self, path: str | pathlib.Path, step: int = 0, write: bool = True
    ) -> None:
        self.path, self._write = pathlib.Path(path), write
        self.rows = [row for row in read(path) if row["step"] <= step]
        if not write:
            return
        with replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all restarts."""
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def add(self, **row: Any) -> None:
        """Adds a row and makes sure that it is on disk.

        Args:
            **row: Values by field, some of `FIELDS`.
        """
        self.rows.append({field: row.get(field, "") for field in FIELDS})
        if not self._write:
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS).writerow(self.rows[-1])
            file.flush()
            os.fsync(file.fileno())


def read(path: str | pathlib.Path) -> list[Row]:
    """Reads the rows of a log, without a line that a kill left unfinished.

    Args:
        path: Path of the CSV file.

    Returns:
        The rows; an empty list if there is no file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text().splitlines(keepends=True)
    for line in csv.DictReader(line for line in lines if line.endswith("\n")):
        try:
            row: Row = {
                key: float(value) if value else "" for key, value in line.items()
            }
            for key in ("step", "skipped_images"):
                row[key] = int(row[key]) if row[key] != "" else ""
            whole = None not in line.values() and row["step"] != ""
        except (KeyError, TypeError, ValueError):
            continue
        if whole:
            rows.append(row)
    return rows


def plot(
    rows: Sequence[Row],
    path: str | pathlib.Path,
    settings: Mapping[str, Any],
    side: int,
    quantities: Sequence[str] = ("loss", "error"),
) -> None:
    """Draws the learning curve of a run, with its learning rate and image sizes.

    Args:
        rows: Rows of a log.
        path: Path of the SVG file.
        settings: Settings of the run, see `training.engine.provenance.settings_of`.
        side: Side in pixels of the images for evaluation.
        quantities: Quantities of the rows, one panel each.
    """
    from training import figures

    panels = len(quantities) + 1
    title, sizes = _title(settings, side), _image_sizes(settings, rows[-1]["epoch"])
    with figures.drawing(path, panels, title, columns=1, height=2.6) as axes:
        for axis, quantity in zip(axes, quantities, strict=False):
            _draw(axis, rows, quantity, figures)
        axes[0].legend()
        epochs, rates = zip(
            *((row["epoch"], row["learning_rate"]) for row in rows), strict=True
        )
        axes[-1].plot(epochs, rates, color=figures.GREEN)
        axes[-1].set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
        for axis in axes:
            axis.set_xlim(0, epochs[-1] * 1.02)
            axis.grid(visible=False, axis="x")
            for epoch in sizes if len(sizes) > 1 else ():
                axis.axvline(epoch, color=figures.INK, lw=1.5, ls=":")
        if len(sizes) > 1:
            _name_sizes(axes[-1], sizes, epochs[-1])


def _title(settings: Mapping[str, Any], side: int) -> str:
    split = "held-out" if settings["holdout"] else "test"
    what = f"{settings['model']} on {settings['dataset']}"
    return f"{what}, {split} images of {side}×{side}"


def _image_sizes(settings: Mapping[str, Any], last: float) -> dict[int, int]:
    """Sides of the training images by their first epoch, up to the last epoch drawn."""
    given = {int(epoch): side for epoch, side in settings["image_sizes"].items()}
    sizes = counted_from_start(given, settings["epochs"])
    return {epoch: side for epoch, side in sizes.items() if epoch < last}


def _name_sizes(axis: Axes, sizes: Mapping[int, int], last: float) -> None:
    """Writes the side of the training images above each part of a panel."""
    starts = sorted(sizes)
    for start, end in zip(starts, [*starts[1:], last], strict=True):
        axis.annotate(
            f"{sizes[start]}",
            ((start + end) / 2, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize="small",
        )
    axis.annotate(
        "image side:",
        (0, 1.02),
        (-6, 0),
        ("data", "axes fraction"),
        "offset points",
        ha="right",
        fontsize="small",
    )


def _draw(axis: Axes, rows: Sequence[Row], quantity: str, figures: ModuleType) -> None:
    scale = 100 if quantity == "error" else 1
    # Evaluations are dots: between two of them nothing was measured.
    kinds: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
        ("train", "training batches", {"color": figures.BLUE}),
        ("eval", "evaluation", {"color": figures.ORANGE, "marker": "o", "ls": "none"}),
    )
    for kind, label, style in kinds:
        points = [
            (row["epoch"], scale * row[f"{kind}_{quantity}"])
            for row in rows
            if row[f"{kind}_{quantity}"] != ""
        ]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, **style)
    axis.set_ylabel("loss" if quantity == "loss" else "error (%)")
    axis.set_ylim(bottom=0)


def write_events(rows: Sequence[Row], folder: str | pathlib.Path) -> None:
    """Writes the log as TensorBoard events, replacing earlier ones.

    They are made from all rows each time, so that a resumed run has no duplicate
    points. Nothing is written if TensorBoard is not installed.

    Args:
        rows: Rows of a log.
        folder: Folder of the events.
    """
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return
    folder = pathlib.Path(folder)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = EventFileWriter(str(folder))
    for row in rows:
        values = [
            summary_pb2.Summary.Value(tag=name.replace("_", "/", 1), simple_value=value)
            for name, value in row.items()
            if value != "" and name != "step"
        ]
        writer.add_event(
            event_pb2.Event(step=row["step"], summary=summary_pb2.Summary(value=values))
        )
    writer.close()
