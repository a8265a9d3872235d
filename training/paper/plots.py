"""What the figures of the paper's experiments have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training.paper.units import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def loss_range(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Finds a range for the training losses that a run which diverges does not fill.

    Args:
        rows: Rows with `train_loss`.

    Returns:
        The lowest and the highest loss to draw. The highest is at most twice that of a
        network that knows nothing of 100 classes.
    """
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"] != ""]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return 0.95 * min(finite), min(2 * math.log(100), 1.05 * max(finite))


def dots(
    axis: Axes, rows: Sequence[dict[str, Any]], units: Mapping[str, Unit], x: str
) -> None:
    """Draws a dot per seed and a line at the mean, a row per variant.

    Args:
        axis: Matplotlib axes to draw on.
        rows: Rows with `variant` and the field that `x` names; those without a value
            are left out.
        units: Unit of each variant, for labels and colors.
        x: Field of the horizontal axis.
    """
    for place, (variant, unit) in enumerate(units.items()):
        values = [
            float(row[x]) for row in rows if row["variant"] == variant and row[x] != ""
        ]
        if values:
            axis.scatter(values, [place] * len(values), color=unit.color, alpha=0.6)
            axis.vlines(np.mean(values), place - 0.3, place + 0.3, color=unit.color)
    axis.set_yticks(range(len(units)), [unit.label for unit in units.values()])
    axis.invert_yaxis()


def band(
    axis: Axes,
    rows: Sequence[dict[str, Any]],
    variant: str,
    unit: Unit,
    x: str,
    y: str,
    style: str = "-",
) -> None:
    """Draws the mean over seeds, and a band from the lowest to the highest.

    Args:
        axis: Matplotlib axes to draw on.
        rows: Rows with `variant`, `seed` and the fields that `x` and `y` name.
        variant: Variant whose rows to draw.
        unit: Unit of the variant, for label and color.
        x: Field of the horizontal axis.
        y: Field of the vertical axis; rows without a finite value are left out.
        style: Style of the line; only solid lines are in the legend.
    """
    values: dict[float, list[float]] = {}
    for row in rows:
        if row["variant"] == variant and row[y] != "" and np.isfinite(float(row[y])):
            values.setdefault(float(row[x]), []).append(float(row[y]))
    if not values:
        return
    places = sorted(values)
    seeds = [values[place] for place in places]
    axis.fill_between(
        places,
        [min(v) for v in seeds],
        [max(v) for v in seeds],
        color=unit.color,
        alpha=0.25,
        linewidth=0,
    )
    axis.plot(
        places,
        [np.mean(v) for v in seeds],
        color=unit.color,
        linestyle=style,
        label=unit.label if style == "-" else None,
        marker=unit.marker,
        markevery=max(1, len(places) // 6),
        markersize=5,
    )


def crosses(
    axis: Axes,
    rows: Sequence[dict[str, Any]],
    variant: str,
    unit: Unit,
    x: str,
    y: str,
    top: float,
) -> None:
    """Marks where values stop being finite, for each seed.

    Args:
        axis: Matplotlib axes to draw on.
        rows: Rows in the order of `x`, otherwise as for `band`.
        variant: Variant whose rows to look at.
        unit: Unit of the variant, for the color.
        x: Field of the horizontal axis.
        y: Field of the vertical axis.
        top: Highest value of the vertical axis; higher values are marked there.
    """
    style: dict[str, Any] = {"color": unit.color, "marker": "x", "markersize": 12}
    # Above the lines of other variants, and whole at the edge.
    style |= {"markeredgewidth": 3, "zorder": 3, "clip_on": False}
    last: dict[str, tuple[float, float]] = {}
    diverged = set()
    for row in rows:
        if row["variant"] == variant and row[y] != "":
            place, value = float(row[x]), float(row[y])
            if np.isfinite(value):
                last[row["seed"]] = place, value
            else:
                diverged.add(row["seed"])
                last.setdefault(row["seed"], (place, top))
    for seed in diverged:
        place, value = last[seed]
        axis.plot(place, min(value, top), **style)
