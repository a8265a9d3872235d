import math

import numpy as np
import pytest

from elu_zoo.errors import UserError
from elu_zoo.evaluation import measure, measure_reconstructions


def random_case(n=500, classes=12, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.where(rng.random(n) < 0.5, logits.argmax(-1), rng.integers(0, 12, n))
    return probabilities, labels


def test_figures_against_loops():
    probabilities, labels = random_case()
    figures = measure(probabilities, labels)
    wrong = missed = 0
    loss = 0.0
    confusion = [[0] * 12 for _ in range(12)]
    for row, label in zip(probabilities, labels, strict=True):
        order = sorted(range(12), key=lambda k: -row[k])
        wrong += order[0] != label
        missed += label not in order[:5]
        loss -= math.log(row[label])
        confusion[label][order[0]] += 1
    assert figures["error"] == pytest.approx(wrong / 500)
    assert figures["top5_error"] == pytest.approx(missed / 500)
    assert figures["loss"] == pytest.approx(loss / 500)
    assert figures["confusion_matrix"] == confusion
    worst = figures["confusions"][0]
    assert worst["count"] == max(
        confusion[i][j] for i in range(12) for j in range(12) if i != j
    )
    assert confusion[int(worst["true"])][int(worst["predicted"])] == worst["count"]


def test_calibration_error_against_its_definition():
    probabilities, labels = random_case()
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    expected = 0.0
    for b in range(15):
        chosen = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if chosen.any():
            gap = abs(confidence[chosen].mean() - right[chosen].mean())
            expected += chosen.mean() * gap
    figures = measure(probabilities, labels)
    assert figures["calibration_error"] == pytest.approx(expected)
    assert sum(row["count"] for row in figures["calibration"]) == 500


def test_lists_and_arrays_are_the_same():
    probabilities, labels = random_case()
    names = [f"class{i}" for i in range(12)]
    expected = measure(probabilities, labels, names)
    assert measure(probabilities.tolist(), labels.tolist(), np.array(names)) == expected


def test_a_certain_and_right_classifier():
    figures = measure(np.eye(3), np.arange(3), ["a", "b", "c"])
    assert figures["error"] == figures["top5_error"] == 0
    assert figures["class_error"] == {"a": 0, "b": 0, "c": 0}
    assert figures["confusions"] == []


def test_wilson_interval_against_its_equation():
    probabilities, labels = random_case()
    figures = measure(probabilities, labels)
    for bound in figures["error_interval"]:
        distance = abs(figures["error"] - bound)
        assert distance == pytest.approx(
            1.959964 * math.sqrt(bound * (1 - bound) / 500)
        )


def test_a_classifier_that_gives_not_a_number_for_a_class_it_never_sees_fails():
    probabilities = np.full((2, 3), np.nan)
    with pytest.raises(ValueError, match="sum to 1"):
        measure(probabilities, np.array([0, 1]))


@pytest.mark.parametrize(
    "probabilities, labels, names, message",
    [
        (np.eye(3), np.arange(2), None, "labels of shape"),
        (np.eye(3), np.arange(3), ["a"], "1 class names"),
        (np.eye(3), np.array([0, 1, 3]), None, "0 to 3"),
        (np.eye(3) * 5, np.arange(3), None, "softmax"),
        (np.eye(3), [0.0, 1.0, 2.0], None, "labels to be integers.*float64"),
        (np.eye(3)[:0], [], None, "n of 1 or more"),
        (np.ones(3), [0, 1, 2], None, r"of shape \(3,\)"),
    ],
)
def test_inputs_that_do_not_fit(probabilities, labels, names, message):
    with pytest.raises(ValueError, match=message):
        measure(probabilities, labels, names)


def test_reconstructions_against_loops():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 3, 1), "uint8")
    outputs = rng.random((5, 9))
    error = spread = 0.0
    mean = [sum(float(x) for x in images.reshape(5, 9)[:, j]) / 5 for j in range(9)]
    for image, output in zip(images.reshape(5, 9), outputs, strict=True):
        for pixel, value, center in zip(image, output, mean, strict=True):
            error += (value - pixel / 255) ** 2
            spread += ((float(pixel) - center) / 255) ** 2
    figures = measure_reconstructions(outputs, images)
    assert figures["reconstruction_error"] == pytest.approx(error / 5)
    assert figures["unexplained_variance"] == pytest.approx(error / spread)
    with pytest.raises(UserError, match=r"\(5, 9\). Received.*\(5, 8\)"):
        measure_reconstructions(outputs[:, :8], images)
    with pytest.raises(UserError, match="two different images"):
        measure_reconstructions(outputs[:1], images[:1])
