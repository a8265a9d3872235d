from typing import Any

import keras


@keras.saving.register_keras_serializable(package="elu_zoo")
class ShiftedReLU(keras.layers.Layer):
    """Shifted rectified linear unit, `max(-1, x)`: the SReLU the paper compares with.

    Input and output have the same shape, any, and the layer's dtype.

    Example:

    >>> import numpy as np
    >>> y = ShiftedReLU()(np.array([[-3.0, -0.5, 2.0]], "float32"))
    >>> [float(v) for v in y[0]]
    [-1.0, -0.5, 2.0]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return keras.ops.maximum(inputs, -1.0)

    def compute_output_shape(self, input_shape):
        return input_shape
