from typing import Any

import keras


@keras.saving.register_keras_serializable(package="elu_zoo")
class GlobalContrastNormalization(keras.layers.Layer):
    """Gives every image the mean 0 and the same contrast.

    An image, all its pixels and channels together, loses its mean and is divided by
    `sqrt(bias + sum of squares) / scale`. The defaults are those behind Goodfellow et
    al., "Maxout Networks" (2013), whose preprocessing the paper uses: norm 55, no bias.
    Computed in float32, whatever the layer's dtype; integer images are welcome.

    Args:
        scale: positive float, the norm of a normalized image without bias.
        bias: non-negative float, keeps images of low contrast from being amplified.
        min_divisor: positive float; an image whose divisor is smaller counts as
            constant and is not divided.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> import numpy as np
    >>> images = np.arange(12, dtype="uint8").reshape(1, 2, 2, 3)
    >>> y = np.asarray(GlobalContrastNormalization()(images))
    >>> round(float(np.linalg.norm(y)), 3), round(float(abs(y.mean())), 3)
    (55.0, 0.0)
    """

    def __init__(
        self,
        scale: float = 55.0,
        bias: float = 0.0,
        min_divisor: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if not (scale > 0 and bias >= 0 and min_divisor > 0):
            raise ValueError(
                "Expected scale > 0, bias >= 0 and min_divisor > 0. "
                f"Received: scale={scale}, bias={bias}, min_divisor={min_divisor}"
            )
        self.scale = float(scale)
        self.bias = float(bias)
        self.min_divisor = float(min_divisor)

    def call(self, inputs):
        dtype = keras.backend.result_type("float32", self.compute_dtype)
        x = keras.ops.cast(inputs, dtype)
        axes = tuple(range(1, len(x.shape)))
        # The second pass removes what rounding left of the mean: otherwise a constant
        # image would come out as that remainder, raised to full contrast.
        for _ in range(2):
            x = x - keras.ops.mean(x, axis=axes, keepdims=True)
        squares = self.bias + keras.ops.sum(x * x, axis=axes, keepdims=True)
        # The floor is inside the root because the root's slope at 0 is infinite.
        floor = (self.min_divisor * self.scale) ** 2
        divisor = keras.ops.sqrt(keras.ops.maximum(squares, floor)) / self.scale
        divisor = keras.ops.where(
            squares < floor, keras.ops.ones_like(divisor), divisor
        )
        return keras.ops.cast(x / divisor, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "bias": self.bias,
            "min_divisor": self.min_divisor,
        }
