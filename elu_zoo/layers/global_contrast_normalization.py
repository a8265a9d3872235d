"""Global contrast normalization as a layer."""

from typing import Any

import keras

from elu_zoo._typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="elu_zoo")
class GlobalContrastNormalization(keras.layers.Layer):
    """Gives every image mean 0 and the same contrast.

    The mean over all pixels and channels of an image is subtracted, then the image is
    divided by `sqrt(bias + sum of squares) / scale`. The defaults, norm 55 and no bias,
    are those of Goodfellow et al., "Maxout Networks" (2013), whose preprocessing the
    paper uses. The layer computes in float32, whatever its dtype, and accepts integer
    images.

    Args:
        scale: Positive float, the norm of a normalized image when `bias` is 0.
        bias: Non-negative float that keeps low-contrast images from being amplified.
        min_divisor: Positive float; an image whose divisor is smaller counts as
            constant and is not divided.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range.

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

    def call(self, inputs: Tensor) -> Tensor:
        dtype = keras.backend.result_type("float32", self.compute_dtype)
        x = keras.ops.cast(inputs, dtype)
        axes = tuple(range(1, len(x.shape)))
        # The second pass removes what rounding left of the mean; otherwise that
        # remainder of a constant image would be raised to full contrast.
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

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "bias": self.bias,
            "min_divisor": self.min_divisor,
        }
