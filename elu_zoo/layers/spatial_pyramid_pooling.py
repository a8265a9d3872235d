import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="elu_zoo")
class SpatialPyramidPooling(keras.layers.Layer):
    """Pools maps of any size to vectors of one size, by maximum.

    For each level n the map is divided into a grid of n x n cells, and the maximum of
    each channel is taken in each cell: He et al., "Spatial Pyramid Pooling in Deep
    Convolutional Networks for Visual Recognition" (2015). Row i of a grid covers the
    rows from `floor(i * height / n)` to before `ceil((i + 1) * height / n)`, columns
    likewise, so cells are never empty; they overlap where n does not divide the size.

    Input: `(batch, height, width, channels)`; height and width may be unknown. Output:
    `(batch, channels * sum(n * n))`, the levels in the order given, of each the cells
    row by row, of each cell its channels.

    Args:
        levels: sequence of positive ints, the grids' numbers of rows and columns.

    Raises:
        ValueError: if `levels` is empty or holds anything but positive ints, or the
            input is not 4-D with a known number of channels.

    Example:

    >>> import numpy as np
    >>> x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> np.asarray(SpatialPyramidPooling((2, 1))(x)).tolist()
    [[5.0, 7.0, 13.0, 15.0, 15.0]]
    """

    def __init__(self, levels: Sequence[int] = (4, 2, 1), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = _positive_ints(levels)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "Expected an input of shape (batch, height, width, channels) with a "
                f"known number of channels. Received: input_shape={input_shape}"
            )

    def call(self, inputs):
        grids = {}
        for n in sorted(set(self.levels), reverse=True):
            # Its cells are exactly unions of the cells of any multiple of it.
            source = next((grids[m] for m in grids if m % n == 0), inputs)
            grids[n] = _grid(source, n)
        channels = inputs.shape[-1]
        vectors = [
            keras.ops.reshape(grids[n], (-1, n * n * channels)) for n in self.levels
        ]
        return keras.ops.concatenate(vectors, axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1] * sum(n * n for n in self.levels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": list(self.levels)}


def _positive_ints(levels):
    valid = isinstance(levels, list | tuple | np.ndarray) and all(
        isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0
        for n in levels
    )
    if not valid or len(levels) == 0:
        raise ValueError(
            "Expected levels to be positive ints, such as (4, 2, 1). "
            f"Received: levels={levels!r}"
        )
    return tuple(int(n) for n in levels)


def _grid(x, n):
    _, height, width, _ = keras.ops.shape(x)
    if isinstance(height, int) and isinstance(width, int):
        if height % n == 0 and width % n == 0:  # The same, with a faster gradient.
            size = (height // n, width // n)
            return keras.ops.max_pool(x, size, size, data_format="channels_last")
    rows = [keras.ops.max(x[:, a:b], axis=1) for a, b in _cells(height, n)]
    x = keras.ops.stack(rows, axis=1)
    columns = [keras.ops.max(x[:, :, a:b], axis=2) for a, b in _cells(width, n)]
    return keras.ops.stack(columns, axis=2)


def _cells(size, n):
    return [(i * size // n, ((i + 1) * size + n - 1) // n) for i in range(n)]
