"""Mean activations, their variance and bias shift, measured during training."""

import contextlib
import csv
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import keras
import numpy as np

from elu_zoo import layers as elu_layers
from elu_zoo._inspection import (
    all_layers,
    pullback,
    tapped,
    to_numpy,
    widened,
)
from elu_zoo.errors import UserError

ELEMENTWISE = (
    elu_layers.ELU,
    elu_layers.ShiftedReLU,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)
"""Layers that are elementwise activations."""

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
"""Convolutional layers that an activation may be part of."""

WEIGHTED = (keras.layers.Dense, *CONVOLUTIONS)
"""Layers whose bias shift is measured."""

NOT_ELEMENTWISE = ("linear", "softmax", "log_softmax")
"""Names of the activations that are not measured."""

_Units = dict[str, dict[str, np.ndarray]]
"""From layer names and statistics to one value per unit."""

_Measured = dict[str, list[Any]]
"""From layer names to the units' statistics, the next layer, and its mean input."""


class ActivationStatistics(keras.callbacks.Callback):
    """Measures the activations of a model's units during `fit`.

    Every `every` steps, the model processes the same inputs twice in inference mode,
    before and after an update. For each unit of the chosen layers it measures:

    - `mean` and `variance` of the activation, over inputs and positions,
    - `saturated`, the share of outputs where the activation's derivative is below
      `saturation`,
    - `bias_shift`, for the units of the *next* dense or convolutional layer: by how
      much the update changed their mean input through this layer's mean activation
      alone, which is the next layer's weights applied to the change of its mean input.

    The last dimension of a layer's output indexes its units. The next layer is the one
    that the model calls next.

    Args:
        x: Fixed batch of inputs, as the model takes them. More inputs give better
            estimates and take longer; one or two batches are usual.
        layers: Names of layers with an elementwise activation. Default: all of them.
        every: Number of steps between two measurements.
        filename: Optional CSV file for `rows`; an existing file is replaced.
        log_dir: Optional folder for TensorBoard: scalars for each layer, and histograms
            over its units. Needs TensorFlow and TensorBoard, also on JAX.
        saturation: Derivative below which an output counts as saturated; positive.

    Attributes:
        rows: List with one dict per measurement and layer: `step` (number of updates
            before it), `epoch`, `layer`, `mean` and `median_mean` (mean and median over
            units of the mean activation; figure 2 of the paper shows the median),
            `variance` and `saturated` (mean over units), `bias_shift` (root mean square
            over the next layer's units; `None` if there is no next layer).
        units: Dict from layer names to dicts of the last measurement's arrays, which
            have one value per unit.

    Raises:
        UserError: If `every` is less than 1, or, at the start of `fit`, if the model
            has no such layer.

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
        filename: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
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
        self._before: _Measured | None = None
        self._files = contextlib.ExitStack()
        self._writers: list[Callable[[list[dict[str, Any]], _Units], None]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Chooses the layers and opens the files."""
        self.on_train_end()  # Keras does not call it after an interruption.
        self._chosen = dict(_activations(self.model, self.layers))
        if self.filename and not self.rows:
            path = pathlib.Path(self.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        if self.filename:
            file = self._files.enter_context(
                open(self.filename, "a", encoding="utf-8", newline="")
            )
            self._writers.append(functools.partial(_write_csv, file))
        if self.log_dir:
            import tensorflow as tf

            writer = tf.summary.create_file_writer(str(self.log_dir))
            self._files.callback(writer.close)
            self._writers.append(functools.partial(_write_summary, writer))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Measures before the update, if a measurement is due."""
        self._first = batch
        if self._step >= self._due:
            self._before = self._measure()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Measures after the update, and records both measurements."""
        if self._before is not None:
            self._record(self._before, self._measure())
            self._before, self._due = None, self._step + self.every
        self._step += batch - self._first + 1

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the files."""
        self._files.close()
        self._writers.clear()

    def _measure(self) -> _Measured:
        """Each layer's statistics, the layer after it, and the mean input of that."""
        measured: _Measured = {}
        waiting: list[str] = []

        def activation(name: str, net: Any, function: Callable[[Any], Any]) -> Any:
            output, slope = pullback(function, net)
            slope = slope(keras.ops.ones_like(output))
            measured[name] = [_statistics(output, slope, self.saturation), None, None]
            waiting.append(name)
            return output

        def weighted(
            layer: keras.Layer, inputs: Any, function: Callable[[Any], Any]
        ) -> Any:
            if waiting:
                mean = keras.ops.mean(widened(inputs), 0, True)
            while waiting:
                measured[waiting.pop()][1:] = layer, mean
            return function(inputs)

        model = self.model  # On JAX, this makes Keras update the model's variables.
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

    def _record(self, before: _Measured, after: _Measured) -> None:
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


def _activations(
    model: keras.Model, names: Sequence[str] | None
) -> dict[str, tuple[keras.Layer, str]]:
    """The chosen layers by name, each with its attribute that is the activation."""
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
            f"Expected layers to be a list of some of {list(found)}, the layers with "
            f"an elementwise activation. Received: layers={names!r}"
        )
    return {name: found[name] for name in wanted}


def _statistics(output: Any, slope: Any, saturation: float) -> dict[str, np.ndarray]:
    output = widened(output)
    axes = tuple(range(len(output.shape) - 1))
    mean, variance = keras.ops.moments(output, axes)
    saturated = keras.ops.cast(keras.ops.abs(slope) < saturation, "float32")
    return {
        "mean": to_numpy(mean),
        "variance": to_numpy(variance),
        "saturated": to_numpy(keras.ops.mean(saturated, axes)),
    }


def _without_bias(layer: keras.Layer, x: Any) -> Any:
    if isinstance(layer, keras.layers.Dense):
        return keras.ops.matmul(x, layer.kernel)
    return layer.convolution_op(x, layer.kernel)


def _summary(
    mean: np.ndarray,
    variance: np.ndarray,
    saturated: np.ndarray,
    bias_shift: np.ndarray | None = None,
) -> dict[str, float | None]:
    return {
        "mean": float(mean.mean()),
        "median_mean": float(np.median(mean)),
        "variance": float(variance.mean()),
        "saturated": float(saturated.mean()),
        "bias_shift": None
        if bias_shift is None
        else float(np.sqrt(np.square(bias_shift).mean())),
    }


def _write_csv(file: TextIO, rows: list[dict[str, Any]], units: _Units) -> None:
    writer = csv.DictWriter(file, rows[0])
    if file.tell() == 0:
        writer.writeheader()
    writer.writerows(rows)
    file.flush()


def _write_summary(writer: Any, rows: list[dict[str, Any]], units: _Units) -> None:
    import tensorflow as tf

    with writer.as_default(step=rows[0]["step"]):
        for row in rows:
            name = row["layer"]
            for key, values in units[name].items():
                tf.summary.scalar(f"{key}/{name}", row[key])
                tf.summary.histogram(f"{key}/{name}", values)
