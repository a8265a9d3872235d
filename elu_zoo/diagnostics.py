"""What the paper's theory speaks of, measured in any Keras model.

Section 3 of "Fast and Accurate Deep Network Learning by Exponential Linear Units"
(Clevert et al., 2016): mean activations, bias shift and the unit natural gradient.
"""

import contextlib
import csv
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from elu_zoo import layers as elu_layers
from elu_zoo._inspection import (
    all_layers,
    logits_of,
    pullback,
    replaced,
    tapped,
    to_numpy,
    widened,
)
from elu_zoo.errors import UserError
from elu_zoo.predictions import output_layer

ELEMENTWISE = (
    elu_layers.ELU,
    elu_layers.ShiftedReLU,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
WEIGHTED = (keras.layers.Dense, *CONVOLUTIONS)
NOT_ELEMENTWISE = ("linear", "softmax", "log_softmax")


class ActivationStatistics(keras.callbacks.Callback):
    """Follows the activations of a model's units during `fit`.

    Every `every` steps the model classifies the same images twice, before and after an
    update, as in inference. Of each chosen layer's units are measured:

    - `mean` and `variance` of the activation, over images and positions,
    - `saturated`, the share of outputs where the activation's derivative is below
      `saturation`,
    - `bias_shift`, of the units of the *next* dense or convolutional layer: by how much
      the update changed their mean input through this layer's mean activation alone,
      that is, the next layer's weights applied to the change of its mean input.

    The last dimension of a layer's output counts its units. The layer after another is
    the one that the model calls next.

    Args:
        x: Batch of inputs, as the model takes them: the fixed sample. More give better
            estimates and take longer; a batch or two is usual.
        layers: Names of layers with an elementwise activation. Default: all of them.
        every: Number of steps from one measurement to the next.
        filename: Optional CSV file for `rows`; written anew.
        log_dir: Optional folder for TensorBoard: scalars of each layer and histograms
            over its units. Needs TensorFlow and TensorBoard, on both backends.
        saturation: Positive float, the derivative below which an output is saturated.

    Attributes:
        rows: List of a dict per measurement and layer: `step` (number of updates
            before), `epoch`, `layer`, `mean` and `median_mean` (mean and median over
            units of the mean activation; figure 2 of the paper shows the median),
            `variance` and `saturated` (mean over units), `bias_shift` (root mean square
            over the next layer's units; `None` if there is no next layer).
        units: Dict from layer names to the arrays of the last measurement, one value
            per unit.

    Raises:
        UserError: At the start of `fit`, if the model has no such layer.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.MNISTClassifier(width=0.1)
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1))
    >>> statistics = ActivationStatistics(images[:32], every=2)
    >>> _ = model.fit(
    ...     images, np.arange(64) % 10, batch_size=16, callbacks=[statistics], verbose=0
    ... )
    >>> sorted({row["step"] for row in statistics.rows}), len(statistics.units)
    ([0, 2], 8)
    """

    def __init__(
        self,
        x: Any,
        layers: Sequence[str] | None = None,
        every: int = 100,
        filename: str | pathlib.Path | None = None,
        log_dir: str | pathlib.Path | None = None,
        saturation: float = 0.05,
    ) -> None:
        super().__init__()
        if every < 1:
            raise UserError(f"Expected every to be 1 or more. Received: every={every}")
        self.x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        self.layers = layers
        self.every = every
        self.filename = filename
        self.log_dir = log_dir
        self.saturation = saturation
        self.rows: list[dict[str, Any]] = []
        self.units: dict[str, dict[str, np.ndarray]] = {}
        self._step = self._due = self._epoch = 0
        self._before = None
        self._files = contextlib.ExitStack()
        self._writers: list[Callable] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._chosen = dict(_activations(self.model, self.layers))
        if self.filename and not self.rows:
            path = pathlib.Path(self.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        if self.filename:
            file = self._files.enter_context(open(self.filename, "a", newline=""))
            self._writers.append(functools.partial(_write_csv, file))
        if self.log_dir:
            import tensorflow as tf

            writer = tf.summary.create_file_writer(str(self.log_dir))
            self._files.callback(writer.close)
            self._writers.append(functools.partial(_write_summary, writer))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self._first = batch
        if self._step >= self._due:
            self._before = self._measure()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._before is not None:
            self._record(self._before, self._measure())
            self._before, self._due = None, self._step + self.every
        self._step += batch - self._first + 1

    def on_train_end(self, logs: dict | None = None) -> None:
        self._files.close()
        self._writers.clear()

    def _measure(self):
        """A dict from layers to their units' statistics and the next layer's input."""
        measured, waiting = {}, []

        def activation(name, net, function):
            output, slope = pullback(function, net)
            slope = slope(keras.ops.ones_like(output))
            measured[name] = [_statistics(output, slope, self.saturation), None, None]
            waiting.append(name)
            return output

        def weighted(layer, inputs, function):
            if waiting:
                mean = keras.ops.mean(widened(inputs), 0, True)
            while waiting:
                measured[waiting.pop()][1:] = layer, mean
            return function(inputs)

        model = self.model  # On JAX Keras now brings its variables up to date.
        with contextlib.ExitStack() as taps:
            for layer in all_layers(model):
                if isinstance(layer, WEIGHTED):
                    tap = functools.partial(weighted, layer)
                    taps.enter_context(tapped(layer, tap))
            for name, (layer, attribute) in self._chosen.items():
                tap = functools.partial(activation, name)
                taps.enter_context(tapped(layer, tap, attribute))
            model(self.x, training=False)
        return measured

    def _record(self, before, after):
        rows = []
        for name, (statistics, layer, mean) in before.items():
            units = dict(statistics)
            if layer is not None:
                shift = _without_bias(layer, after[name][2] - mean)
                shift = keras.ops.mean(shift, tuple(range(len(shift.shape) - 1)))
                units["bias_shift"] = to_numpy(shift)
            self.units[name] = units
            rows.append(
                {"step": self._step, "epoch": self._epoch, "layer": name}
                | _summary(**units)
            )
        self.rows += rows
        for write in self._writers:
            write(rows, self.units)


def _activations(model, names):
    """Of each chosen layer its name, itself and the attribute that is the function."""
    found = {}
    for layer in all_layers(model):
        function = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if isinstance(layer, ELEMENTWISE):
            found[layer.name] = layer, "call"
        elif (
            isinstance(layer, (*WEIGHTED, keras.layers.Activation))
            and function not in NOT_ELEMENTWISE
        ):
            found[layer.name] = layer, "activation"
    wanted = list(found) if names is None else names
    if isinstance(wanted, str) or not wanted or any(n not in found for n in wanted):
        raise UserError(
            f"Expected layers to be a list of some of {list(found)}, those with an "
            f"elementwise activation. Received: layers={names!r}"
        )
    return {name: found[name] for name in wanted}


def _statistics(output, slope, saturation):
    output = widened(output)
    axes = tuple(range(len(output.shape) - 1))
    mean, variance = keras.ops.moments(output, axes)
    saturated = keras.ops.cast(keras.ops.abs(slope) < saturation, "float32")
    return {
        "mean": to_numpy(mean),
        "variance": to_numpy(variance),
        "saturated": to_numpy(keras.ops.mean(saturated, axes)),
    }


def _without_bias(layer, x):
    if isinstance(layer, keras.layers.Dense):
        return keras.ops.matmul(x, layer.kernel)
    return layer.convolution_op(x, layer.kernel)


def _summary(mean, variance, saturated, bias_shift=None):
    return {
        "mean": float(mean.mean()),
        "median_mean": float(np.median(mean)),
        "variance": float(variance.mean()),
        "saturated": float(saturated.mean()),
        "bias_shift": None
        if bias_shift is None
        else float(np.sqrt(np.square(bias_shift).mean())),
    }


def _write_csv(file, rows, units):
    writer = csv.DictWriter(file, rows[0])
    if file.tell() == 0:
        writer.writeheader()
    writer.writerows(rows)
    file.flush()


def _write_summary(writer, rows, units):
    import tensorflow as tf

    with writer.as_default(step=rows[0]["step"]):
        for row in rows:
            name = row["layer"]
            for key, values in units[name].items():
                tf.summary.scalar(f"{key}/{name}", row[key])
                tf.summary.histogram(f"{key}/{name}", values)


@dataclasses.dataclass(frozen=True)
class UnitNaturalGradient:
    """Both gradients of a layer, and what lies between them. All arrays are float64.

    They point uphill on the mean log-likelihood: the gradient of the usual loss is the
    negative of `gradient`. "Kernel's shape" means it with the chosen units alone.

    Attributes:
        gradient: Ordinary gradient g of the weights, of the kernel's shape.
        bias_gradient: Ordinary gradient g0 of the biases, of shape `(units,)`.
        natural_gradient: Unit natural gradient of the weights, of the kernel's shape.
        natural_bias_gradient: Unit natural gradient of the biases, `(units,)`.
        angle: Angle in degrees between both gradients of each unit, weights and bias
            together, `(units,)`; NaN for a unit without a gradient.
        scale: The bias-shift correction s, `(units,)`; NaN for such a unit.
        mean_input: E_q[a] = b / c, the units' mean incoming activations weighted by
            their squared errors, of the kernel's shape: what the correction removes.
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
    x: Any,
    y: Any,
    *,
    damping: float = 1e-3,
    likelihood: str | None = None,
    units: Sequence[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> UnitNaturalGradient:
    """The ordinary and the unit natural gradient of a layer (section 3 of the paper).

    The unit natural gradient is the inverse of the unit's Fisher matrix, of its weights
    and its bias, times the ordinary gradient. With A, b and c the blocks of that
    matrix, `s = 1 / (c - b' A^-1 b)`, `dw0 = s (g0 - b' A^-1 g)` and
    `dw = A^-1 (g - dw0 b)`. The Fisher matrix is that of the model's own answers: its
    expectation over the classes is exact, or over `samples` answers drawn from it.

    A unit of a convolution adds up its gradient over the positions of an image before
    products are taken, so that its Fisher matrix is exact, too. A layer without biases
    is treated as if it had them, with the value 0. The model works as in inference.

    The matrices take `8 * units * (inputs + 1)^2` bytes, and each needs one backward
    pass per batch and class (or sample): choose some `units` of a large layer.

    Args:
        model: Any Keras model whose last layer has a softmax or sigmoid activation, or
            gives the logits of one.
        layer: Dense or Conv2D layer of it, or its name.
        x: Array of inputs of shape `(n, ...)`.
        y: For softmax class numbers of shape `(n,)` or probabilities `(n, classes)`;
            for sigmoid targets from 0 to 1 of shape `(n, outputs)`.
        damping: What is added to the diagonal of each unit's Fisher matrix, as a share
            of the diagonal's mean. 0 is right only with more examples than weights.
        likelihood: `"softmax"` or `"sigmoid"`; default, the last layer's activation.
        units: Numbers of the units to look at; default all.
        samples: Number of answers drawn per example for the Fisher matrix, when there
            are too many classes for the exact expectation.
        seed: Seed of these answers.
        batch_size: Examples at a time.

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
    name = likelihood or output_layer(model).activation.__name__
    if name not in LIKELIHOODS:
        raise UserError(
            f"Expected likelihood to be one of {list(LIKELIHOODS)}, the last layer's "
            f"activation or that its logits are meant for. Received: {name!r}"
        )
    if len(x) != len(y) or len(x) == 0:
        raise UserError(
            "Expected as many labels as examples, and at least one. "
            f"Received: {len(x)} examples, {len(y)} labels"
        )
    units = np.arange(layer.kernel.shape[-1]) if units is None else np.asarray(units)
    rng = np.random.default_rng(seed)
    gradient = fisher = 0.0
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        p, per_example = _unit_gradients(model, layer, x[part], LIKELIHOODS[name])
        errors = _targets(y[part], p, name) - p
        gradient = gradient + per_example(errors, units).sum(1)
        for answer in LIKELIHOODS[name].answers(p, samples, rng):
            rows = per_example(answer, units)
            fisher = fisher + rows.transpose(0, 2, 1) @ rows
    shape = (*layer.kernel.shape[:-1], len(units))
    return _both(gradient / len(x), fisher / len(x), damping, shape)


def _weighted_layer(model, layer):
    if isinstance(layer, str):
        found = [found for found in all_layers(model) if found.name == layer]
        layer = found[0] if found else layer
    kinds = (keras.layers.Dense, keras.layers.Conv2D)
    if not isinstance(layer, kinds) or getattr(layer, "groups", 1) != 1:
        raise UserError(
            "Expected a Dense layer or a Conv2D layer without groups of the model, or "
            f"its name. Received: layer={layer!r}"
        )
    return layer


def _targets(y, p, likelihood):
    y = np.asarray(y)
    if likelihood == "softmax" and y.shape == (len(p),):
        return np.eye(p.shape[1])[y.astype(int)]
    if y.shape != p.shape:
        raise UserError(
            f"Expected labels that fit outputs of shape {p.shape}. "
            f"Received: y with shape {y.shape}"
        )
    return y


def _unit_gradients(model, layer, x, likelihood):
    """The model's probabilities, and gradients of each example and unit.

    The latter is a function: from a gradient with respect to the logits, `(n, classes)`
    and numbers of units to an array `(units, n, inputs + 1)`, the bias last.
    """
    seen = {}

    def call(inputs, function):
        seen["inputs"] = inputs
        return function(inputs)

    def logits(shift=None):
        def activation(net):
            seen["net"] = net
            return function(net if shift is None else net + shift)

        with logits_of(model):
            # Only now, because the layer may be the last one.
            function = layer.activation or keras.activations.linear
            with tapped(layer, call), replaced(layer, "activation", activation):
                return model(x, training=False)

    logits()
    patches = _patches(layer, seen["inputs"])
    z, back = pullback(logits, keras.ops.zeros_like(seen["net"]))

    def per_example(dz, units):
        dnet = to_numpy(back(keras.ops.convert_to_tensor(dz, z.dtype)))
        dnet = dnet.reshape(len(patches), -1, dnet.shape[-1])[..., units]
        return np.moveaxis(patches.transpose(0, 2, 1) @ dnet, -1, 0)

    return likelihood.probabilities(to_numpy(z)), per_example


def _patches(layer, inputs):
    """What each position's units see, and 1 for the bias: `(n, positions, d + 1)`."""
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
        probabilities: From logits to outputs, both `(n, classes)`.
        exact: From outputs to gradients with respect to the logits, each `(n, classes)`
            for all classes, whose outer products add up to the expected ones.
        draw: From outputs and a generator of random numbers to targets.
    """

    probabilities: Callable
    exact: Callable
    draw: Callable

    def answers(
        self, p: np.ndarray, samples: int | None, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """Such gradients, exact or for targets that are drawn."""
        if samples is None:
            yield from self.exact(p)
        for _ in range(samples or 0):
            yield (self.draw(p, rng) - p) / np.sqrt(samples)


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _draw_class(p, rng):
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


def _both(gradient, fisher, damping, shape):
    """The result, from each unit's gradient and Fisher matrix, the bias last."""
    natural, scale = [], []
    for g, matrix in zip(gradient, fisher, strict=True):
        diagonal = damping * np.trace(matrix) / len(g)
        step, s = _solve(matrix + diagonal * np.eye(len(g)), g)
        natural.append(step)
        scale.append(s)
    natural = np.array(natural)
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


def _solve(fisher, gradient):
    """Section 3's formulas: the step of weights and bias, and s."""
    if not np.trace(fisher):
        return np.zeros_like(gradient), np.nan
    a, b, c = fisher[:-1, :-1], fisher[:-1, -1], fisher[-1, -1]
    g, g0 = gradient[:-1], gradient[-1]
    try:
        a_g, a_b = np.linalg.solve(a, np.stack([g, b], 1)).T
    except np.linalg.LinAlgError as error:
        raise UserError(
            "Expected Fisher matrices that can be inverted: raise damping, or take "
            "more examples."
        ) from error
    s = 1 / (c - b @ a_b)
    dw0 = s * (g0 - b @ a_g)
    return np.append(a_g - dw0 * a_b, dw0), s
