"""Draws a network's first filters and the images that excite its units most.

    python -m training.units --data DIR [NAME ...]

Writes `docs/results/NAME/units.svg` for each of the published weights, which the model
card and the gallery of the site show. DIR holds their data sets, as for
`elu-zoo evaluate`.
"""

from __future__ import annotations

import base64
import io
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from training.commands import parse, parser, positive

if TYPE_CHECKING:
    import keras

ROOT = pathlib.Path(__file__).parents[1]
FILTERS, COLUMNS = 64, 16
# Of the drawing: its width, stacks side by side, a line of text, a filter, a gap.
WIDTH, CELLS, LINE, TILE, GAP = 640, 3, 30, 40, 10


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    options = parser("training.units", __doc__)
    options.add_argument("names", nargs="*", help="published weights (default: all)")
    options.add_argument("--data", required=True, help="folder of the data sets")
    options.add_argument(
        "--images",
        type=positive,
        default=2000,
        help="test images to search (default: 2000)",
    )
    options.add_argument("--count", type=positive, default=4, help="images per unit")
    options.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/results")
    arguments = parse(options, argv)

    from elu_zoo import datasets
    from elu_zoo.files import replacing
    from elu_zoo.models import load
    from elu_zoo.weights import get_record, list_weights

    try:
        for name in arguments.names or list_weights():
            record = get_record(name)
            assert record.preprocessing  # Published weights have it.
            data = datasets.load(record.dataset["name"], "test", arguments.data)
            shown = data[: arguments.images].resized(record.preprocessing.crop)
            (arguments.out / name).mkdir(parents=True, exist_ok=True)
            with replacing(arguments.out / name / "units.svg") as part:
                drawing = draw(load(name), shown.images, arguments.count)
                part.write_text(drawing, "utf-8")
    except (ValueError, OSError) as error:
        sys.exit(f"training.units: {error}")


def draw(model: keras.Model, images: np.ndarray, count: int) -> str:
    """Draws filters spread evenly over the first layer, and one unit of each stack.

    Args:
        model: Model of `elu_zoo`.
        images: Images to look at, of shape `(n, side, side, channels)`, 0 to 255.
        count: Number of images for a unit, the strongest first.

    Returns:
        An SVG.
    """
    from elu_zoo.explain import exciting_images, first_layer_filters
    from elu_zoo.feature_extraction import stack_layers
    from training.figures import MODES

    filters = 255 * first_layer_filters(model)
    some = min(FILTERS, len(filters))
    which = f"{some} of {len(filters)}" if some < len(filters) else str(some)
    parts = [_text(0, 0, f"{which} filters of the first layer")]
    filters = filters[np.linspace(0, len(filters) - 1, some).astype(int)]
    top = LINE
    for start in range(0, some, COLUMNS):
        parts += _row(filters[start:][:COLUMNS], 0, top, TILE)
        top += TILE
    top += GAP
    cell = WIDTH // CELLS
    for i, stack in enumerate(stack_layers(model)):
        numbers, _ = exciting_images(model, images, stack, count)
        unit = len(numbers) // 2
        row, column = divmod(i, CELLS)
        x, y = column * cell, top + row * (LINE + cell // count + GAP)
        parts.append(_text(x, y, f"{stack}, unit {unit}"))
        parts += _row(images[numbers[unit]], x, y + LINE, (cell - GAP) // count)
    height = y + LINE + cell // count
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" font-size="20" fill="currentColor" '
        f'viewBox="0 0 {WIDTH} {height}">\n<title>First filters, and the images that '
        f"excite a unit of each stack most</title>\n{MODES}\n{''.join(parts)}</svg>\n"
    )


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y + LINE - 9}">{text}</text>\n'


def _row(images: np.ndarray, x: int, y: int, tile: int) -> list[str]:
    """Images side by side, one in each `tile` units, with sharp pixels."""
    from PIL import Image

    parts = []
    for i, image in enumerate(np.rint(images).astype("uint8")):
        # Of photographs JPEG is a quarter of PNG; of filters PNG is smaller, and exact.
        kind = "png" if image.size < 1000 else "jpeg"
        file = io.BytesIO()
        picture = Image.fromarray(image.squeeze())
        picture.save(file, kind, quality=90, subsampling=0)
        data = base64.b64encode(file.getvalue()).decode()
        parts.append(
            f'<image x="{x + i * tile}" y="{y}" width="{tile - 2}" '
            f'height="{tile - 2}" style="image-rendering:pixelated" '
            f'href="data:image/{kind};base64,{data}"/>\n'
        )
    return parts


if __name__ == "__main__":
    main()
