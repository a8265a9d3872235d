"""The ELU function against float64 NumPy, on the backend that is set."""

import gc
import math
import os
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
from environment import float64_on_jax

from elu_zoo import ops

BACKEND = keras.backend.backend()
ALPHAS = (0.3, 1.0, 2.5)
# "exact": derivatives near 0 and relative errors as in the docstring; "fused": the
# TensorFlow graph, where only the absolute error is bounded.
EXACT_MODES = {
    "tensorflow": ("eager", "eager_xla", "jit"),
    "jax": ("eager", "jit"),
}.get(BACKEND, ("eager",))
MODES = EXACT_MODES + (("function",) if BACKEND == "tensorflow" else ())

tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="tests TensorFlow's graphs and tapes"
)
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="tests JAX's transformations")
differentiable = pytest.mark.skipif(
    BACKEND not in ("tensorflow", "jax"), reason="needs TensorFlow or JAX"
)


@pytest.fixture
def wrap(monkeypatch):
    """Returns a function that makes a function run in one of the modes."""

    def wrap(function, mode):
        if mode == "eager_xla":
            monkeypatch.setattr(ops, "XLA_MIN_SIZE", 0)
        if mode.startswith("eager"):
            return function
        if BACKEND == "jax":
            import jax

            return jax.jit(function)
        import tensorflow as tf

        return tf.function(function, jit_compile=mode == "jit")

    return wrap


def tensor(x, dtype):
    return keras.ops.convert_to_tensor(x, dtype)


def array(x):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")))


def reference(x, alpha):
    x = np.asarray(x, "float64")
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def derivatives(function, x):
    """The first and second derivative of an elementwise function."""
    if BACKEND == "jax":
        import jax

        def first(x):
            return jax.grad(lambda x: function(x).sum())(x)

        return first(x), jax.grad(lambda x: first(x).sum())(x)
    import tensorflow as tf

    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        first = inner.gradient(y, x)
    return first, outer.gradient(first, x)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("mode", EXACT_MODES)
def test_float32_is_exact(wrap, mode, alpha):
    x = -np.logspace(-30, math.log10(87), 100_001).astype("float32")
    y = array(wrap(lambda x: ops.elu(x, alpha), mode)(tensor(x, "float32")))
    expected = reference(x, alpha)
    assert np.max(np.abs(y - expected) / np.abs(expected)) <= 1e-6

    x = np.array([-87, -88, -100, -1e4, -3e38], "float32")
    y = array(wrap(lambda x: ops.elu(x, alpha), mode)(tensor(x, "float32")))
    np.testing.assert_allclose(y, reference(x, alpha), rtol=0, atol=1e-7 * alpha)


@tensorflow_only
@pytest.mark.parametrize("alpha", ALPHAS)
def test_float32_in_a_graph_has_a_small_absolute_error(wrap, alpha):
    x = -np.logspace(-30, 3, 100_001).astype("float32")
    y = array(wrap(lambda x: ops.elu(x, alpha), "function")(tensor(x, "float32")))
    error = np.max(np.abs(y - reference(x, alpha)))
    assert error <= 1e-7 * max(1, alpha)


@pytest.mark.parametrize("mode", MODES)
def test_nonnegative_inputs_are_returned_unchanged(wrap, mode):
    x = np.concatenate([[0, np.inf], np.logspace(-37, 38, 10_000)]).astype("float32")
    y = wrap(lambda x: ops.elu(x, 2.5), mode)(tensor(x, "float32"))
    np.testing.assert_array_equal(array(y), x)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_special_values(wrap, mode, alpha, dtype):
    x = tensor([np.nan, np.inf, -np.inf, -0.0], dtype)
    y = array(wrap(lambda x: ops.elu(x, alpha), mode)(x))
    limit = array(tensor([-alpha], dtype))[0]
    np.testing.assert_array_equal(y, [np.nan, np.inf, limit, 0])


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype,epsilon", [("float16", 2**-10), ("bfloat16", 2**-7)])
def test_half_precision(wrap, mode, alpha, dtype, epsilon):
    x = tensor(np.linspace(-20, 20, 4001), dtype)
    y = wrap(lambda x: ops.elu(x, alpha), mode)(x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    expected = reference(array(x), alpha)
    # A kernel that rounds exp(x), the difference and the product errs three times.
    error = np.abs(array(y) - expected)
    if mode in EXACT_MODES and mode != "jit":
        assert np.all(error <= 0.51 * epsilon * np.abs(expected) + 1e-7)
    assert np.all(error <= 1.5 * epsilon * np.maximum(np.abs(expected), alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("mode", MODES)
def test_float64(wrap, mode, alpha):
    if BACKEND == "jax":
        pytest.skip("JAX has no float64 unless jax_enable_x64 is set")
    x = -np.logspace(-300, 3, 10_001)
    y = wrap(lambda x: ops.elu(x, alpha), mode)(tensor(x, "float64"))
    y = keras.ops.convert_to_numpy(y)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, reference(x, alpha), rtol=0, atol=3e-16 * (1 + alpha))
    if mode != "function":
        np.testing.assert_allclose(y, reference(x, alpha), rtol=2e-15, atol=0)


@jax_only
def test_float64_on_jax():
    import jax

    with float64_on_jax():
        x = jax.numpy.asarray(-np.logspace(-300, 3, 10_001))
        y = np.asarray(ops.elu(x, 2.5))
        first, second = derivatives(lambda x: ops.elu(x, 2.5), x)
        x = np.asarray(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, reference(x, 2.5), rtol=2e-15, atol=0)
    np.testing.assert_allclose(first, 2.5 * np.exp(x), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(second, 2.5 * np.exp(x), rtol=1e-14, atol=1e-15)


@differentiable
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_first_and_second_derivative(wrap, mode, alpha, dtype):
    if dtype == "float64" and BACKEND == "jax":
        pytest.skip("JAX has no float64 unless jax_enable_x64 is set")
    negative = [0.0, -0.0, -1e-300, -1e-30, -1e-8, -1e-3, -0.5, -2, -30, -1e4, -np.inf]
    positive = [1e-30, 1e-8, 0.5, 3, 1e4, np.inf]
    x = np.array(negative + positive, dtype)
    first, second = derivatives(
        wrap(lambda x: ops.elu(x, alpha), mode), tensor(x, dtype)
    )
    n = len(negative)
    slope = alpha * np.exp(x[:n].astype("float64"))
    tolerance = {"rtol": 0, "atol": (3e-7 if dtype == "float32" else 1e-15) * alpha}
    np.testing.assert_allclose(np.asarray(first)[:n], slope, **tolerance)
    np.testing.assert_allclose(np.asarray(second)[:n], slope, **tolerance)
    np.testing.assert_array_equal(np.asarray(first)[n:], 1)
    np.testing.assert_array_equal(np.asarray(second)[n:], 0)


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True])
def test_derivatives_taken_inside_a_compiled_function(jit_compile):
    import tensorflow as tf

    x = np.array([-2, -1e-8, 0, 1], "float32")
    function = tf.function(
        lambda x: derivatives(lambda x: ops.elu(x, 2.5), x), jit_compile=jit_compile
    )
    first, second = function(tf.constant(x))
    slope = 2.5 * np.exp(-2)
    np.testing.assert_allclose(first, [slope, 2.5, 2.5, 1], rtol=1e-6)
    np.testing.assert_allclose(second, [slope, 2.5, 2.5, 0], rtol=1e-6)


@tensorflow_only
@pytest.mark.parametrize("mode", ["eager", "eager_xla", "function"])
def test_forward_mode_on_tensorflow(wrap, mode):
    import tensorflow as tf

    x = tf.constant([-2.0, 0.0, 3.0])
    function = wrap(lambda x: ops.elu(x, 2.5), mode)
    slope = 2.5 * np.exp(-2)
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        first = tape.gradient(y, x)
    np.testing.assert_allclose(accumulator.jvp(y), [slope, 2.5, 1], rtol=1e-6)
    np.testing.assert_allclose(accumulator.jvp(first), [slope, 2.5, 0], rtol=1e-6)


@jax_only
def test_forward_mode_and_vmap_on_jax():
    import jax

    x = jax.numpy.array([-2.0, 0.0, 3.0])
    slope = 2.5 * np.exp(-2)

    def first(x):
        return jax.jvp(lambda x: ops.elu(x, 2.5), (x,), (jax.numpy.ones_like(x),))[1]

    second = jax.jvp(first, (x,), (jax.numpy.ones_like(x),))[1]
    np.testing.assert_allclose(first(x), [slope, 2.5, 1], rtol=1e-6)
    np.testing.assert_allclose(second, [slope, 2.5, 0], rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(jax.hessian(lambda x: ops.elu(x, 2.5)))(x), second, rtol=1e-6
    )


@tensorflow_only
@pytest.mark.parametrize("mode", ["eager", "eager_xla"])
def test_the_input_is_not_kept_for_the_gradient(wrap, mode):
    import tensorflow as tf

    source = tf.constant([-1.0, 2.0])
    function = wrap(ops.elu, mode)
    with tf.GradientTape() as tape:
        tape.watch(source)
        x = source + 0.0
        kept = weakref.ref(x)
        y = function(x)
        del x
    gc.collect()
    assert kept() is None
    np.testing.assert_allclose(tape.gradient(y, source), [np.exp(-1), 1], rtol=1e-6)


@jax_only
@pytest.mark.parametrize("as_input", [float, np.float32, np.array])
def test_numbers_are_differentiated_on_jax(as_input):
    import jax

    for x, slope, curvature in ((-0.7, *2 * [2.5 * np.exp(-0.7)]), (1.3, 1, 0)):
        function = jax.grad(lambda x: ops.elu(x, 2.5))
        assert function(as_input(x)) == pytest.approx(slope, rel=1e-6)
        assert jax.grad(function)(as_input(x)) == pytest.approx(curvature, rel=1e-6)
        assert jax.jit(function)(as_input(x)) == pytest.approx(slope, rel=1e-6)


@tensorflow_only
@pytest.mark.parametrize("mode", MODES)
def test_numbers_are_differentiated_on_tensorflow(wrap, mode):
    import tensorflow as tf

    for number in (-0.7, 1.3):
        x = tf.Variable(number)
        first, second = derivatives(wrap(lambda x: ops.elu(x, 2.5), mode), x)
        expected = (1, 0) if number > 0 else 2 * (2.5 * np.exp(number),)
        np.testing.assert_allclose((first, second), expected, rtol=1e-6)


@jax_only
def test_the_residual_on_jax_is_not_the_input():
    import jax

    x = jax.numpy.array([-1.0, -2.0])
    residuals = jax.tree_util.tree_leaves(jax.vjp(ops.elu, x)[1])
    assert sum(np.size(r) for r in residuals) == 2
    assert not any(np.array_equal(r, x) for r in residuals)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4, 4, 3), (2, 3), (1, 2, 3, 4, 5)])
def test_shapes(wrap, mode, shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    y = wrap(ops.elu, mode)(tensor(x, "float32"))
    assert tuple(y.shape) == shape
    np.testing.assert_allclose(array(y), reference(x, 1), rtol=0, atol=2e-7)
    if BACKEND in ("tensorflow", "jax"):
        first, _ = derivatives(wrap(ops.elu, mode), tensor(x, "float32"))
        assert tuple(first.shape) == shape


@tensorflow_only
@pytest.mark.parametrize("shape", [None, [None, None]])
def test_unknown_shapes(shape):
    import tensorflow as tf

    function = tf.function(
        ops.elu, input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False
    )
    for size in ((2, 3), (0, 3), (5, 1)):
        x = np.random.default_rng(0).normal(size=size).astype("float32")
        np.testing.assert_allclose(function(x), reference(x, 1), rtol=0, atol=1e-7)


@tensorflow_only
def test_large_eager_tensors_are_compiled():
    import tensorflow as tf

    x = np.random.default_rng(0).normal(size=ops.XLA_MIN_SIZE).astype("float32")
    x = tf.constant(x)
    ops._compiled.cache_clear()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.elu(x, 0.7)
    gradient = tape.gradient(y, x)
    assert ops._compiled.cache_info().currsize == 2
    np.testing.assert_allclose(y, reference(x, 0.7), rtol=1e-6)
    expected = np.where(x > 0, 1, 0.7 * np.exp(np.asarray(x, "float64")))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("x", [[-1.0, 2.0], np.array([-1, 2], "float32"), -1.0])
def test_array_likes(x):
    np.testing.assert_allclose(array(ops.elu(x)), reference(x, 1), rtol=1e-6)
    if np.ndim(x):
        np.testing.assert_allclose(ops.elu(keras.Variable(x)), reference(x, 1), 1e-6)


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, math.inf, True, None, "1", [1.0]])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="positive finite number. Received: alpha="):
        ops.elu(np.ones(2, "float32"), alpha)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_bad_dtype(dtype):
    with pytest.raises(TypeError, match=f"float64.*Received: x with dtype={dtype}"):
        ops.elu(np.ones(2, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_symbolic_input(tmp_path, dtype):
    inputs = keras.Input((None, 3), dtype=dtype)
    outputs = ops.elu(inputs, 0.5)
    assert outputs.shape == (None, None, 3)
    assert outputs.dtype == dtype
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    for m in (model, loaded):
        y = m.predict(tensor(x, dtype), verbose=0)
        np.testing.assert_allclose(array(y), reference(x, 0.5), atol=0.01)


def test_symbolic_input_of_a_bad_dtype():
    with pytest.raises(TypeError, match="Received: x with dtype=int32"):
        ops.elu(keras.Input((3,), dtype="int32"))


@tensorflow_only
@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_saved_model_holds_nothing_for_xla_only(tmp_path, alpha):
    import tensorflow as tf

    x = tf.constant([-1.0, 2.0])
    ops.elu(tf.zeros([ops.XLA_MIN_SIZE]), alpha)
    module = tf.Module()
    module.serve = tf.function(
        lambda x: ops.elu(x, alpha),
        input_signature=[tf.TensorSpec([None], tf.float32)],
    )
    tf.saved_model.save(module, str(tmp_path))
    assert b"Xla" not in (tmp_path / "saved_model.pb").read_bytes()

    loaded = tf.saved_model.load(str(tmp_path))
    first, second = derivatives(loaded.serve, x)
    slope = alpha * np.exp(-1)
    np.testing.assert_allclose(loaded.serve(x), reference(x, alpha), rtol=1e-6)
    np.testing.assert_allclose(first, [slope, 1], rtol=1e-6)
    np.testing.assert_allclose(second, [slope, 0], rtol=1e-6)


@tensorflow_only
def test_a_convolution_is_fused_with_it_in_inference_and_training():
    import tensorflow as tf
    from tensorflow.python.eager import context

    kernel = tf.Variable(tf.random.stateless_normal([3, 3, 8, 8], [0, 0]))
    bias = tf.Variable(tf.ones([8]))

    def forward(x):
        x = tf.nn.conv2d(x, kernel, 1, "SAME")
        return ops.elu(tf.nn.bias_add(x, bias))

    def train(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(forward(x))
        return tape.gradient(loss, [kernel, bias])

    for function in (forward, train):
        context.context().enable_graph_collection()
        try:
            tf.function(function)(tf.ones([1, 8, 8, 8]))
            metadata = context.context().export_run_metadata()
        finally:
            context.context().disable_graph_collection()
        fused = [
            list(node.attr["fused_ops"].list.s)
            for graph in metadata.partition_graphs
            for node in graph.node
            if "FusedConv2D" in node.op
        ]
        assert fused == [[b"BiasAdd", b"Elu"]]


def test_jax_needs_no_tensorflow():
    pytest.importorskip("jax", reason="JAX is not installed")
    code = (
        "import sys; from elu_zoo import ops, layers; ops.elu([-1.0]); "
        "layers.ELU(); assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
