from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="elu_zoo")
class Standardization(keras.layers.Layer):
    """Subtracts a mean and divides by a standard deviation, both kept in the weights.

    They are non-trainable float32 weights, so a weights file carries its own
    preprocessing. Computed in float32, whatever the layer's dtype; integer images are
    welcome. Input and output have the same shape.

    Args:
        axis: int or sequence of ints, the axes along which mean and standard deviation
            vary: -1 for one a channel, `(1, 2, 3)` for one a pixel and channel. The
            input must have a fixed size along them.
        mean: float or array, the mean until `adapt` or loaded weights replace it.
        std: positive float or array, likewise the standard deviation. The defaults map
            0-255 to -2 to 2.

    Raises:
        ValueError: if `std` is not positive, or `axis` names the batch.

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
        mean: float | np.ndarray = 127.5,
        std: float | np.ndarray = 63.75,
        **kwargs: Any,
    ) -> None:
        # Autocast would round raw images to bfloat16 before the mean is subtracted.
        super().__init__(autocast=False, **kwargs)
        self.axis = (axis,) if isinstance(axis, int) else tuple(axis)
        self.initial_mean = np.asarray(mean, "float32")
        self.initial_std = np.asarray(std, "float32")
        if not np.all(self.initial_std > 0):
            raise ValueError(f"Expected std to be positive. Received: std={std}")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
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

    def _add(self, name, shape, value):
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

    def call(self, inputs):
        dtype = keras.backend.result_type("float32", self.compute_dtype)
        x = keras.ops.cast(inputs, dtype)
        mean = keras.ops.cast(self.mean, dtype)
        std = keras.ops.cast(self.std, dtype)
        return keras.ops.cast((x - mean) / std, self.compute_dtype)

    def adapt(self, images: np.ndarray) -> None:
        """Sets mean and standard deviation to those of `images`, in float64.

        Args:
            images: NumPy array (a memory-mapped one is read in parts) with the shape
                of the layer's input. Where all its values are equal, the standard
                deviation is set to 1.
        """
        if not self.built:
            self.build((None, *images.shape[1:]))
        reduced = tuple(i for i, n in enumerate(self.mean.shape, 1) if n == 1)
        mean = _mean(images, reduced, lambda x: x)
        std = np.sqrt(_mean(images, reduced, lambda x: np.square(x - mean)))
        self.mean.assign(mean)
        self.std.assign(np.where(std > 0, std, 1))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": list(self.axis),
            "mean": self.initial_mean.tolist(),
            "std": self.initial_std.tolist(),
        }


def _mean(images, axes, function, batch_size=1000):
    total = 0.0
    for start in range(0, len(images), batch_size):
        x = function(np.asarray(images[start : start + batch_size], "float64"))
        total = total + x.mean(axis=axes, keepdims=True).sum(axis=0)
    return total / len(images)
