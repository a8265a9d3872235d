import math

import keras
import numpy as np
import pytest

from elu_zoo import layers

SIZES = [(1, 1), (2, 3), (3, 2), (4, 4), (5, 7), (13, 9), (8, 16), (14, 14)]

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tests TensorFlow's graphs"
)


def reference(x, levels):
    _, height, width, _ = x.shape
    vectors = []
    for n in levels:
        for i in range(n):
            for j in range(n):
                cell = x[
                    :,
                    math.floor(i * height / n) : math.ceil((i + 1) * height / n),
                    math.floor(j * width / n) : math.ceil((j + 1) * width / n),
                ]
                vectors.append(cell.max(axis=(1, 2)))
    return np.concatenate(vectors, axis=-1)


def maps(height, width, batch=2):
    rng = np.random.default_rng(height * 100 + width)
    return rng.normal(size=(batch, height, width, 3)).astype("float32")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("levels", [(4, 2, 1), (1, 2, 3, 6), (1,), (3, 3), (6, 4)])
def test_values(levels, size):
    x = maps(*size)
    layer = layers.SpatialPyramidPooling(levels)
    y = layer(x)
    assert tuple(y.shape) == layer.compute_output_shape(x.shape)
    np.testing.assert_array_equal(y, reference(x, levels))


def test_one_model_takes_every_size():
    inputs = keras.Input((None, None, 3))
    outputs = layers.SpatialPyramidPooling()(inputs)
    assert outputs.shape == (None, 63)
    model = keras.Model(inputs, outputs)
    for size in SIZES:
        x = maps(*size)
        y = model.predict(x, verbose=0)
        np.testing.assert_array_equal(y, reference(x, (4, 2, 1)))


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_goes_to_the_maxima(jit_compile):
    import tensorflow as tf

    layer = layers.SpatialPyramidPooling((4, 2, 1))

    @tf.function(jit_compile=jit_compile)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, x)

    x = maps(9, 7)
    expected = np.zeros_like(x)
    for y in reference(x, (4, 2, 1)).reshape(2, 21, 3).transpose(1, 0, 2):
        expected += x == y[:, None, None]
    np.testing.assert_array_equal(gradient(tf.constant(x)), expected)


@tensorflow_only
def test_saved_model_of_unknown_size(tmp_path):
    import tensorflow as tf

    layer = layers.SpatialPyramidPooling()
    module = tf.Module()
    module.serve = tf.function(
        lambda x: layer(x), input_signature=[tf.TensorSpec([None, None, None, 3])]
    )
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for size in SIZES:
        x = maps(*size)
        np.testing.assert_array_equal(loaded.serve(x), reference(x, (4, 2, 1)))
    assert loaded.serve(maps(5, 5, batch=0)).shape == (0, 63)


@pytest.mark.parametrize(
    "levels", [(), (0,), (-1, 2), (1.5,), ("1",), (True,), 4, None, "42"]
)
def test_bad_levels(levels):
    with pytest.raises(ValueError, match="Expected levels to be positive ints"):
        layers.SpatialPyramidPooling(levels)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 4, None)])
def test_bad_input(shape):
    with pytest.raises(ValueError, match="Expected an input of shape"):
        layers.SpatialPyramidPooling()(keras.Input(shape))
