"""Spatial pyramid pooling as a layer."""

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from elu_zoo._typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="elu_zoo")
class SpatialPyramidPooling(keras.layers.Layer):
    """Max-pools feature maps of any size to vectors of one length.

    Each level n divides the map into a grid of n x n cells and takes the maximum of
    each channel in each cell: He et al., "Spatial Pyramid Pooling in Deep Convolutional
    Networks for Visual Recognition" (2015). Row i of a grid starts at row
    `floor(i * height / n)` of the map and ends before row
    `ceil((i + 1) * height / n)`, and likewise for columns. Cells are therefore never
    empty, and they overlap where n does not divide the size.

    The input has shape `(batch, height, width, channels)`; height and width may be
    unknown. The output has shape `(batch, channels * sum(n * n))`: level after level in
    the given order, each level's cells row by row, each cell's channels together.

    Args:
        levels: Positive ints, the number of rows and columns of each grid.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `levels` is empty or holds anything but positive ints, or the
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

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "Expected an input of shape (batch, height, width, channels) with a "
                f"known number of channels. Received: input_shape={input_shape}"
            )

    def call(self, inputs: Tensor) -> Tensor:
        grids: dict[int, Tensor] = {}
        for n in sorted(set(self.levels), reverse=True):
            # Its cells are exactly unions of the cells of any multiple of it.
            source = next((grids[m] for m in grids if m % n == 0), inputs)
            grids[n] = _grid(source, n)
        channels = inputs.shape[-1]
        vectors = [
            keras.ops.reshape(grids[n], (-1, n * n * channels)) for n in self.levels
        ]
        return keras.ops.concatenate(vectors, axis=-1)

    def compute_output_shape(
        self, input_shape: tuple[int | None, int | None, int | None, int]
    ) -> tuple[int | None, int]:
        return (input_shape[0], input_shape[-1] * sum(n * n for n in self.levels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": list(self.levels)}


def _positive_ints(levels: Sequence[int]) -> tuple[int, ...]:
    valid = isinstance(levels, list | tuple | np.ndarray) and all(
        isinstance(n, numbers.Integral) and not isinstance(n, bool) and int(n) > 0
        for n in levels
    )
    if not valid or len(levels) == 0:
        raise ValueError(
            "Expected levels to be positive ints, such as (4, 2, 1). "
            f"Received: levels={levels!r}"
        )
    return tuple(int(n) for n in levels)


def _grid(x: Tensor, n: int) -> Tensor:
    _, height, width, _ = keras.ops.shape(x)
    if isinstance(height, int) and isinstance(width, int):
        if height % n == 0 and width % n == 0:  # The same, with a faster gradient.
            size = (height // n, width // n)
            return keras.ops.max_pool(x, size, size, data_format="channels_last")
    rows = [keras.ops.max(x[:, a:b], axis=1) for a, b in _cells(height, n)]
    x = keras.ops.stack(rows, axis=1)
    columns = [keras.ops.max(x[:, :, a:b], axis=2) for a, b in _cells(width, n)]
    return keras.ops.stack(columns, axis=2)


def _cells(size: Any, n: int) -> list[tuple[Any, Any]]:
    """The start and end of each cell; `size` may be a tensor."""
    return [(i * size // n, ((i + 1) * size + n - 1) // n) for i in range(n)]
