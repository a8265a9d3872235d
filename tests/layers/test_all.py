"""What every layer promises: any batch and size, any dtype, saving, both backends."""

import json

import keras
import numpy as np
import pytest

from elu_zoo import layers

CASES = {
    "ELU": {"alpha": 0.5},
    "ShiftedReLU": {},
    "Standardization": {"axis": (1, 2, 3), "mean": 100.0, "std": 50.0},
    "GlobalContrastNormalization": {"scale": 1.0, "bias": 10.0, "min_divisor": 1e-3},
    "ZCAWhitening": {"bias": 0.2},
    "SpatialPyramidPooling": {"levels": (3, 2)},
}
ANY_SIZE = sorted(CASES.keys() - {"ZCAWhitening"})
PREPROCESSING = ("Standardization", "GlobalContrastNormalization", "ZCAWhitening")


def make(layer, **kwargs):
    return getattr(layers, layer)(**CASES[layer], **kwargs)


def images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


def test_every_layer_is_tested():
    assert set(layers.__all__) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_config(name):
    config = make(name, name="layer").get_config()
    loaded = getattr(layers, name).from_config(json.loads(json.dumps(config)))
    assert loaded.get_config() == config
    assert json.loads(json.dumps(CASES[name])).items() <= config.items()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", CASES)
def test_model_is_saved_and_loaded(tmp_path, name, policy):
    inputs = keras.Input((8, 6, 3))
    model = keras.Model(inputs, make(name, dtype=policy)(inputs))
    for weight in model.weights:
        shape = tuple(weight.shape)
        weight.assign(np.random.default_rng(1).uniform(1, 2, shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images(2, 8, 6, 3)
    y, again = model(x), loaded(x)
    dtype = keras.DTypePolicy(policy).compute_dtype
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    assert tuple(y.shape) == (2, *model.output_shape[1:])
    y, again = (
        keras.ops.convert_to_numpy(keras.ops.cast(v, float)) for v in (y, again)
    )
    np.testing.assert_array_equal(y, again)
    exact = keras.Model(inputs, make(name)(inputs))
    exact.set_weights(model.get_weights())
    exact = keras.ops.convert_to_numpy(exact(x))
    tolerance = {"float32": 1e-6, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    np.testing.assert_allclose(y, exact, rtol=2 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_the_build_of_a_subclass_runs(name):
    class Scaled(getattr(layers, name)):
        def build(self, input_shape):
            super().build(input_shape)
            self.scale = self.add_weight((), "ones", name="scale")

        def call(self, inputs):
            return super().call(inputs) * self.scale

    layer = Scaled(**CASES[name])
    x = images(2, 8, 6, 3)
    np.testing.assert_array_equal(np.asarray(layer(x)), np.asarray(make(name)(x)))
    assert len(layer.trainable_weights) == 1


@pytest.mark.parametrize("name", ANY_SIZE)
def test_any_batch_and_size(name):
    inputs = keras.Input((None, None, 3))
    layer = make(name)
    if name == "Standardization":
        layer = layers.Standardization(axis=-1)
    model = keras.Model(inputs, layer(inputs))
    for shape in ((1, 7, 5, 3), (4, 3, 9, 3)):
        x = images(*shape)
        np.testing.assert_allclose(
            model.predict(x, verbose=0), np.asarray(layer(x)), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"SpatialPyramidPooling"}))
def test_an_empty_batch(name):
    # keras.ops.max, which the pyramid uses, refuses empty tensors outside graphs.
    assert tuple(make(name)(images(0, 8, 6, 3)).shape) == (0, 8, 6, 3)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_integer_images(name):
    x = images(2, 8, 6, 3)
    y = np.asarray(make(name)(x.astype("uint8")))
    np.testing.assert_allclose(y, np.asarray(make(name)(x)), rtol=1e-6)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_bfloat16_rounds_only_the_result(name):
    x = images(2, 8, 6, 3) + np.float32(0.3)
    exact = np.asarray(make(name)(x))
    y = make(name, dtype="mixed_bfloat16")(x)
    y = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")))
    np.testing.assert_allclose(y, exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_model_trains(name):
    model = keras.Sequential(
        [
            keras.Input((8, 6, 3)),
            make(name),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    history = model.fit(images(4, 8, 6, 3) / 1e4, np.ones(4), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert not model.layers[0].trainable_weights
