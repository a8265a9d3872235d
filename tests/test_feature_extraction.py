import keras
import numpy as np
import pytest

import elu_zoo
from elu_zoo import features


def images(count=3, size=32):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3)).astype("uint8")


@pytest.fixture(scope="module")
def model():
    return elu_zoo.ELUNet11(width=0.05, classes=4, dropout=0.1)


def test_names_sizes_and_units_are_the_papers(model):
    shapes = {k: v.shape[1:] for k, v in features(model).output.items()}
    units = [192, 240, 260, 280, 300, 300]
    sides = [16, 8, 4, 2, 1, 1]
    assert shapes == {
        f"stack{i + 1}": (side, side, round(0.05 * unit))
        for i, (side, unit) in enumerate(zip(sides, units, strict=True))
    }


def test_the_rest_of_the_network_after_a_stack_gives_the_prediction(model):
    x = images()
    outputs = features(model)(x)
    last = np.asarray(outputs["stack6"], "float64").mean((1, 2))
    kernel, bias = (
        np.asarray(w, "float64") for w in model.get_layer("predictions").weights
    )
    logits = last @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(model(x)), expected, atol=1e-6)


def test_some_stacks_of_a_fine_tuned_and_loaded_model(model, tmp_path):
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(images(), np.array([0, 1, 2]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    outputs = features(loaded, ["stack5", "stack2"])(images())
    assert set(outputs) == {"stack2", "stack5"}
    for name, output in outputs.items():
        expected = features(model)(images())[name]
        np.testing.assert_allclose(np.asarray(output), np.asarray(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("build", "stacks"),
    [
        (lambda: elu_zoo.ELUNet18(width=0.03, include_top=False), 7),
        (lambda: elu_zoo.ELUNet15(width=0.01, input_shape=(None, None, 3)), 5),
        (lambda: elu_zoo.MNISTClassifier(width=0.1), 1),
        (lambda: elu_zoo.MNISTAutoencoder(width=0.1), 2),
    ],
)
def test_every_network_has_its_stacks(build, stacks):
    assert list(features(build()).output) == [f"stack{i + 1}" for i in range(stacks)]


def test_the_code_of_the_autoencoder():
    code = features(elu_zoo.MNISTAutoencoder()).output["stack1"]
    assert code.shape == (None, 30)


def test_errors(model):
    with pytest.raises(ValueError, match="some of .*'stack6'.*stacks=.'stack9'"):
        features(model, ["stack9"])
    with pytest.raises(ValueError, match="list of some of"):
        features(model, "stack1")
    with pytest.raises(ValueError, match="list of some of"):
        features(model, [])
    with pytest.raises(ValueError, match="Received: <Sequential name=other"):
        features(keras.Sequential([keras.layers.Dense(1)], name="other"))
    nested = keras.Sequential([model, keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"model.get_layer\('elunet11'\)"):
        features(nested)
