"""The two stages of fine-tuning, resumable after any epoch."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import keras
import ml_dtypes
import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.evaluation import cross_entropy
from elu_zoo.files import replacing
from elu_zoo.image_files import Batches
from elu_zoo.predictions import (
    TEMPERATURES,
    fit_temperature,
    probabilities,
    with_temperature,
)

# Shares of a stage's best epoch in the means that are tried at its end.
SHARES = (0.25, 0.5, 0.75)


@dataclasses.dataclass
class State:
    """The progress of a fine-tuning: JSON-plain values, and weights.

    Attributes:
        settings: What must be unchanged for a run to resume.
        stage: Index of the stage in progress, from 0.
        first: Number of epochs done before this stage.
        stopped: Whether the stage ended before its last epoch.
        rows: Metrics of each epoch done.
        start: Held-out metrics before the first stage, empty without held-out images.
        kept: Metrics of the weights that the stage started from, with their `epoch`,
            and its `share` if they are a mean.
        best: The same for this stage's best epoch, empty before its first.
        weights: Arrays of the weights of `kept` and `best`, by these names.
    """

    settings: dict[str, Any]
    stage: int = 0
    first: int = 0
    stopped: bool = False
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    start: dict[str, float] = dataclasses.field(default_factory=dict)
    kept: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    weights: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)


class History(dict[str, list[Any]]):
    """One list per metric, with one value per epoch, as in Keras's `History.history`.

    Args:
        state: `State` of the run.

    Attributes:
        start: Held-out metrics before the first stage, empty without held-out images.
        end: Those of the weights that the model ends with, and with a mean the `share`
            of the epoch in it.
    """

    def __init__(self, state: State) -> None:
        names = dict.fromkeys(name for row in state.rows for name in row)
        super().__init__({n: [row.get(n) for row in state.rows] for n in names})
        self.start = state.start
        self.end = {k: v for k, v in state.kept.items() if k in (*state.start, "share")}
        if state.rows:
            kept = state.kept.get("epoch", len(state.rows))
            self["kept"] = [n == kept for n in range(1, len(state.rows) + 1)]

    def rows(self) -> list[dict[str, Any]]:
        """One dict per epoch, as a CSV file's rows."""
        values = zip(*self.values(), strict=True)
        return [
            {"epoch": n} | dict(zip(self, row, strict=True))
            for n, row in enumerate(values, start=1)
        ]


def measure(model: keras.Model, held_out: Batches) -> dict[str, float]:
    """Measures a model on held-out images.

    Args:
        model: Keras model that gives probabilities or logits.
        held_out: The images and labels.

    Returns:
        Its accuracy, its cross-entropy, and its cross-entropy after temperature
        scaling on the same images, in nats, by the names that Keras would give them.
    """
    found = probabilities(model.predict(held_out, verbose=0), model)
    labels = held_out.labels
    right = found.argmax(-1) == labels
    # If all answers are right, the lower the temperature, the lower the loss.
    temperature = TEMPERATURES[0] if right.all() else fit_temperature(found, labels)
    return {
        "val_accuracy": float(right.mean()),
        "val_loss": cross_entropy(found, labels),
        "val_calibrated_loss": cross_entropy(
            with_temperature(found, temperature), labels
        ),
    }


class Measurement(keras.callbacks.Callback):
    """Adds the held-out metrics to an epoch's, for the callbacks that come after it.

    Args:
        held_out: The images and labels.
    """

    def __init__(self, held_out: Batches) -> None:
        super().__init__()
        self.held_out = held_out

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures the model."""
        if logs is not None:
            logs.update(measure(self.model, self.held_out))


class Recorder(keras.callbacks.Callback):
    """Keeps the best weights of a stage, stops it, and writes the checkpoint.

    Args:
        state: `State`, changed after each epoch.
        batches: `elu_zoo.image_files.Batches`, whose `epoch` is kept up to date.
        patience: Number of epochs without a lower calibrated loss to stop after, or
            `None`.
        path: Path of the checkpoint, or `None`.
    """

    def __init__(
        self,
        state: State,
        batches: Batches,
        patience: int | None,
        path: str | os.PathLike[str] | None,
    ) -> None:
        super().__init__()
        self.state, self.batches = state, batches
        self.patience, self.path = patience, path

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tells the batches their epoch."""
        self.batches.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the epoch's metrics, and its weights if they are the best."""
        state = self.state
        row = {name: float(value) for name, value in (logs or {}).items()}
        state.rows.append({"stage": state.stage + 1} | row)
        # A loss that is NaN, or missing, is never an improvement.
        if is_better(row, state.best):
            state.best = row | {"epoch": epoch + 1}
            state.weights["best"] = copies(self.model.variables)
        since = epoch + 1 - state.best.get("epoch", state.first)
        if self.patience is not None and since >= self.patience:
            self.model.stop_training = True
        state.stopped = self.model.stop_training
        if self.path:
            save(self.path, state, self.model)


def end_stage(state: State, model: keras.Model, held_out: Batches | None) -> None:
    """Gives the model the best weights of a stage.

    They are those that it started from, those of its best epoch, or a mean of both,
    which often answers better than either (Wortsman et al., "Robust fine-tuning of
    zero-shot models", 2022, section 3).

    Args:
        state: `State`, changed to the next stage.
        model: The model.
        held_out: The images that choose, or `None` to keep the model as it is.
    """
    if held_out and "best" in state.weights:
        start, best = state.weights["kept"], state.weights["best"]
        found, chosen = state.best, best
        for share in SHARES:
            weights = [mean(*pair, share) for pair in zip(start, best, strict=True)]
            assign(model.variables, weights)
            metrics = measure(model, held_out)
            if is_better(metrics, found):
                facts = {"epoch": state.best["epoch"], "share": share}
                found, chosen = metrics | facts, weights
        if is_better(found, state.kept):
            state.kept, state.weights["kept"] = found, chosen
    if held_out and "kept" in state.weights:
        # Also if there is no best epoch, because the loss was NaN in all.
        assign(model.variables, state.weights["kept"])
    state.weights.pop("best", None)
    state.best, state.stopped = {}, False
    state.first, state.stage = len(state.rows), state.stage + 1


def mean(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Averages two states of a variable.

    Args:
        first: Array.
        second: Array of the same shape and dtype.
        share: Weight of the second in the mean, from 0 to 1.

    Returns:
        The mean; the second if they are whole numbers, such as the state of a seed.

    Example:

    >>> mean(np.array([1.0, 2.0]), np.array([3.0, 2.0]), 0.25)
    array([1.5, 2. ])
    """
    if np.issubdtype(first.dtype, np.integer):
        return second
    return ((1 - share) * first + share * second).astype(first.dtype)


def is_better(new: dict[str, float], old: dict[str, float]) -> bool:
    """Tells whether held-out metrics are better than others.

    The calibrated loss decides. Unlike the accuracy, it changes with every answer, so
    that few images suffice; unlike the loss, it does not rise when a network only
    becomes too sure of itself.

    Args:
        new: Result of `measure`; empty, or with NaN, it is never better.
        old: Result of `measure`, or an empty dict.

    Returns:
        Whether `new` is better.
    """
    loss = new.get("val_calibrated_loss", math.nan)
    return loss < old.get("val_calibrated_loss", math.inf)


def copies(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """Copies of variables, as arrays."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def assign(variables: list[keras.Variable], arrays: Iterable[np.ndarray]) -> None:
    """Assigns arrays to variables, in order."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def save(path: str | os.PathLike[str], state: State, model: keras.Model) -> None:
    """Writes the state, the model and its optimizer to one file, atomically.

    Args:
        path: Path of the file to replace.
        state: `State`.
        model: Compiled Keras model.
    """
    optimizer = model.optimizer.variables
    groups = state.weights | {
        "model": copies(model.variables),
        "optimizer": [keras.ops.convert_to_numpy(v) for v in optimizer],
    }
    arrays: dict[str, Any] = {
        f"{group}/{number}": array
        for group, values in groups.items()
        for number, array in enumerate(values)
    }
    facts = dataclasses.asdict(dataclasses.replace(state, weights={}))
    arrays["state"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def load(
    path: str | os.PathLike[str] | None, settings: dict[str, Any]
) -> tuple[State, dict[str, list[np.ndarray]]]:
    """Reads what `save` wrote.

    Args:
        path: Path of the checkpoint, or `None`.
        settings: Settings of the run to resume; those in the file must be the same.

    Returns:
        A `State`, and the arrays of `"model"` and `"optimizer"`, a list for each. If
        there is no file, a new state and an empty dict.

    Raises:
        UserError: If the file is not a checkpoint, or belongs to a different run.
    """
    file = pathlib.Path(path) if path else None
    # As JSON returns them: tuples become lists.
    settings = json.loads(json.dumps(settings, default=lambda number: number.item()))
    if file is None or not file.exists():
        return State(settings), {}
    try:
        with np.load(file, allow_pickle=False) as saved:
            arrays = {name: _array(saved[name]) for name in saved.files}
        facts = json.loads(arrays.pop("state").tobytes())
    except Exception as error:  # zipfile and its decompressors raise many kinds
        raise UserError(
            f"Expected {file} to be a fine-tuning checkpoint; it is damaged "
            f"({error}). Delete it to start over."
        ) from error
    _check_same(facts["settings"], settings, file)
    groups: dict[str, list[np.ndarray]] = {}
    for name in sorted(arrays, key=lambda name: int(name.split("/")[1])):
        groups.setdefault(name.split("/")[0], []).append(arrays[name])
    live = {name: groups.pop(name, []) for name in ("model", "optimizer")}
    return State(**facts | {"weights": groups}), live


def _array(array: np.ndarray) -> np.ndarray:
    # NumPy's files do not name the dtype bfloat16, only its size.
    return array.view(ml_dtypes.bfloat16) if array.dtype.kind == "V" else array


def _check_same(
    found: dict[str, Any], settings: dict[str, Any], path: pathlib.Path
) -> None:
    differing = [name for name in settings if found.get(name) != settings[name]]
    if differing:
        raise UserError(
            f"Expected the arguments of the run that {path} belongs to: "
            + ", ".join(f"{name}={found.get(name)!r}" for name in differing)
            + ". Received: "
            + ", ".join(f"{name}={settings[name]!r}" for name in differing)
            + ". Delete the file to start over."
        )
