import dataclasses
import json

import keras
import numpy as np
import pytest
from made_up import CLASS_NAMES, record

import elu_zoo
from elu_zoo.errors import UserError
from elu_zoo.predictions import decode_predictions, gives_logits, set_threshold
from elu_zoo.records import attach_record
from elu_zoo.weights import get_record


@pytest.fixture(autouse=True)
def manifest(tmp_path, monkeypatch):
    records = {
        "net.animals": record(),
        "net.digits": record(input_shape=[8, 8, 1]),
        "big.animals": record(input_shape=[8, 8, 3]),
        "net.warm": record(temperature=2.0),
        "net.three": record(class_names=list("abc")),
        "big.three": record(class_names=list("xyz")),
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 1, "base_url": None, "weights": records}))
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(path))


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def test_without_a_model_the_number_of_classes_decides():
    assert decode_predictions(np.eye(6)[:1], top=1) == [[(0, "ant", 1.0)]]
    with pytest.raises(ValueError, match="no weights do.*model=model"):
        decode_predictions(np.eye(5))
    # Two sets of names for three classes.
    with pytest.raises(ValueError, match=r"'big.three', 'net.three'.*model=model"):
        decode_predictions(np.eye(3))


def test_the_temperature_divides_the_logits():
    logits = np.random.default_rng(0).normal(size=(4, 6))
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(-1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for found in decode_predictions(probabilities, 6, "net.warm"):
        row = expected[0]
        expected = expected[1:]
        np.testing.assert_allclose(
            [row[i] for i, _, _ in found], [p for *_, p in found]
        )


@pytest.mark.parametrize("activation", ["softmax", None])
def test_names_and_temperature_of_a_model(activation):
    model = elu_zoo.ELUNet11(width=0.05, classes=6, classifier_activation=activation)
    model.get_layer("predictions").kernel.assign(
        np.random.default_rng(0).normal(
            size=model.get_layer("predictions").kernel.shape
        )
    )
    named = dataclasses.replace(
        get_record(model), class_names=CLASS_NAMES, temperature=2
    )
    attach_record(model, named)
    images = pixels(2, 32, 32, 3)
    found = decode_predictions(model.predict(images, verbose=0), 6, model)
    head = model.get_layer("predictions")
    logits = keras.Model(model.input, head.output).predict(images, verbose=0) / 2.0
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for row, answer in zip(expected, found, strict=True):
        np.testing.assert_allclose(
            [row[i] for i, _, _ in answer], [p for *_, p in answer], rtol=1e-4
        )
        assert [name for _, name, _ in answer] == [
            CLASS_NAMES[i] for i in np.argsort(-row)
        ]


@pytest.mark.parametrize("top", [1, 3, 5, 6, 100])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_decode_against_sorting(top, dtype):
    preds = np.random.default_rng(0).dirichlet(np.ones(6), 4).astype(dtype)
    expected = [
        sorted(
            zip(range(6), CLASS_NAMES, map(float, row), strict=True),
            key=lambda t: -t[2],
        )
        for row in preds
    ]
    found = decode_predictions(preds, top, "net.animals")
    assert found == [row[:top] for row in expected]
    assert [type(value) for value in found[0][0]] == [int, str, float]
    tensor = keras.ops.convert_to_tensor(preds)
    assert decode_predictions(tensor, top, "net.animals") == found


@pytest.mark.parametrize(
    "ends, logits",
    [
        ([keras.layers.Dense(2)], True),
        ([keras.layers.Dense(2), keras.layers.Dropout(0.1)], True),
        ([keras.layers.Dense(2), keras.layers.Softmax()], False),
        ([keras.layers.Dense(2), keras.layers.Lambda(keras.ops.sigmoid)], False),
        ([keras.layers.Dense(2, "softmax"), keras.layers.Reshape((1, 2))], False),
    ],
)
def test_logits_are_what_no_activation_follows(ends, logits):
    assert gives_logits(keras.Sequential([keras.Input((3,)), *ends])) == logits


@pytest.mark.parametrize("operation", [keras.ops.softmax, keras.ops.sigmoid])
def test_operations_after_the_last_layer_count(operation):
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(2)(inputs)
    assert gives_logits(keras.Model(inputs, outputs))
    inner = keras.Model(inputs, operation(outputs))
    assert not gives_logits(inner)
    assert not gives_logits(keras.Sequential([inner]))


def test_decode_ties_and_own_names():
    found = decode_predictions([[1, 2, 2, 2]], 3, class_names=list("abcd"))
    assert found == [[(1, "b", 2.0), (2, "c", 2.0), (3, "d", 2.0)]]
    assert decode_predictions(np.zeros((0, 6)), 3, "net.animals") == []


@pytest.mark.parametrize("given, kept", [(0.65, 0.0), (None, 0.65), (0.65, 0.9)])
def test_none_of_these(given, kept):
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    set_threshold(model, kept)
    preds = [[0.4, 0.6], [0.3, 0.7]]
    found = decode_predictions(
        preds, model=model, class_names=["cat", "dog"], threshold=given
    )
    assert found == [[(-1, "none of these", 0.6)], [(1, "dog", 0.7), (0, "cat", 0.3)]]
    with pytest.raises(UserError, match="threshold=1.5"):
        decode_predictions(preds, class_names=["cat", "dog"], threshold=1.5)


@pytest.mark.parametrize(
    "preds, top, message",
    [
        (np.zeros(6), 5, r"\(n, classes\).*\(6,\)"),
        (np.zeros((2, 5)), 5, r"\(n, 6\).*\(2, 5\)"),
        (np.full((1, 6), np.nan), 5, "NaN"),
        (np.zeros((1, 6)), 0, "top=0"),
    ],
)
def test_decode_errors(preds, top, message):
    with pytest.raises(ValueError, match=message):
        decode_predictions(preds, top, "net.animals")
