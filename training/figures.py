"""The style of every figure: SVG that is legible small, in light and in dark mode."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from elu_zoo.files import replacing

# Okabe and Ito's colors, which color-blind readers can tell apart.
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
# Stands in for the color of the reader's text.
INK = "#123456"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "elu_zoo",
    "font.family": "sans-serif",
    "font.size": 15,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.titlesize": "medium",
    "grid.alpha": 0.25,
    "grid.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
MODES = (
    "<style>svg{color:#1f2328;font-family:sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
)


@contextlib.contextmanager
def drawing(
    path: str | pathlib.Path,
    panels: int,
    title: str = "",
    columns: int | None = None,
    height: float = 4.2,
) -> Iterator[list[Any]]:
    """Gives axes to draw on, and writes the figure after the block.

    Args:
        path: Path of the SVG file.
        panels: Number of axes.
        title: Title of the whole figure.
        columns: Number of axes side by side; default all.
        height: Height of a row of axes in inches.

    Yields:
        A list of Matplotlib axes.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(STYLE):
        columns = columns or panels
        rows = -(-panels // columns)
        figure, axes = plt.subplots(
            *(rows, columns),
            figsize=(4.4 * columns if columns > 1 else 7, height * rows),
            layout="constrained",
            squeeze=False,
        )
        for unused in axes.flat[panels:]:
            unused.remove()
        try:
            yield list(axes.flat)[:panels]
            if title:
                figure.suptitle(title)
            with replacing(path) as part:
                # With a date, the same figure would be a different file.
                figure.savefig(
                    part, format="svg", transparent=True, metadata={"Date": None}
                )
                part.write_text(_themed(part.read_text("utf-8")), "utf-8")
        finally:
            plt.close(figure)


def _themed(svg: str) -> str:
    """Makes the ink of an SVG dark in light mode and light in dark mode."""
    head, rest = svg.split("<defs>", 1)
    return f"{head}{MODES}\n <defs>{rest}".replace(INK, "currentColor")
