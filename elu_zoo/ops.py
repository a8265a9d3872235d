"""The exponential linear unit as a function of a tensor."""

import functools
import math
import numbers
from typing import Any

import keras

# From this size on XLA's speed outweighs its compilation for each new shape.
XLA_MIN_SIZE = 1 << 20

# Of (exp(r) - 1 - r) / r^2, near 1/720, 1/120, 1/24, 1/6, 1/2: those with the smallest
# relative error of exp(r) - 1 for |r| <= ln(2) / 2, which is 1.3e-8.
SERIES = (0.00138825, 0.00836652, 0.0416672, 0.16666544, 0.49999998)


def check_alpha(alpha: float) -> float:
    """Returns `alpha` as a float if it is a positive finite number.

    Args:
        alpha: the value to check.

    Returns:
        A Python float.

    Raises:
        ValueError: if `alpha` is anything else.

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


def elu(x: Any, alpha: float = 1.0) -> Any:
    """Exponential linear unit: `x` for x > 0, `alpha * (exp(x) - 1)` for x <= 0.

    Section 3 of "Fast and Accurate Deep Network Learning by Exponential Linear Units"
    (Clevert et al., 2016). Works on every Keras backend and on symbolic inputs. The
    gradient, `1` where the output is positive and `output + alpha` elsewhere, is
    computed from the output on TensorFlow and JAX, so the input need not be kept.
    Derivatives of any order are right; at 0 they are those of the left side.

    float32 results have a relative error of at most 1e-6, with one exception. In a
    TensorFlow graph that is not compiled by XLA (`tf.function`, `fit`, `predict`, a
    SavedModel) the op is `tf.nn.elu`, which is fused with the convolution before it
    and exports everywhere. There only the absolute error is bounded, by
    `1e-7 * max(1, alpha)`, because `tf.nn.elu` computes `exp(x) - 1`:
    https://github.com/tensorflow/tensorflow/issues/116943.

    Called eagerly on TensorFlow with a million elements or more, it is compiled by XLA
    on the first call with each shape.

    Args:
        x: floating-point tensor, array or number, of any shape: float16, bfloat16,
            float32 or float64.
        alpha: positive finite number, the negative of the limit at minus infinity.

    Returns:
        A tensor of the shape and dtype of `x`. NaN stays NaN.

    Raises:
        ValueError: if `alpha` is not a positive finite number.
        TypeError: if `x` is not floating-point.

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
    """The node that `elu` adds to a functional model."""

    def __init__(self, alpha: float, name: str | None = None) -> None:
        super().__init__(name=name)
        self.alpha = alpha

    def call(self, x):
        return elu(x, self.alpha)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def _tensorflow_elu(x, alpha):
    import tensorflow as tf

    y = None

    @tf.custom_gradient
    def function(inputs):
        def gradient(dy):
            # Forward mode asks for the gradient before there is an output.
            output = _tensorflow_elu(x, alpha) if y is None else y
            return _tensorflow_gradient(dy, output, alpha)

        return _tensorflow_forward(inputs, alpha), gradient

    y = function(x)
    x = None  # The gradient does not need it any more.
    return y


def _tensorflow_forward(x, alpha):
    import tensorflow as tf

    if not tf.executing_eagerly():
        y = tf.nn.elu(x)
        return y if alpha == 1 else tf.where(y > 0, y, alpha * y)
    x = tf.stop_gradient(x)
    if x.shape.num_elements() >= XLA_MIN_SIZE:
        return _compiled(_polynomial_elu, alpha)(x)
    return _expm1_elu(x, alpha)


def _tensorflow_gradient(dy, y, alpha):
    import tensorflow as tf

    if tf.executing_eagerly() and y.shape.num_elements() >= XLA_MIN_SIZE:
        return _compiled(_gradient_from_output, alpha)(dy, y)
    return _gradient_from_output(dy, y, alpha)


def _gradient_from_output(dy, y, alpha):
    import tensorflow as tf

    if alpha == 1:  # The same with fewer kernels.
        return dy * (tf.minimum(y, 0) + 1)
    return dy * tf.where(y > 0, tf.ones_like(y), y + alpha)


def _expm1_elu(x, alpha):
    import tensorflow as tf

    wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    y = alpha * tf.math.expm1(tf.minimum(wide, 0))
    return tf.where(x > 0, x, tf.cast(y, x.dtype))


def _polynomial_elu(x, alpha):
    """ELU by an exp(x) - 1 of its own, which XLA vectorizes better than its `expm1`."""
    import tensorflow as tf

    if x.dtype == tf.float64:
        return _expm1_elu(x, alpha)
    # x = n ln 2 + r with |r| <= ln(2) / 2, so exp(x) - 1 = 2^n (exp(r) - 1) + 2^n - 1.
    # Adding 1.5 * 2^23, whose bits are 0x4B400000, rounds to an integer and leaves it
    # in the low bits. The rounding error of n ln 2 is scaled down by 2^n.
    z = tf.maximum(tf.cast(x, tf.float32), -80.0)
    bits = tf.bitcast(z * (1 / math.log(2)) + 1.5 * 2**23, tf.int32)
    n = tf.cast(bits - 0x4B400000, tf.float32)
    power = tf.bitcast((bits + 127) * 2**23, tf.float32)
    r = z - n * math.log(2)
    series = 0.0
    for coefficient in SERIES:
        series = series * r + coefficient
    y = alpha * (power * (r + r * r * series) + (power - 1))
    return tf.where(x > 0, x, tf.cast(y, x.dtype))


@functools.lru_cache
def _compiled(function, alpha):
    import tensorflow as tf

    return tf.function(
        functools.partial(function, alpha=alpha),
        jit_compile=True,
        autograph=False,
        reduce_retracing=True,
    )


@functools.lru_cache
def _jax_elu(alpha):
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def function(x):
        x = jnp.asarray(x)  # `jax.grad` of a Python float calls it with the float.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.where(x > 0, x, (alpha * jnp.expm1(wide)).astype(x.dtype))

    @function.defjvp
    def jvp(primals, tangents):
        y = function(*primals)
        return y, tangents[0] * jnp.where(y > 0, 1, y + alpha)

    return function
