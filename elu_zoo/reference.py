"""Fixed images that show whether weights still compute what they did when published."""

from collections.abc import Sequence

import numpy as np


def reference_images(image_shape: Sequence[int], count: int = 20) -> np.ndarray:
    """Makes images by integer arithmetic alone, so that they are the same everywhere.

    Args:
        image_shape: `(height, width, channels)`.
        count: Number of images.

    Returns:
        A uint8 array of shape `(count, *image_shape)`: waves and blocks of different
        sizes and colours.

    Example:

    >>> reference_images((32, 32, 3)).shape
    (20, 32, 32, 3)
    """
    number, row, column, channel = np.ogrid[
        :count, : image_shape[0], : image_shape[1], : image_shape[2]
    ]
    waves = (row * (number + 3) + column * (2 * number + 1)) * (channel + 2)
    blocks = (row // (number % 5 + 3) + column // (number % 7 + 2)) * 37
    values = waves + blocks * (number % 3) + number * 31 + channel * 53
    # Folded, so that neighbouring pixels never differ by a jump from 255 to 0.
    return np.abs(values % 511 - 255).astype("uint8")
