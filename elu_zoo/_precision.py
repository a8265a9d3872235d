"""Networks in other precisions than their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from elu_zoo.predictions import output_layer

if TYPE_CHECKING:
    import keras

DTYPES = ("float32", "bfloat16")
"""Precisions that both backends compute in."""


def with_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """Copies a network in a precision; its outputs stay in float32.

    Args:
        model: Keras classifier.
        dtype: Name of the precision, such as `"bfloat16"`.

    Returns:
        The copy.

    Example:

    >>> import elu_zoo
    >>> model = with_dtype(elu_zoo.ELUNet11(classes=5, width=0.1), "bfloat16")
    >>> model.get_layer("predictions").dtype, model.layers[-3].dtype
    ('float32', 'bfloat16')
    """
    import keras

    last = output_layer(model)

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        output = layer is last or layer.name.startswith("predictions")
        config["dtype"] = "float32" if output else dtype
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights([np.asarray(value, "float32") for value in model.get_weights()])
    return copy
