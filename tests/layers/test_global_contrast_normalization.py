import keras
import numpy as np
import pytest

from elu_zoo import layers


def reference(x, scale, bias):
    x = x.reshape(len(x), -1).astype("float64")
    x = x - x.mean(axis=1, keepdims=True)
    norm = np.sqrt(bias + (x**2).sum(axis=1, keepdims=True))
    return scale * x / norm


@pytest.mark.parametrize("scale,bias", [(55.0, 0.0), (1.0, 10.0)])
def test_values(scale, bias):
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3)).astype("uint8")
    layer = layers.GlobalContrastNormalization(scale=scale, bias=bias)
    y = np.asarray(layer(x)).reshape(4, -1)
    np.testing.assert_allclose(y, reference(x, scale, bias), rtol=1e-4, atol=1e-5)


def test_brightness_and_contrast_do_not_matter():
    x = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    layer = layers.GlobalContrastNormalization()
    np.testing.assert_allclose(layer(x), layer(0.25 * x + 60), atol=1e-3)


@pytest.mark.parametrize("value", [0, 7, 255, 254.9])
def test_a_constant_image_becomes_zero(value):
    x = np.full((1, 31, 33, 3), value, "float32")
    y = np.asarray(layers.GlobalContrastNormalization()(x))
    np.testing.assert_allclose(y, 0, atol=1e-3)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="uses TensorFlow's gradient tape"
)
def test_the_gradient_of_a_constant_image_is_finite():
    import tensorflow as tf

    x = tf.ones((1, 4, 4, 3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layers.GlobalContrastNormalization()(x)
    assert np.isfinite(tape.gradient(y, x)).all()


@pytest.mark.parametrize("argument", [{"scale": 0}, {"bias": -1}, {"min_divisor": 0}])
def test_bad_arguments(argument):
    with pytest.raises(ValueError, match="Expected scale > 0.*Received: scale="):
        layers.GlobalContrastNormalization(**argument)
