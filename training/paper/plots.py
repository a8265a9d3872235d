"""What the figures of the paper's experiments have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training.paper.units import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
) -> None:
    """Marks where values stop being finite, for each seed.

    Args:
        axis: Matplotlib axes to draw on.
        rows: Rows in the order of `x`, otherwise as for `band`.
        variant: Variant whose rows to look at.
        unit: Unit of the variant, for the color.
        x: Field of the horizontal axis.
        y: Field of the vertical axis.
    """
    style: dict[str, Any] = {"color": unit.color, "marker": "x", "markersize": 12}
    finite: dict[str, tuple[float, float]] = {}
    diverged = set()
    for row in rows:
        if row["variant"] == variant and row[y] != "":
            if np.isfinite(float(row[y])):
                finite[row["seed"]] = float(row[x]), float(row[y])
            else:
                diverged.add(row["seed"])
    for seed in diverged & finite.keys():
        # Above the lines of other variants.
        axis.plot(*finite[seed], markeredgewidth=3, zorder=3, **style)
