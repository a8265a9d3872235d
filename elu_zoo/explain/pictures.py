"""Pictures of heat maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

COLORS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""RGB anchors of Matplotlib's inferno, which color-blind readers can follow."""


def overlay(image: np.ndarray, heat: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Draws a heat map over its image.

    Args:
        image: Array of shape `(height, width, 1 or 3)`, values from 0 to 255.
        heat: Array of shape `(height, width)`, values from 0 to 1.
        opacity: Opacity of the map, from 0 to 1.

    Returns:
        A uint8 array of shape `(height, width, 3)`: the map over the image in gray.

    Example:

    >>> overlay(np.zeros((1, 1, 3)), np.ones((1, 1)), opacity=1.0)
    array([[[252, 255, 164]]], dtype=uint8)
    """
    anchors = np.linspace(0, 1, len(COLORS))
    colors = [
        np.interp(heat, anchors, channel) for channel in zip(*COLORS, strict=True)
    ]
    gray = np.asarray(image, "float64").mean(-1, keepdims=True)
    mixed = opacity * np.stack(colors, -1) + (1 - opacity) * gray
    return np.rint(np.clip(mixed, 0, 255)).astype("uint8")


def picture(
    image: np.ndarray,
    heat: np.ndarray,
    answers: Sequence[tuple[str, float]],
    title: str = "",
    side: int = 256,
) -> "Image.Image":
    """Draws an image, its heat map and the model's answers side by side.

    Args:
        image: Array of shape `(height, width, channels)`, values from 0 to 255, with 1
            channel, or 3 or more, of which the first three are drawn.
        heat: Array of shape `(height, width)`, values from 0 to 1.
        answers: Pairs of a class name and its probability.
        title: Line above the answers.
        side: Height of the picture in pixels.

    Returns:
        A PIL image, `3 * side` pixels wide.

    Example:

    >>> picture(np.zeros((8, 8, 3)), np.ones((8, 8)), [("cat", 0.9)], side=64).size
    (192, 64)
    """
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (3 * side, side), "white")
    image = image[..., :3]
    color = np.broadcast_to(np.rint(image).astype("uint8"), (*heat.shape, 3))
    for left, pixels, how in (
        (0, color, Image.Resampling.NEAREST),
        (side, overlay(image, heat), Image.Resampling.BILINEAR),
    ):
        page.paste(Image.fromarray(pixels).resize((side, side), how), (left, 0))
    draw = ImageDraw.Draw(page)
    line = side // 10
    font = ImageFont.load_default(size=0.6 * line)
    texts = [title, *(f"{share:6.1%}  {name}" for name, share in answers)]
    for number, text in enumerate(texts):
        place = (2 * side + line // 2, line // 2 + number * line)
        draw.text(place, text, fill="black", font=font)
    return page
