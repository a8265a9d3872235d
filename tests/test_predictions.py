import json

import keras
import numpy as np
import pytest

from elu_zoo.predictions import decode_predictions

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]


def record(**changes):
    return {
        "preprocessing": {"resize": 12, "crop": 8, "interpolation": "bilinear"},
        "input_shape": [8, 8, 3],
        "class_names": NAMES,
    } | changes


@pytest.fixture(autouse=True)
def manifest(tmp_path, monkeypatch):
    records = {
        "net.animals": record(),
        "net.digits": record(input_shape=[8, 8, 1]),
        "big.animals": record(input_shape=[8, 8, 3]),
        "net.mixed": record(),
        "big.mixed": record(
            preprocessing={"resize": 16, "crop": 16, "interpolation": "bilinear"}
        ),
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 1, "base_url": None, "weights": records}))
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(path))


def test_classes_of_several_weights_agree():
    assert decode_predictions(np.eye(6)[:1], 1, "mixed") == [[(0, "ant", 1.0)]]


@pytest.mark.parametrize("top", [1, 3, 5, 6, 100])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_decode_against_sorting(top, dtype):
    preds = np.random.default_rng(0).dirichlet(np.ones(6), 4).astype(dtype)
    expected = [
        sorted(zip(range(6), NAMES, map(float, row), strict=True), key=lambda t: -t[2])
        for row in preds
    ]
    found = decode_predictions(preds, top, "animals")
    assert found == [row[:top] for row in expected]
    assert [type(value) for value in found[0][0]] == [int, str, float]
    tensor = keras.ops.convert_to_tensor(preds)
    assert decode_predictions(tensor, top, "animals") == found


def test_decode_ties_and_own_names():
    found = decode_predictions([[1, 2, 2, 2]], 3, class_names=list("abcd"))
    assert found == [[(1, "b", 2.0), (2, "c", 2.0), (3, "d", 2.0)]]
    assert decode_predictions(np.zeros((0, 6)), 3, "animals") == []


@pytest.mark.parametrize(
    "preds, top, message",
    [
        (np.zeros(6), 5, r"\(n, 6\).*\(6,\)"),
        (np.zeros((2, 5)), 5, r"\(n, 6\).*\(2, 5\)"),
        (np.full((1, 6), np.nan), 5, "NaN"),
        (np.zeros((1, 6)), 0, "top=0"),
    ],
)
def test_decode_errors(preds, top, message):
    with pytest.raises(ValueError, match=message):
        decode_predictions(preds, top, "animals")
