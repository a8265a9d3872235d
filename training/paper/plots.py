"""One style for the figures: SVG, legible at half width, on light and dark pages."""

import pathlib
from collections.abc import Sequence

import numpy as np

from elu_zoo.files import replacing
from training.paper.units import Unit

GRAY = "#7f7f7f"  # Seen on white and on black.
STYLE = {
    "font.size": 12,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": GRAY,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "text.color": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "elu_zoo",
}


def panels(count: int):
    """A figure with panels side by side.

    Args:
        count: Number of panels.

    Returns:
        `(figure, axes)` of Matplotlib.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    return plt.subplots(1, count, figsize=(4.4 * count, 3.8), layout="constrained")


def band(axis, rows: Sequence[dict], variant: str, unit: Unit, x: str, y: str) -> None:
    """Draws the mean over seeds, and a band from the least to the greatest.

    Args:
        axis: Of Matplotlib.
        rows: Rows with the fields `variant`, `seed`, `x` and `y`.
        variant: Whose rows to draw.
        unit: Its unit, for label and colour.
        x: Field of the horizontal axis.
        y: Field of the vertical axis; rows without a value are left out.
    """
    values: dict[float, list[float]] = {}
    for row in rows:
        if row["variant"] == variant and row[y] != "":
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
        label=unit.label,
        marker=unit.marker,
        markevery=max(1, len(places) // 6),
        markersize=5,
    )


def save(figure, path: pathlib.Path) -> None:
    """Writes a figure as SVG, the same bytes for the same figure.

    Args:
        figure: Of Matplotlib.
        path: Path that ends in `.svg`.
    """
    import matplotlib.pyplot as plt

    with replacing(path) as part:
        figure.savefig(part, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
