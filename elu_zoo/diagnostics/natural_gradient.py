"""The unit natural gradient of section 3 of the paper, beside the ordinary one."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from elu_zoo._inspection import (
    all_layers,
    logits_of,
    pullback,
    replaced,
    tapped,
    to_numpy,
)
from elu_zoo.errors import UserError
from elu_zoo.predictions import activation_name


@dataclasses.dataclass(frozen=True)
class UnitNaturalGradient:
    """The ordinary and the unit natural gradient of a layer, and how they differ.

    All arrays are float64. The gradients point uphill on the mean log-likelihood: the
    gradient of the usual loss is the negative of `gradient`. Below, the kernel's shape
    is `(..., units)`, with the chosen units only.

    Attributes:
        gradient: Ordinary gradient g of the weights, of the kernel's shape.
        bias_gradient: Ordinary gradient g0 of the biases, of shape `(units,)`.
        natural_gradient: Unit natural gradient of the weights, of the kernel's shape.
        natural_bias_gradient: Unit natural gradient of the biases, of shape `(units,)`.
        angle: Angle in degrees between the two gradients of each unit's weights and
            bias together, of shape `(units,)`; NaN for a unit without a gradient.
        scale: The bias-shift correction s, of shape `(units,)`; NaN for a unit without
            a gradient.
        mean_input: E_q[a] = b / c, the units' mean incoming activations weighted by
            their squared errors, of the kernel's shape: what the correction removes.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    >>> x, y = np.eye(4), np.array([0, 1, 2, 0])
    >>> result = unit_natural_gradient(model, model.layers[-1], x, y)
    >>> type(result).__name__, result.gradient.shape, result.angle.shape
    ('UnitNaturalGradient', (4, 3), (3,))
    """

    gradient: np.ndarray
    bias_gradient: np.ndarray
    natural_gradient: np.ndarray
    natural_bias_gradient: np.ndarray
    angle: np.ndarray
    scale: np.ndarray
    mean_input: np.ndarray


def unit_natural_gradient(
    model: keras.Model,
    layer: str | keras.Layer,
    x: np.ndarray,
    y: np.ndarray | Sequence[Any],
    *,
    damping: float = 1e-3,
    likelihood: str | None = None,
    units: Sequence[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> UnitNaturalGradient:
    """Computes the ordinary and the unit natural gradient of a layer.

    Section 3 of the paper: the unit natural gradient is the inverse of the Fisher
    matrix of a unit's weights and bias, times the ordinary gradient. With A, b and c
    the blocks of that matrix, `s = 1 / (c - b' A^-1 b)`, `dw0 = s (g0 - b' A^-1 g)` and
    `dw = A^-1 (g - dw0 b)`. The Fisher matrix is an expectation over the answers that
    the model gives: exact over all classes, or over `samples` answers drawn from them.

    The gradient of a convolution's unit is summed over the positions of an image before
    products are taken, so that its Fisher matrix is exact, too. A layer without biases
    is treated as if they were 0. The model runs in inference mode.

    The matrices take `8 * units * (inputs + 1)^2` bytes, and need one backward pass per
    batch and class (or sample): choose some of the `units` of a large layer.

    Args:
        model: Any Keras model whose last layer has a softmax or sigmoid activation, or
            gives the logits of one.
        layer: A Dense or Conv2D layer of the model, or its name.
        x: Array of inputs, of shape `(n, ...)`.
        y: For softmax, class numbers of shape `(n,)` or probabilities of shape
            `(n, classes)`; for sigmoid, targets from 0 to 1 of shape `(n, outputs)`.
        damping: Term added to the diagonal of each unit's Fisher matrix, as a share of
            the diagonal's mean. 0 is valid only with more examples than weights.
        likelihood: `"softmax"` or `"sigmoid"`; default the last layer's activation.
        units: Indices of the units; default all.
        samples: Number of answers drawn per example for the Fisher matrix, if there are
            too many classes for the exact expectation; default exact.
        seed: Seed of the drawn answers.
        batch_size: Examples per batch.

    Returns:
        A `UnitNaturalGradient`.

    Raises:
        UserError: If layer, labels or likelihood do not fit, or a Fisher matrix is
            singular.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.MNISTClassifier(width=0.1)
    >>> images = np.random.default_rng(0).uniform(0, 255, (20, 28, 28, 1))
    >>> both = unit_natural_gradient(model, "stack1_dense8", images, np.arange(20) % 10)
    >>> both.natural_gradient.shape, bool((both.angle < 90).all())
    ((13, 13), True)
    """
    layer = _weighted_layer(model, layer)
    name = likelihood or activation_name(model)
    if name not in LIKELIHOODS:
        raise UserError(
            f"Expected likelihood to be one of {list(LIKELIHOODS)}: the activation of "
            f"the last layer, or the one that its logits need. Received: {name!r}"
        )
    if len(x) != len(y) or len(x) == 0:
        raise UserError(
            "Expected one label per example, and at least one example. "
            f"Received: {len(x)} examples, {len(y)} labels"
        )
    chosen = np.arange(layer.kernel.shape[-1]) if units is None else np.asarray(units)
    rng = np.random.default_rng(seed)
    gradient: Any = 0.0
    fisher: Any = 0.0
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        p, per_example = _unit_gradients(model, layer, x[part], LIKELIHOODS[name])
        errors = _targets(y[part], p, name) - p
        gradient = gradient + per_example(errors, chosen).sum(1)
        for answer in LIKELIHOODS[name].answers(p, samples, rng):
            rows = per_example(answer, chosen)
            fisher = fisher + rows.transpose(0, 2, 1) @ rows
    shape = (*layer.kernel.shape[:-1], len(chosen))
    return _both(gradient / len(x), fisher / len(x), damping, shape)


def _weighted_layer(model: keras.Model, layer: str | keras.Layer) -> keras.Layer:
    if isinstance(layer, str):
        found = [found for found in all_layers(model) if found.name == layer]
        layer = found[0] if found else layer
    kinds = (keras.layers.Dense, keras.layers.Conv2D)
    if not isinstance(layer, kinds) or getattr(layer, "groups", 1) != 1:
        raise UserError(
            "Expected a Dense layer of the model, or a Conv2D layer without groups, or "
            f"the name of one. Received: layer={layer!r}"
        )
    return layer


def _targets(y: npt.ArrayLike, p: np.ndarray, likelihood: str) -> np.ndarray:
    y = np.asarray(y)
    if likelihood == "softmax" and y.shape == (len(p),):
        if np.any(y != y.astype(int)) or y.min() < 0 or y.max() >= p.shape[1]:
            raise UserError(
                f"Expected class numbers from 0 to {p.shape[1] - 1}. Received: y from "
                f"{y.min()} to {y.max()}"
            )
        return np.eye(p.shape[1])[y.astype(int)]
    if y.shape != p.shape:
        raise UserError(
            f"Expected labels that fit outputs of shape {p.shape}. "
            f"Received: y with shape {y.shape}"
        )
    return y


def _unit_gradients(
    model: keras.Model, layer: keras.Layer, x: Any, likelihood: "_Likelihood"
) -> tuple[np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """The model's probabilities, and the gradients of each example and unit.

    The latter are a function from a gradient with respect to the logits, of shape
    `(n, classes)`, and indices of units, to an array of shape
    `(units, n, inputs + 1)`, the bias last.
    """
    seen: dict[str, Any] = {}

    def call(inputs: Any, function: Callable[[Any], Any]) -> Any:
        seen["inputs"] = inputs
        return function(inputs)

    def logits(shift: Any = None) -> Any:
        def activation(net: Any) -> Any:
            seen["net"] = net
            return original(net if shift is None else net + shift)

        with logits_of(model):
            # Read here, because `logits_of` replaces it if the layer is the last one.
            original = layer.activation or keras.activations.linear
            with tapped(layer, call), replaced(layer, "activation", activation):
                return model(x, training=False)

    logits()
    patches = _patches(layer, seen["inputs"])
    z, back = pullback(logits, keras.ops.zeros_like(seen["net"]))

    def per_example(dz: np.ndarray, units: np.ndarray) -> np.ndarray:
        dnet = to_numpy(back(keras.ops.convert_to_tensor(dz, z.dtype)))
        dnet = dnet.reshape(len(patches), -1, dnet.shape[-1])[..., units]
        return np.moveaxis(patches.transpose(0, 2, 1) @ dnet, -1, 0)

    return likelihood.probabilities(to_numpy(z)), per_example


def _patches(layer: keras.Layer, inputs: Any) -> np.ndarray:
    """The units' inputs at each position, and 1 for the bias: `(n, positions, d+1)`."""
    if isinstance(layer, keras.layers.Conv2D):
        inputs = keras.ops.image.extract_patches(
            inputs,
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            layer.padding,
            layer.data_format,
        )
    patches = to_numpy(inputs).reshape(len(inputs), -1, inputs.shape[-1])
    return np.concatenate([patches, np.ones_like(patches[..., :1])], -1)


@dataclasses.dataclass(frozen=True)
class _Likelihood:
    """How outputs follow from logits, and targets from outputs.

    Attributes:
        probabilities: Function from logits to outputs, both of shape `(n, classes)`.
        exact: Function from outputs to gradients with respect to the logits, one array
            of shape `(n, classes)` per class, whose outer products add up to the
            Fisher matrix.
        draw: Function from outputs and a random number generator to targets.
    """

    probabilities: Callable[[np.ndarray], np.ndarray]
    exact: Callable[[np.ndarray], Iterable[np.ndarray]]
    draw: Callable[[np.ndarray, np.random.Generator], np.ndarray]

    def answers(
        self, p: np.ndarray, samples: int | None, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """The gradients whose products add up to the Fisher matrix, exact or drawn."""
        if samples is None:
            yield from self.exact(p)
        count = samples or 0
        for _ in range(count):
            yield (self.draw(p, rng) - p) / np.sqrt(count)


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _draw_class(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    chosen = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    return np.eye(p.shape[1])[chosen]


LIKELIHOODS = {
    "softmax": _Likelihood(
        _softmax,
        lambda p: (
            np.sqrt(q)[:, None] * (e - p)
            for q, e in zip(p.T, np.eye(len(p.T)), strict=True)
        ),
        _draw_class,
    ),
    "sigmoid": _Likelihood(
        lambda z: 1 / (1 + np.exp(-z)),
        lambda p: (np.sqrt(p * (1 - p)) * e for e in np.eye(p.shape[1])),
        lambda p, rng: (rng.random(p.shape) < p).astype("float64"),
    ),
}
"""The likelihoods that a last layer's activation stands for, by its name."""


def _both(
    gradient: np.ndarray, fisher: np.ndarray, damping: float, shape: tuple[int, ...]
) -> UnitNaturalGradient:
    """Both gradients, from each unit's gradient and Fisher matrix, the bias last."""
    steps, scale = [], []
    for g, matrix in zip(gradient, fisher, strict=True):
        diagonal = damping * np.trace(matrix) / len(g)
        step, s = _solve(matrix + diagonal * np.eye(len(g)), g)
        steps.append(step)
        scale.append(s)
    natural = np.array(steps)
    lengths = np.linalg.norm(gradient, axis=1) * np.linalg.norm(natural, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (gradient * natural).sum(1) / lengths
        mean_input = fisher[:, :-1, -1] / fisher[:, -1:, -1]
    return UnitNaturalGradient(
        gradient=gradient[:, :-1].T.reshape(shape),
        bias_gradient=gradient[:, -1],
        natural_gradient=natural[:, :-1].T.reshape(shape),
        natural_bias_gradient=natural[:, -1],
        angle=np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        scale=np.array(scale),
        mean_input=mean_input.T.reshape(shape),
    )


def _solve(fisher: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, float]:
    """The formulas of section 3: the step of weights and bias, and s."""
    if not np.trace(fisher):
        return np.zeros_like(gradient), np.nan
    a, b, c = fisher[:-1, :-1], fisher[:-1, -1], fisher[-1, -1]
    g, g0 = gradient[:-1], gradient[-1]
    try:
        a_g, a_b = np.linalg.solve(a, np.stack([g, b], 1)).T
    except np.linalg.LinAlgError as error:
        raise UserError(
            "Expected invertible Fisher matrices. Received: a singular one; increase "
            "damping, or pass more examples."
        ) from error
    s = 1 / (c - b @ a_b)
    dw0 = s * (g0 - b @ a_g)
    return np.append(a_g - dw0 * a_b, dw0), s
