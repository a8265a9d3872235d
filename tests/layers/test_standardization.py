import keras
import numpy as np
import pytest

from elu_zoo import layers


def images(n=50):
    rng = np.random.default_rng(0)
    scale = rng.uniform(20, 200, (1, 5, 4, 3))
    return (rng.uniform(size=(n, 5, 4, 3)) * scale).astype("uint8")


def test_defaults_map_bytes_to_plus_minus_two():
    x = np.array([0, 127.5, 255], "float32").reshape(1, 3, 1, 1)
    y = np.asarray(layers.Standardization()(x))
    np.testing.assert_allclose(y.ravel(), [-2, 0, 2])


@pytest.mark.parametrize(
    "axis,reduced",
    [(-1, (0, 1, 2)), (3, (0, 1, 2)), ((1, 2, 3), (0,)), ((1, -1), (0, 2))],
)
def test_adapt(axis, reduced):
    x = images()
    layer = layers.Standardization(axis=axis)
    layer.adapt(x)
    wide = x.astype("float64")
    mean = wide.mean(axis=reduced, keepdims=True)
    std = wide.std(axis=reduced, keepdims=True)
    np.testing.assert_allclose(np.asarray(layer.mean)[None], mean, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(layer.std)[None], std, rtol=1e-6)
    np.testing.assert_allclose(layer(x), (wide - mean) / std, rtol=1e-4, atol=1e-5)
    assert not layer.trainable_weights


def test_adapt_reads_in_parts_and_survives_a_large_offset():
    x = np.concatenate([np.zeros((1500, 1, 1, 1)), np.ones((1500, 1, 1, 1))]) + 1e9
    layer = layers.Standardization()
    layer.adapt(x)
    np.testing.assert_allclose(np.asarray(layer.std).ravel(), 0.5)


def test_a_constant_pixel_is_not_divided_by_zero():
    x = images()
    x[:, 2, 2, 1] = 7
    layer = layers.Standardization(axis=(1, 2, 3))
    layer.adapt(x)
    y = np.asarray(layer(x))
    assert np.isfinite(y).all()
    assert (y[:, 2, 2, 1] == 0).all()


def test_initial_values_may_be_one_a_channel():
    layer = layers.Standardization(mean=[1.0, 2.0, 3.0], std=[1.0, 2.0, 4.0])
    y = np.asarray(layer(np.full((1, 2, 2, 3), 5, "float32")))
    np.testing.assert_allclose(y[0, 0, 0], [4, 1.5, 0.5])


def test_statistics_travel_with_the_weights(tmp_path):
    def model():
        return keras.Sequential([keras.Input((5, 4, 3)), layers.Standardization()])

    source = model()
    source.layers[0].adapt(images())
    source.save_weights(tmp_path / "model.weights.h5")
    target = model()
    target.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(target(images()), source(images()))


@pytest.mark.parametrize("std", [0, -1.0, [1.0, 0.0]])
def test_bad_std(std):
    with pytest.raises(ValueError, match="Expected std to be positive. Received: std="):
        layers.Standardization(std=std)


@pytest.mark.parametrize("axis", [0, (0, 1), 1])
def test_bad_axis(axis):
    with pytest.raises(ValueError, match="Expected axis to name axes of a fixed size"):
        layers.Standardization(axis=axis)(keras.Input((None, None, 3)))
