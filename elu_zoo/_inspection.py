"""Tools of `diagnostics` and `explain` to look into a model, on both backends."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from elu_zoo.errors import UserError


def all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model and of the models inside it, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        else:
            yield layer


@contextlib.contextmanager
def replaced(layer: keras.Layer, name: str, value: Any) -> Iterator[Any]:
    """Replaces an attribute of a layer within a block; gives the original.

    This works in any eager call of any model, nested or subclassed, whereas a model of
    intermediate tensors requires a functional one. Keras does not see the change.
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
    layer: keras.Layer,
    tap: Callable[[Any, Callable[[Any], Any]], Any],
    name: str = "call",
) -> Iterator[None]:
    """Makes a layer return `tap(inputs, function)`, `function` being its own `call`."""
    original = getattr(layer, name)

    def call(inputs: Any, **kwargs: Any) -> Any:
        return tap(inputs, lambda x: original(x, **kwargs))

    with replaced(layer, name, call):
        yield


def pullback(
    function: Callable[[Any], Any], x: Any
) -> tuple[Any, Callable[[Any], Any]]:
    """Computes a function's value, and the function that backpropagates from it.

    Args:
        function: Function from a tensor to a tensor.
        x: Floating-point tensor.

    Returns:
        The function's value, and a function from gradients with respect to that value
        to gradients with respect to `x`. It may be called many times.

    Raises:
        NotImplementedError: If the backend is neither TensorFlow nor JAX.
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
    """Casts a floating-point tensor to float32, unless it is float64."""
    return keras.ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def to_numpy(x: Any, dtype: str = "float64") -> np.ndarray:
    """Converts a tensor of any precision to a NumPy array."""
    return keras.ops.convert_to_numpy(widened(x)).astype(dtype)


@contextlib.contextmanager
def logits_of(model: keras.Model) -> Iterator[None]:
    """Makes a model return its logits: its last activation is skipped.

    Raises:
        UserError: If it is not known where that is.
    """
    from elu_zoo.predictions import activation_layer

    layer = activation_layer(model)
    if layer is None:
        raise UserError(
            "Expected a model that ends with a layer that has an activation, or with "
            f"logits. Received: {model!r}"
        )
    if isinstance(layer, keras.layers.Softmax):
        with replaced(layer, "call", lambda inputs, mask=None: inputs):
            yield
    else:
        with replaced(layer, "activation", keras.activations.linear):
            yield
