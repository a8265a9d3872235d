"""The two stages of a fine-tuning, resumable after any epoch."""

import dataclasses
import json
import math
import pathlib

import keras
import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.files import replacing

# Between two stages accuracy decides where it differs by more, else the loss.
TOLERANCE = 0.005


@dataclasses.dataclass
class State:
    """Where a fine-tuning stands: plain facts, and the weights that belong to them.

    Attributes:
        settings: What has to be the same for a run to be resumed.
        stage: Number of the stage in progress.
        first: Epochs that were done before this stage.
        stopped: Whether the stage has ended before its last epoch.
        rows: Metrics of each epoch done.
        start: Held-out metrics before the first stage, empty without held-out images.
        kept: Metrics of the weights that the stage started from, with their `epoch`.
        best: The same of the best epoch in this stage, empty before its first.
        weights: Arrays of those two, by name.
    """

    settings: dict
    stage: int = 0
    first: int = 0
    stopped: bool = False
    rows: list = dataclasses.field(default_factory=list)
    start: dict = dataclasses.field(default_factory=dict)
    kept: dict = dataclasses.field(default_factory=dict)
    best: dict = dataclasses.field(default_factory=dict)
    weights: dict = dataclasses.field(default_factory=dict)


class History(dict):
    """Lists by metric, one value per epoch, as of Keras's `History.history`.

    Attributes:
        start: Held-out metrics before the first stage, empty without held-out images.
    """

    def __init__(self, state):
        names = dict.fromkeys(name for row in state.rows for name in row)
        super().__init__({n: [row.get(n) for row in state.rows] for n in names})
        self.start = state.start
        if state.rows:
            kept = state.kept.get("epoch", len(state.rows))
            self["kept"] = [n == kept for n in range(1, len(state.rows) + 1)]

    def rows(self):
        """A dict per epoch, such as for a CSV file."""
        values = zip(*self.values(), strict=True)
        return [
            {"epoch": n} | dict(zip(self, row, strict=True))
            for n, row in enumerate(values, start=1)
        ]


class Recorder(keras.callbacks.Callback):
    """Keeps the best weights of a stage, stops it, and writes the checkpoint.

    Args:
        state: `State`, changed after each epoch.
        batches: `elu_zoo.image_files.Batches`, told the epoch.
        patience: Epochs without a lower held-out loss to stop after, or `None`.
        path: Path of the checkpoint, or `None`.
    """

    def __init__(self, state, batches, patience, path):
        super().__init__()
        self.state, self.batches = state, batches
        self.patience, self.path = patience, path

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        state = self.state
        row = {name: float(value) for name, value in logs.items()}
        state.rows.append({"stage": state.stage + 1} | row)
        loss = row.get("val_loss", math.nan)
        # NaN is no improvement; without held-out images nothing is.
        if loss < state.best.get("val_loss", math.inf):
            state.best = row | {"epoch": epoch + 1}
            state.weights["best"] = weights(self.model)
        since = epoch + 1 - state.best.get("epoch", state.first)
        if self.patience is not None and since >= self.patience:
            self.model.stop_training = True
        state.stopped = self.model.stop_training
        if self.path:
            save(self.path, state, self.model)


def end_stage(state, model):
    """Leaves the model with the better of what the stage began with and its best."""
    if "best" in state.weights:
        if is_better(state.best, state.kept):
            state.kept = state.best
            state.weights["kept"] = state.weights["best"]
        assign(model.variables, state.weights["kept"])
    state.weights.pop("best", None)
    state.best, state.stopped = {}, False
    state.first, state.stage = len(state.rows), state.stage + 1


def is_better(new, old):
    """Whether a stage's held-out metrics are better than those that it started from."""
    difference = new.get("val_accuracy", 0) - old.get("val_accuracy", 0)
    if abs(difference) > TOLERANCE:
        return difference > 0
    return new["val_loss"] < old["val_loss"]


def weights(model):
    """Copies of a model's variables."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def assign(variables, arrays):
    """Gives variables the values of arrays."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def save(path, state, model):
    """Writes the state, the model and its optimizer to one file, whole or not at all.

    Args:
        path: Path of the file to replace.
        state: `State`.
        model: Compiled Keras model.
    """
    groups = state.weights | {"model": weights(model)}
    if state.stage < len(state.settings["epochs"]):
        optimizer = model.optimizer.variables
        groups["optimizer"] = [keras.ops.convert_to_numpy(v) for v in optimizer]
    arrays = {
        f"{group}/{number}": array
        for group, values in groups.items()
        for number, array in enumerate(values)
    }
    facts = dataclasses.asdict(dataclasses.replace(state, weights={}))
    arrays["state"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def load(path, settings):
    """Reads what `save` wrote.

    Args:
        path: Path of a file.
        settings: What the run has to be of.

    Returns:
        A `State`, and a dict of lists of arrays with `"model"` and `"optimizer"`; a new
        state and an empty dict if there is no file.

    Raises:
        UserError: If the file is no checkpoint, or one of another run.
    """
    path = path and pathlib.Path(path)
    # As they come back from JSON.
    settings = json.loads(json.dumps(settings))
    if not path or not path.exists():
        return State(settings), {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(arrays.pop("state").tobytes())
    except Exception as error:  # zipfile and its decompressors have many of their own
        raise UserError(
            f"Expected {path} to be the checkpoint of a fine-tuning; it is damaged "
            f"({error}). Remove it to start anew."
        ) from error
    _check_same(facts["settings"], settings, path)
    groups = {}
    for name in sorted(arrays, key=lambda name: int(name.split("/")[1])):
        groups.setdefault(name.split("/")[0], []).append(arrays[name])
    live = {name: groups.pop(name, []) for name in ("model", "optimizer")}
    return State(**facts | {"weights": groups}), live


def _check_same(found, settings, path):
    differing = [name for name in settings if found.get(name) != settings[name]]
    if differing:
        raise UserError(
            f"Expected the arguments of the run that {path} belongs to: "
            + ", ".join(f"{name}={found.get(name)!r}" for name in differing)
            + ". Received: "
            + ", ".join(f"{name}={settings[name]!r}" for name in differing)
            + ". Remove the file to start anew."
        )
