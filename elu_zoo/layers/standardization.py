"""Standardization as a layer."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from elu_zoo._typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="elu_zoo")
class Standardization(keras.layers.Layer):
    """Subtracts a mean and divides by a standard deviation, both kept in the weights.

    Both are non-trainable float32 weights, so a weights file carries its own
    preprocessing. The layer computes in float32, whatever its dtype, and accepts
    integer images. Input and output have the same shape.

    Args:
        axis: Int or sequence of ints, the axes along which mean and standard deviation
            vary: -1 for one value per channel, `(1, 2, 3)` for one per pixel and
            channel. The input must have a fixed size along them.
        mean: Float or array, the mean until `adapt` or loaded weights replace it.
        std: Positive float or array, the standard deviation until it is replaced
            likewise. The defaults map values from 0 to 255 to values from -2 to 2.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `std` is not positive, or `axis` names the batch.

    Example:

    >>> import numpy as np
    >>> images = np.array([[[[0], [255]]], [[[0], [255]]]], "uint8")
    >>> layer = Standardization()
    >>> np.asarray(layer(images)).ravel().tolist()
    [-2.0, 2.0, -2.0, 2.0]
    >>> layer.adapt(images)
    >>> np.asarray(layer(images)).ravel().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        mean: npt.ArrayLike = 127.5,
        std: npt.ArrayLike = 63.75,
        **kwargs: Any,
    ) -> None:
        # Autocast would round raw images to bfloat16 before the mean is subtracted.
        super().__init__(autocast=False, **kwargs)
        self.axis = (axis,) if isinstance(axis, int) else tuple(axis)
        self.initial_mean = np.asarray(mean, "float32")
        self.initial_std = np.asarray(std, "float32")
        if not np.all(self.initial_std > 0):
            raise ValueError(f"Expected std to be positive. Received: std={std!r}")

    def build(self, input_shape: Shape) -> None:
        rank = len(input_shape)
        kept = {axis % rank for axis in self.axis}
        shape = tuple(input_shape[i] if i in kept else 1 for i in range(1, rank))
        if 0 in kept or None in shape:
            raise ValueError(
                "Expected axis to name axes of a fixed size, not the batch. "
                f"Received: axis={self.axis}, input_shape={input_shape}"
            )
        self.mean = self._add("mean", shape, self.initial_mean)
        self.std = self._add("std", shape, self.initial_std)

    def _add(self, name: str, shape: Shape, value: np.ndarray) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            dtype="float32",
            autocast=False,
            trainable=False,
            initializer=lambda shape, dtype: keras.ops.convert_to_tensor(
                np.broadcast_to(value, shape), dtype
            ),
        )

    def call(self, inputs: Tensor) -> Tensor:
        dtype = keras.backend.result_type("float32", self.compute_dtype)
        x = keras.ops.cast(inputs, dtype)
        mean = keras.ops.cast(self.mean, dtype)
        std = keras.ops.cast(self.std, dtype)
        return keras.ops.cast((x - mean) / std, self.compute_dtype)

    def adapt(self, images: np.ndarray) -> None:
        """Sets mean and standard deviation to those of `images`, computed in float64.

        Args:
            images: NumPy array with the shape of the layer's input; a memory-mapped
                array is read in parts. The standard deviation of values that are all
                equal is set to 1.
        """
        if not self.built:
            self.build((None, *images.shape[1:]))
        reduced = tuple(i for i, n in enumerate(self.mean.shape, 1) if n == 1)
        mean = _mean(images, reduced, lambda x: x)
        std = np.sqrt(_mean(images, reduced, lambda x: np.square(x - mean)))
        self.mean.assign(mean)
        self.std.assign(np.where(std > 0, std, 1))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": list(self.axis),
            "mean": self.initial_mean.tolist(),
            "std": self.initial_std.tolist(),
        }


def _mean(
    images: np.ndarray,
    axes: tuple[int, ...],
    function: Callable[[np.ndarray], np.ndarray],
    batch_size: int = 1000,
) -> np.ndarray:
    total: Any = 0.0
    for start in range(0, len(images), batch_size):
        x = function(np.asarray(images[start : start + batch_size], "float64"))
        total = total + x.mean(axis=axes, keepdims=True).sum(axis=0)
    return total / len(images)
