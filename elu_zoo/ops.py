"""The exponential linear unit as a function of a tensor."""

import contextlib
import contextvars
import functools
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import keras

from elu_zoo._typing import Tensor

XLA_MIN_SIZE = 1 << 18
"""Smallest number of elements of an eager tensor that XLA computes.

From there on it takes half the time of separate kernels, which makes up for compiling
for each new shape: training/benchmarks/elu_op.py.
"""

# The coefficients of (exp(r) - 1 - r) / r^2, close to 1/720, 1/120, 1/24, 1/6 and 1/2.
# They minimize the relative error of exp(r) - 1 for |r| <= ln(2) / 2, which is 1.3e-8.
_SERIES = (0.00138825, 0.00836652, 0.0416672, 0.16666544, 0.49999998)

_differentiable = contextvars.ContextVar("differentiable", default=True)


@contextlib.contextmanager
def forward_only() -> Iterator[None]:
    """Leaves the gradients out of TensorFlow graphs that are traced in the block.

    A SavedModel would keep them as functions of its own, and a process without this
    package would warn about each when it loads the file.

    Example:

    >>> with forward_only():
    ...     y = elu(keras.ops.convert_to_tensor([-1.0, 2.0]))
    >>> y.shape[0]
    2
    """
    token = _differentiable.set(False)
    try:
        yield
    finally:
        _differentiable.reset(token)


def check_alpha(alpha: float) -> float:
    """Returns `alpha` as a float if it is a positive finite number.

    Args:
        alpha: The value to check.

    Returns:
        A Python float.

    Raises:
        ValueError: If `alpha` is anything else.

    Example:

    >>> check_alpha(1)
    1.0
    """
    if (
        isinstance(alpha, bool)
        or not isinstance(alpha, numbers.Real)
        or not math.isfinite(alpha)
        or alpha <= 0
    ):
        raise ValueError(
            f"Expected alpha to be a positive finite number. Received: alpha={alpha!r}"
        )
    return float(alpha)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit: `x` for x > 0, `alpha * (exp(x) - 1)` for x <= 0.

    Section 3 of "Fast and Accurate Deep Network Learning by Exponential Linear Units"
    (Clevert et al., 2016). Works on every Keras backend and on symbolic inputs. On
    TensorFlow and JAX the gradient, `1` where the output is positive and
    `output + alpha` elsewhere, is computed from the output, so the input need not be
    kept. Derivatives of every order are exact; at 0 they are those from the left.

    float32 results have a relative error of at most 1e-6, with one exception: in a
    TensorFlow graph that XLA does not compile (`tf.function`, `fit`, `predict`, a
    SavedModel), the op is `tf.nn.elu`, which fuses with the preceding convolution and
    exports everywhere. It computes `exp(x) - 1`, so only its absolute error is bounded,
    by `1e-7 * max(1, alpha)`:
    https://github.com/tensorflow/tensorflow/issues/116943.

    When called eagerly on TensorFlow with 262,144 elements or more, it is compiled by
    XLA on the first call with each shape.

    Args:
        x: Floating-point tensor, array or number of any shape, with dtype float16,
            bfloat16, float32 or float64.
        alpha: Positive finite number; the output tends to `-alpha` at minus infinity.

    Returns:
        A tensor with the shape and dtype of `x`. NaN stays NaN.

    Raises:
        ValueError: If `alpha` is not a positive finite number.
        TypeError: If `x` is not floating-point.

    Example:

    >>> import numpy as np
    >>> y = elu(np.array([-1.0, 0.0, 2.0], "float32"))
    >>> [round(float(v), 4) for v in y]
    [-0.6321, 0.0, 2.0]
    """
    alpha = check_alpha(alpha)
    if isinstance(x, keras.Variable):
        x = x.value
    if not isinstance(x, keras.KerasTensor):
        x = keras.ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(
            "Expected x to have the dtype float16, bfloat16, float32 or float64; "
            f"cast it first. Received: x with dtype={dtype}"
        )
    if isinstance(x, keras.KerasTensor):
        return EluOperation(alpha).symbolic_call(x)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow_elu(x, alpha)
    if backend == "jax":
        return _jax_elu(alpha)(x)
    negative = keras.ops.where(x > 0, keras.ops.zeros_like(x), x)
    return keras.ops.where(x > 0, x, alpha * keras.ops.expm1(negative))


@keras.saving.register_keras_serializable(package="elu_zoo")
class EluOperation(keras.Operation):
    """The node that `elu` adds to a functional model.

    Example:

    >>> EluOperation(alpha=1.0)(keras.KerasTensor((None, 8))).shape
    (None, 8)
    """

    def __init__(self, alpha: float, name: str | None = None) -> None:
        super().__init__(name=name)
        self.alpha = alpha

    def call(self, x: Tensor) -> Tensor:
        return elu(x, self.alpha)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def _tensorflow_elu(x: Tensor, alpha: float) -> Tensor:
    import tensorflow as tf

    eager = tf.executing_eagerly()
    if not (_may_be_differentiated()() if eager else _differentiable.get()):
        return _tensorflow_forward(x, alpha)
    y = None

    @tf.custom_gradient
    def function(inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def gradient(dy: Tensor) -> Tensor:
            # Forward mode asks for the gradient before there is an output.
            output = _tensorflow_elu(x, alpha) if y is None else y
            return _tensorflow_gradient(dy, output, alpha)

        if eager:  # Otherwise the tape would keep the input.
            inputs = tf.stop_gradient(inputs)
        return _tensorflow_forward(inputs, alpha), gradient

    y = function(x)
    x = None  # The gradient no longer needs it.
    return y


@functools.lru_cache
def _may_be_differentiated() -> Callable[[], bool]:
    """Whether a tape or accumulator records what is computed eagerly.

    Without one, a custom gradient would take most of the time of a small tensor.
    """
    try:
        from tensorflow.python.eager.record import could_possibly_record
    except ImportError:  # It is not part of TensorFlow's public interface.
        return lambda: True
    return could_possibly_record


def _tensorflow_forward(x: Tensor, alpha: float) -> Tensor:
    import tensorflow as tf

    if not tf.executing_eagerly():
        y = tf.nn.elu(x)
        return y if alpha == 1 else tf.where(y > 0, y, alpha * y)
    if x.shape.num_elements() >= XLA_MIN_SIZE:
        return _compiled(_polynomial_elu, alpha)(x)
    return _expm1_elu(x, alpha)


def _tensorflow_gradient(dy: Tensor, y: Tensor, alpha: float) -> Tensor:
    import tensorflow as tf

    if tf.executing_eagerly() and y.shape.num_elements() >= XLA_MIN_SIZE:
        return _compiled(_gradient_from_output, alpha)(dy, y)
    return _gradient_from_output(dy, y, alpha)


def _gradient_from_output(dy: Tensor, y: Tensor, alpha: float) -> Tensor:
    import tensorflow as tf

    if alpha != 1:
        return dy * tf.where(y > 0, tf.ones_like(y), y + alpha)
    if tf.executing_eagerly():
        return dy * (tf.minimum(y, 0) + 1)
    # The same result in one kernel.
    graph = tf.compat.v1.get_default_graph()
    with graph.gradient_override_map({"EluGrad": _second_gradient()}):
        return tf.raw_ops.EluGrad(gradients=dy, outputs=y)


@functools.lru_cache
def _second_gradient() -> str:
    """Registers the gradient of `EluGrad` that is from the left at 0."""
    import tensorflow as tf

    name = "EluZooEluGrad"

    @tf.RegisterGradient(name)
    def gradient(op: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        dy, y = op.inputs
        negative = tf.cast(y <= 0, y.dtype)
        return upstream * (tf.minimum(y, 0) + 1), upstream * dy * negative

    return name


def _expm1_elu(x: Tensor, alpha: float) -> Tensor:
    import tensorflow as tf

    if x.dtype.size < 4:
        return tf.cast(_expm1_elu(tf.cast(x, tf.float32), alpha), x.dtype)
    y = tf.math.expm1(tf.minimum(x, 0))
    if alpha == 1:  # exp(x) - 1 >= x: the same result with fewer kernels.
        return tf.maximum(x, y)
    return tf.where(x > 0, x, alpha * y)


def _polynomial_elu(x: Tensor, alpha: float) -> Tensor:
    """ELU with its own exp(x) - 1, which XLA vectorizes better than `expm1`."""
    import tensorflow as tf

    if x.dtype == tf.float64:
        return _expm1_elu(x, alpha)
    # x = n ln 2 + r with |r| <= ln(2) / 2, so exp(x) - 1 = 2^n (exp(r) - 1) + 2^n - 1.
    # Adding 1.5 * 2^23, whose bits are 0x4B400000, rounds to an integer and leaves it
    # in the low bits. The factor 2^n scales the rounding error of n ln 2 down.
    z = tf.maximum(tf.cast(x, tf.float32), -80.0)
    bits = tf.bitcast(z * (1 / math.log(2)) + 1.5 * 2**23, tf.int32)
    n = tf.cast(bits - 0x4B400000, tf.float32)
    power = tf.bitcast((bits + 127) * 2**23, tf.float32)
    r = z - n * math.log(2)
    series = 0.0
    for coefficient in _SERIES:
        series = series * r + coefficient
    y = alpha * (power * (r + r * r * series) + (power - 1))
    return tf.where(x > 0, x, tf.cast(y, x.dtype))


@functools.lru_cache
def _compiled(function: Callable[..., Tensor], alpha: float) -> Callable[..., Tensor]:
    import tensorflow as tf

    return tf.function(
        functools.partial(function, alpha=alpha),
        jit_compile=True,
        autograph=False,
        reduce_retracing=True,
    )


@functools.lru_cache
def _jax_elu(alpha: float) -> Callable[[Tensor], Tensor]:
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def function(x: Tensor) -> Tensor:
        x = jnp.asarray(x)  # `jax.grad` of a Python float passes the float itself.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.where(x > 0, x, (alpha * jnp.expm1(wide)).astype(x.dtype))

    @function.defjvp
    def jvp(primals: tuple[Tensor], tangents: tuple[Tensor]) -> tuple[Tensor, Tensor]:
        y = function(*primals)
        return y, tangents[0] * jnp.where(y > 0, 1, y + alpha)

    return function
