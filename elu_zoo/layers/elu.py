from typing import Any

import keras

from elu_zoo import ops


@keras.saving.register_keras_serializable(package="elu_zoo")
class ELU(keras.layers.Layer):
    """Exponential linear unit: `x` for x > 0, `alpha * (exp(x) - 1)` for x <= 0.

    The layer form of `elu_zoo.ops.elu`, which says how exact it is and how it is
    differentiated. Input and output have the same shape, any, and the layer's dtype.

    Args:
        alpha: positive finite number, the negative of the limit at minus infinity.

    Raises:
        ValueError: if `alpha` is not a positive finite number.

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

    def call(self, inputs):
        return ops.elu(inputs, self.alpha)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}
