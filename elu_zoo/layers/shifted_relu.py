"""The shifted rectified linear unit as a layer."""

from typing import Any

import keras

from elu_zoo._typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="elu_zoo")
class ShiftedReLU(keras.layers.Layer):
    """Shifted rectified linear unit, `max(-1, x)`: the paper's SReLU.

    Section 4 of the paper compares ELU with it. The input may have any shape; the
    output has the same shape and the layer's dtype.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:

    >>> import numpy as np
    >>> y = ShiftedReLU()(np.array([[-3.0, -0.5, 2.0]], "float32"))
    >>> [float(v) for v in y[0]]
    [-1.0, -0.5, 2.0]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        return keras.ops.maximum(inputs, -1.0)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
