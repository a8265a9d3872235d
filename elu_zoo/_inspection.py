"""How `diagnostics` and `explain` look into a model, the same on both backends."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np


def all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model and of the models inside it, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        else:
            yield layer


@contextlib.contextmanager
def replaced(layer: keras.Layer, name: str, value: Any) -> Iterator[Any]:
    """Replaces an attribute of a layer for a while; gives the original.

    It works in any eager call of any model, nested or subclassed, where a model of
    intermediate tensors would need a functional one. Keras does not see the change.
    """
    own = name in vars(layer)
    original = getattr(layer, name)
    object.__setattr__(layer, name, value)
    try:
        yield original
    finally:
        if own:
            object.__setattr__(layer, name, original)
        else:
            object.__delattr__(layer, name)


@contextlib.contextmanager
def tapped(
    layer: keras.Layer, tap: Callable[[Any, Callable], Any], name: str = "call"
) -> Iterator[None]:
    """Has `tap(inputs, function)` compute what `layer.call(inputs)` does otherwise."""
    original = getattr(layer, name)

    def call(inputs, **kwargs):
        return tap(inputs, lambda x: original(x, **kwargs))

    with replaced(layer, name, call):
        yield


def pullback(function: Callable, x: Any) -> tuple[Any, Callable]:
    """The value of a function and what takes gradients of it back to its argument.

    Args:
        function: From a tensor to a tensor.
        x: Floating-point tensor.

    Returns:
        The function's value, and a function from a tensor like its value to
        one like `x`, which may be called many times.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = function(x)
        return y, lambda dy: tape.gradient(y, x, dy, unconnected_gradients="zero")
    if backend == "jax":
        import jax

        y, back = jax.vjp(function, x)
        return y, lambda dy: back(dy)[0]
    raise NotImplementedError(
        f"Expected the TensorFlow or JAX backend. Received: {backend}"
    )


def widened(x: Any) -> Any:
    """A floating-point tensor in float32, or in float64 if it is."""
    return keras.ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def to_numpy(x: Any, dtype: str = "float64") -> np.ndarray:
    """A tensor of any precision as a NumPy array."""
    return keras.ops.convert_to_numpy(widened(x)).astype(dtype)


@contextlib.contextmanager
def logits_of(model: keras.Model) -> Iterator[None]:
    """Has the model give its logits: its last layer leaves its activation away."""
    from elu_zoo.predictions import output_layer

    with replaced(output_layer(model), "activation", keras.activations.linear):
        yield
