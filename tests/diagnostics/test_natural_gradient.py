"""Natural gradients against a brute-force Fisher matrix."""

import itertools

import keras
import numpy as np
import pytest
from environment import float64_on_jax

import elu_zoo
from elu_zoo.diagnostics import unit_natural_gradient

BACKEND = keras.backend.backend()


def array(x):
    return keras.ops.convert_to_numpy(x).astype("float64")


@pytest.fixture
def float64():
    """JAX computes in float64 only when told to."""
    if BACKEND != "jax":
        yield
        return
    with float64_on_jax():
        yield


def network(output, inner):
    keras.utils.set_random_seed(1)
    double = {"dtype": "float64"}
    layers = {
        "dense": [keras.layers.Dense(3, "elu", name="inner", **double)],
        "convolution": [
            keras.layers.Reshape((4, 5, 2), **double),
            keras.layers.Conv2D(3, (2, 3), (1, 2), "same", name="inner", **double),
            elu_zoo.layers.ELU(**double),
            keras.layers.Flatten(**double),
        ],
    }[inner]
    outer = keras.layers.Dense(
        4, output, bias_initializer="normal", name="outer", **double
    )
    return keras.Sequential([keras.Input((40,), dtype="float64"), *layers, outer])


def targets(likelihood, classes=4):
    """Every answer that the model can give."""
    if likelihood == "softmax":
        return np.eye(classes)
    return np.array(list(itertools.product((0.0, 1.0), repeat=classes)))


def log_likelihood(likelihood, answer, output):
    if likelihood == "softmax":
        return float(answer @ np.log(output))
    return float(answer @ np.log(output) + (1 - answer) @ np.log1p(-output))


def brute_force(model, layer, x, likelihood, step=1e-5):
    """Gradients of the log-likelihood of each example and answer, by differences.

    Returns probabilities `(n, answers)` and gradients `(n, answers, units, d + 1)`.
    """
    answers = targets(likelihood)
    kernel, bias = layer.get_weights()
    flat = np.concatenate([kernel.reshape(-1, kernel.shape[-1]), bias[None]])

    def values(weights):
        layer.set_weights([weights[:-1].reshape(kernel.shape), weights[-1]])
        outputs = array(model(x))
        return np.array(
            [[log_likelihood(likelihood, a, o) for a in answers] for o in outputs]
        )

    probabilities = np.exp(values(flat))
    gradients = np.zeros((*probabilities.shape, *flat.T.shape))
    for i, j in np.ndindex(*flat.shape):
        change = np.zeros_like(flat)
        change[i, j] = step
        difference = values(flat + change) - values(flat - change)
        gradients[:, :, j, i] = difference / (2 * step)
    layer.set_weights([kernel, bias])
    return probabilities, gradients


@pytest.mark.parametrize("likelihood", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("inner", "layer"),
    [("dense", "inner"), ("convolution", "inner"), ("dense", "outer")],
)
def test_natural_gradient_against_brute_force(float64, likelihood, inner, layer):
    model = network(likelihood, inner)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 40))
    chosen = rng.integers(0, len(targets(likelihood)), 7)
    y = chosen if likelihood == "softmax" else targets(likelihood)[chosen]
    p, gradients = brute_force(model, model.get_layer(layer), x, likelihood)
    np.testing.assert_allclose(p.sum(1), 1)
    fisher = np.einsum("na,naud,naue->ude", p, gradients, gradients) / len(x)
    g = gradients[np.arange(7), chosen].mean(0)
    both = unit_natural_gradient(model, layer, x, y, damping=0.01, batch_size=3)

    kernel = model.get_layer(layer).kernel.shape
    np.testing.assert_allclose(both.gradient, g[:, :-1].T.reshape(kernel), atol=1e-6)
    np.testing.assert_allclose(both.bias_gradient, g[:, -1], atol=1e-6)
    for unit, matrix in enumerate(fisher):
        size = len(matrix)
        damped = matrix + 0.01 * np.trace(matrix) / size * np.eye(size)
        natural = np.linalg.solve(damped, g[unit])
        found = both.natural_gradient.reshape(-1, kernel[-1])[:, unit]
        np.testing.assert_allclose(found, natural[:-1], rtol=1e-4, atol=1e-5)
        assert both.natural_bias_gradient[unit] == pytest.approx(natural[-1], rel=1e-4)
        cosine = natural @ g[unit] / np.linalg.norm(natural) / np.linalg.norm(g[unit])
        assert both.angle[unit] == pytest.approx(np.degrees(np.arccos(cosine)), 1e-4)
        # The paper's second form of s, with mean and variance under q.
        c = damped[-1, -1]
        mean = damped[:-1, -1] / c
        variance = damped[:-1, :-1] / c - np.outer(mean, mean)
        s = (1 + mean @ np.linalg.solve(variance, mean)) / c
        assert both.scale[unit] == pytest.approx(s, rel=1e-4)
        expected = matrix[:-1, -1] / matrix[-1, -1]
        found = both.mean_input.reshape(-1, kernel[-1])[:, unit]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["softmax", "sigmoid"])
def test_drawn_answers_approach_the_exact_expectation(likelihood):
    model = network(likelihood, "dense")
    x = np.random.default_rng(0).normal(size=(8, 40))
    y = np.tile(np.eye(4), (2, 1))
    settings = dict(units=[2, 0], damping=0.1)
    exact = unit_natural_gradient(model, "inner", x, y, **settings)
    drawn = unit_natural_gradient(model, "inner", x, y, samples=2000, **settings)
    assert exact.gradient.shape == (40, 2)
    np.testing.assert_array_equal(drawn.gradient, exact.gradient)
    np.testing.assert_allclose(drawn.scale, exact.scale, rtol=0.15)
    np.testing.assert_allclose(drawn.angle, exact.angle, rtol=0.15)


def test_logits_nested_models_and_dead_units():
    inner = network("softmax", "convolution")
    linear = keras.layers.Activation("linear", dtype="float64")
    logits = keras.Sequential([inner, linear])
    inner.get_layer("outer").activation = keras.activations.linear
    x = np.random.default_rng(0).normal(size=(5, 40))
    y = np.array([0, 1, 2, 3, 0])
    both = unit_natural_gradient(logits, "inner", x, y, likelihood="softmax")
    inner.get_layer("outer").activation = keras.activations.softmax
    expected = unit_natural_gradient(inner, "inner", x, y)
    np.testing.assert_allclose(both.angle, expected.angle, rtol=1e-3)

    dead = network("softmax", "dense")
    kernel = array(dead.get_layer("outer").kernel)
    kernel[1] = 0
    dead.get_layer("outer").kernel.assign(kernel)
    both = unit_natural_gradient(dead, "inner", x, y)
    assert np.isnan(both.scale).tolist() == [False, True, False]
    assert not both.natural_gradient[:, 1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", 5), "Dense layer.*Conv2D.*'missing'"),
        (("inner", 4), "5 examples, 4 labels"),
        (("inner", (5, 3)), "shape \\(5, 4\\). Received: y with shape \\(5, 3\\)"),
    ],
)
def test_what_does_not_fit(arguments, message):
    layer, shape = arguments
    with pytest.raises(elu_zoo.errors.UserError, match=message):
        unit_natural_gradient(
            network("softmax", "dense"),
            layer,
            np.zeros((5, 40)),
            np.zeros(shape, int),
        )
    with pytest.raises(elu_zoo.errors.UserError, match="Received: 'relu'"):
        unit_natural_gradient(network("relu", "dense"), "inner", np.zeros((1, 40)), [0])


@pytest.mark.parametrize("wrong", [-1, 3, 0.5])
def test_labels_are_classes_of_the_model(wrong):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="class numbers from 0 to 2"):
        unit_natural_gradient(model, model.layers[-1], np.ones((2, 2)), [0, wrong])
