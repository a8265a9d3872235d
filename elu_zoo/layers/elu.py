"""The exponential linear unit as a layer."""

from typing import Any

import keras

from elu_zoo import ops
from elu_zoo._typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="elu_zoo")
class ELU(keras.layers.Layer):
    """Exponential linear unit: `x` for x > 0, `alpha * (exp(x) - 1)` for x <= 0.

    The layer form of `elu_zoo.ops.elu`, which documents its accuracy and its gradient.
    The input may have any shape; the output has the same shape and the layer's dtype.

    Args:
        alpha: Positive finite number; the output tends to `-alpha` at minus infinity.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `alpha` is not a positive finite number.

    Example:

    >>> import numpy as np
    >>> y = ELU()(np.array([[-1.0, 0.0, 2.0]], "float32"))
    >>> [round(float(v), 4) for v in y[0]]
    [-0.6321, 0.0, 2.0]
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = ops.check_alpha(alpha)
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        return ops.elu(inputs, self.alpha)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}
