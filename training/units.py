"""Draws a network's first filters and the images that excite its units most.

    python -m training.units elunet11.cifar100 --data DIR --out units.png

The first rows are all filters of the first layer. Every other row is a unit of a stack,
its strongest image first. DIR holds the data set of the weights, as for
`elu-zoo evaluate`.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help="name of pretrained weights")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--out", required=True, metavar="PNG", type=pathlib.Path)
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--images", type=int, default=2000, help="number to look at")
    parser.add_argument("--units", type=int, default=4, help="number per stack")
    parser.add_argument("--columns", type=int, default=16)
    arguments = parser.parse_args(argv)

    from PIL import Image

    from elu_zoo import datasets
    from elu_zoo.cli.common import load_model
    from elu_zoo.files import replacing
    from elu_zoo.records import get_record

    record = get_record(arguments.name)
    data = datasets.load(record.dataset["name"], arguments.split, arguments.data)
    if record.preprocessing is None:
        sys.exit(f"Expected weights of images of one size. Received: {arguments.name}")
    images = data.resized(record.preprocessing.crop).images[: arguments.images]
    model, _ = load_model(arguments.name)
    page = draw(model, np.asarray(images), arguments.units, arguments.columns)
    with replacing(arguments.out) as part:
        Image.fromarray(page).save(part, format="PNG")


def draw(
    model: keras.Model, images: np.ndarray, units: int, columns: int
) -> np.ndarray:
    """Draws the picture.

    Args:
        model: Model of `elu_zoo`.
        images: Images to look at, of shape `(n, side, side, channels)`, 0 to 255.
        units: Number of units per stack.
        columns: Number of images per row.

    Returns:
        A uint8 array of shape `(height, width, 3)`.
    """
    from elu_zoo.explain import exciting_images, first_layer_filters
    from elu_zoo.feature_extraction import stack_layers

    side = images.shape[1]
    rows = [_tiles(255 * first_layer_filters(model), columns, side)]
    for stack in stack_layers(model):
        numbers, _ = exciting_images(model, images, stack, columns)
        for unit in np.linspace(0, len(numbers) - 1, units).astype(int):
            rows.append(_tiles(images[numbers[unit]], columns, side))
    return np.concatenate(rows)


def _tiles(images: np.ndarray, columns: int, side: int, gap: int = 2) -> np.ndarray:
    """Tiles images on white, row by row, all resized to the same side."""
    from PIL import Image

    height = -(-len(images) // columns)
    tile = side + gap
    page = np.full((height * tile, columns * tile, 3), 255, "uint8")
    for number, image in enumerate(images):
        pixels = np.broadcast_to(np.rint(image).astype("uint8"), (*image.shape[:2], 3))
        shown = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        top, left = (tile * i for i in divmod(number, columns))
        page[top : top + side, left : left + side] = np.asarray(shown)
    return page


if __name__ == "__main__":
    main()
