"""The training loop: the same for every strategy, and bit-identical when resumed."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from tqdm import tqdm

from elu_zoo._weight_files import load_weights
from elu_zoo.errors import UserError
from elu_zoo.files import replacing
from elu_zoo.models import adapt_preprocessing
from training.data.phases import phase_at
from training.engine import checkpoint, dependencies, device, provenance, runlog
from training.engine.distillation import distilled
from training.engine.inputs import image_shape, load_data, make_stream
from training.engine.model import (
    averaged,
    build_model,
    layered_dropout,
    set_dropout,
)
from training.engine.objectives import objective_of
from training.engine.recipe import dropout_steps
from training.engine.schedules import Scaled
from training.engine.steps import Steps
from training.engine.strategy import make_placement

if TYPE_CHECKING:
    from training.data.batch import Batch
    from training.data.protocol import Examples
    from training.data.stream import Stream
    from training.engine.recipe import Recipe
    from training.engine.strategy import Placement


def train(
    recipe_path: str | pathlib.Path,
    recipe: Recipe,
    data_dir: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    strategy: str | None = None,
    rate_factor: float = 1.0,
    on_corrupt: str = "skip",
    decoder: str = "simplejpeg",
    service: str | None = None,
    precision: str | None = None,
    log_every: int = 50,
    checkpoint_every: int = 100,
    accept_code_changes: bool = False,
    progress: bool = True,
    should_stop: Callable[[], bool] | None = None,
    per_call: int | None = None,
) -> dict[str, Any] | None:
    """Runs a recipe, or resumes the run in a folder.

    The run can be killed at any moment and started again with the same arguments; it
    ends with the same bits as if it had not been killed.

    Args:
        recipe_path: Path of the recipe file, which is kept with the run.
        recipe: The recipe.
        data_dir: Folder of the data sets, see `elu_zoo.datasets`.
        out: Folder of the run, which all workers share. It receives `recipe.py`,
            `run.json` (settings, versions, hardware), `log.csv`, `curve.svg`,
            TensorBoard events, `best.weights.h5`, `last.weights.h5`, after a stop
            `stopped.weights.h5`, the last two checkpoints, and with a teacher its
            answers, `teacher-*.npy`.
        strategy: One of `training.engine.strategy.NAMES`; default by the devices.
        rate_factor: Factor for the recipe's learning rate.
        on_corrupt: What to do with training images on disk that cannot be decoded:
            `"skip"` and count them, or `"fail"`.
        decoder: Decoder of images on disk, `"simplejpeg"` or `"tensorflow"`.
        service: Address of a tf.data service that decodes images on disk.
        precision: Keras dtype policy; default by the device.
        log_every: Number of steps between rows of the log.
        checkpoint_every: Number of steps between checkpoints.
        accept_code_changes: Whether to resume a run whose code has changed since.
        progress: Whether to show a progress bar.
        should_stop: Called without arguments between steps; once it returns true, the
            run writes a checkpoint and returns. Several workers call it when they log.
        per_call: See `training.engine.steps.Steps`.

    Returns:
        The last row of the log and the best evaluation error; `None` from a run that
        was stopped, and from workers other than the chief.

    Raises:
        UserError: If the folder holds a run of a different recipe, the splits of the
            data differ, or the batch cannot be shared evenly.
        FolderInUse: If another process is using the folder.
        OSError: If the folder cannot be written to. The checkpoints in it stay.
    """
    out = pathlib.Path(out)
    # The other workers may have left: a finished run must not wait for them.
    placement = make_placement("none" if provenance.is_finished(out) else strategy)
    _check_batch(recipe, placement)
    precision = precision or device.default_precision()
    keras.config.set_dtype_policy(precision)
    train_set, eval_set = load_data(recipe, data_dir)
    if recipe.teacher:
        train_set = distilled(train_set, recipe.teacher, out, placement.is_chief)
    keras.utils.set_random_seed(recipe.seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    else:
        device.keep_compiled(out / "compiled")
    stream = make_stream(
        train_set,
        recipe,
        placement,
        on_corrupt=on_corrupt,
        decoder=decoder,
        service=service,
    )
    dropout = dropout_steps(recipe.dropout, recipe.epochs * stream.steps_per_epoch)
    settings = provenance.settings_of(
        recipe, precision, rate_factor, len(train_set), dropout, stream.decoder
    )
    run = _Run(
        recipe, placement, train_set, eval_set, stream, settings, out, dropout, per_call
    )
    with provenance.locked(out) if placement.is_chief else contextlib.nullcontext():
        run.open(recipe_path, accept_code_changes)
        result = run.finish(
            log_every, checkpoint_every, progress, should_stop or (lambda: False)
        )
    return result if placement.is_chief else None


class _Run:
    """The parts of a run, and its state."""

    def __init__(
        self,
        recipe: Recipe,
        placement: Placement,
        train_set: Examples,
        eval_set: Examples,
        stream: Stream,
        settings: dict[str, Any],
        out: pathlib.Path,
        dropout: Mapping[int, Any],
        per_call: int | None = None,
    ) -> None:
        self.recipe, self.placement, self.out = recipe, placement, out
        self.train_set, self.eval_set, self.stream = train_set, eval_set, stream
        self.settings, self.dropout = settings, dropout
        self.objective = objective_of(recipe.model)
        self.image_shape = image_shape(self.train_set, recipe)
        self.total = recipe.epochs * self.stream.steps_per_epoch
        with placement.scope():
            self.model = build_model(
                recipe, len(self.train_set.class_names), self.image_shape
            )
            schedule = recipe.learning_rate(self.total)
            if settings["rate_factor"] != 1:
                schedule = Scaled(schedule, settings["rate_factor"])
            self.schedule = schedule
            self.optimizer = recipe.optimizer(schedule)
            self.optimizer.build(self.model.trainable_variables)
        self.state: dict[str, Any] = {
            "step": 0,
            "best_error": None,
            "starts": 0,
            "placements": [],
            "skipped": 0,
            "window": [],
            "seconds": 0.0,
            "settings": self.settings,
        }
        self.steps = Steps(
            self.model,
            self.optimizer,
            recipe,
            placement,
            device.default_jit(),
            stream.on_device,
            stream.resident,
            per_call,
        )

    @property
    def groups(self) -> dict[str, list[keras.Variable]]:
        return {"model": self.model.variables, "optimizer": self.optimizer.variables}

    def open(self, recipe_path: str | pathlib.Path, accept_code_changes: bool) -> None:
        """Resumes from the folder's checkpoint, or begins."""
        self.accept_code_changes = accept_code_changes
        self.recipe_name = pathlib.Path(recipe_path).name
        if self.placement.is_chief:
            for half_written in self.out.glob(".part.*"):
                half_written.unlink()
        self.sources = dependencies.read_sources(recipe_path)
        self.changed_code: list[str] = []
        self.settings |= provenance.resolved(self.recipe, self.optimizer)
        found = checkpoint.restore(self.out, self.groups, self._check)
        if found:
            self.state |= found
        else:
            images = self.train_set.sample(self.image_shape[0])
            adapt_preprocessing(self.model, images)
            if self.recipe.initialize:
                self.recipe.initialize(self.model, images)
            if self.recipe.initial_weights:
                path = dependencies.ROOT / self.recipe.initial_weights
                load_weights(self.model, path)
        self.placement.check_equal(
            self.state["step"], "step to start from, that of the --out they share"
        )
        self.placement.separate_seeds(self.model)
        self.log = runlog.RunLog(
            self.out / "log.csv", self.state["step"], write=self.placement.is_chief
        )
        if self.state["step"] < self.total:
            self.state["starts"] += 1
            self.state["placements"].append(provenance.placement_facts(self))
            if self.placement.is_chief:
                provenance.announce(self, recipe_path)
                provenance.write_facts(self)

    def _check(self, found: Mapping[str, Any]) -> None:
        """Checks that a checkpoint belongs to this run."""
        provenance.check_same(found["settings"], self.settings, self.out)
        self.changed_code = provenance.check_same_code(
            self.sources, self.out, self.accept_code_changes
        )

    def finish(
        self,
        log_every: int,
        checkpoint_every: int,
        progress: bool,
        should_stop: Callable[[], bool],
    ) -> dict[str, Any] | None:
        """Trains to the end, or until `should_stop` returns true."""
        state = self.state
        self.clock = _Clock(max(self.log.seconds, state["seconds"]))
        # Sums of the steps since the last row of the log.
        self.window = [np.array(sums)[None] for sums in state["window"]]
        batches = self.stream.batches(state["step"], self.total)
        with self._bar(progress) as bar, contextlib.closing(batches):
            while state["step"] < self.total:
                self._advance(batches, (log_every, checkpoint_every), bar)
                stop = self._stops(should_stop) and state["step"] < self.total
                if stop or self._is_due(checkpoint_every):
                    self._save()
                if stop:
                    self._write_weights("stopped")
                    return None
        if self.placement.is_chief and not provenance.is_finished(self.out):
            self._draw()
            provenance.write_facts(self)
        # No worker leaves before the chief has written everything.
        self.placement.check_equal(self._checksum(), "bits in their weights")
        return self.log.rows[-1] | {"best_error": state["best_error"]}

    def _bar(self, progress: bool) -> tqdm:
        size = self.recipe.batch_size
        return tqdm(
            total=self.total * size,
            initial=self.state["step"] * size,
            unit=" images",
            unit_scale=True,
            desc=self.recipe.model,
            disable=not (progress and self.placement.is_chief),
        )

    def _advance(
        self, batches: Iterator[Batch], intervals: tuple[int, int], bar: tqdm
    ) -> None:
        """Computes the steps of one call, and what is due after them."""
        self._set_dropout()
        count = self._call_end(intervals) - self.state["step"]
        chosen = list(itertools.islice(batches, count))
        self.window.append(self.steps.train(chosen))
        self.state["step"] += count
        bar.update(count * self.recipe.batch_size)
        row = {}
        if self._is_due(intervals[0]):
            row = self._train_row()
            bar.set_postfix(
                loss=f"{row['train_loss']:.3f}",
                error=self.objective.error_format.format(row["train_error"]),
            )
        evaluated = self._is_evaluated()
        if evaluated:
            with self.clock.outside_laps():
                row |= self._evaluate()
        if row:
            self._add_row(row)
        if evaluated and self.placement.is_chief and self.state["step"] < self.total:
            self._draw()

    def _call_end(self, intervals: tuple[int, int]) -> int:
        """The step before which nothing is due."""
        step = self.state["step"]
        every = (*intervals, self.stream.steps_per_epoch)
        return min(
            step + self.steps.per_call,
            self.total,
            *((step // interval + 1) * interval for interval in every),
            *(first for first in self.dropout if first > step),
        )

    def _is_due(self, interval: int) -> bool:
        return self.state["step"] % interval == 0 or self.state["step"] == self.total

    def _stops(self, should_stop: Callable[[], bool]) -> bool:
        """Whether to stop; workers must agree, so they ask only when they log."""
        if self.placement.workers == 1:
            return should_stop()
        return not self.window and self.placement.any(should_stop())

    def _save(self) -> None:
        self.steps.sync()
        sums = [np.asarray(x, "float64").tolist() for x in self.window]
        self.state["window"] = [step for call in sums for step in call]
        self.state["seconds"] = self.clock.seconds()
        if self.placement.is_chief:
            checkpoint.save(self.out, self.groups, self.state)

    def _checksum(self) -> int:
        checksum = 0
        for variable in self.model.trainable_variables:
            checksum = zlib.crc32(np.asarray(variable).tobytes(), checksum)
        return checksum

    def _set_dropout(self) -> None:
        if self.dropout:
            rates = phase_at(self.dropout, self.state["step"])
            set_dropout(self.model, layered_dropout(self.recipe, rates))

    def _is_evaluated(self) -> bool:
        every = self.recipe.evaluate_every * self.stream.steps_per_epoch
        step = self.state["step"]
        due = self.recipe.holdout > 0 and step % every == 0
        return step == self.total or due

    def _train_row(self) -> dict[str, Any]:
        sums = np.concatenate([np.asarray(x, "float64") for x in self.window])
        self.window = []
        loss, error, count = sums.sum(axis=0)
        images = len(sums) * self.recipe.batch_size
        self.state["skipped"] += images - round(count)
        return {
            "train_loss": loss / max(count, 1),
            "train_error": error / max(count, 1),
            "skipped_images": self.state["skipped"],
            "images_per_second": round(images / self.clock.lap(), 1),
        }

    def _evaluate(self) -> dict[str, Any]:
        state = self.state
        self.steps.sync()
        with averaged(self.model, self.optimizer):
            batches = self.eval_set.evaluation_batches(
                self.image_shape[0],
                self.placement.worker,
                self.placement.workers,
                rows=250 * self.placement.replicas // self.placement.workers,
            )
            sums = [np.asarray(self.steps.evaluate(batch)) for batch in batches]
            loss, error, count = np.sum(sums, axis=0, dtype="float64")
            if count != len(self.eval_set):
                raise RuntimeError(
                    f"Expected {len(self.eval_set)} evaluated images. Received: {count}"
                )
            error /= count
            names = ["last"]
            if state["best_error"] is None or error < state["best_error"]:
                state["best_error"] = error
                names.append("best")
        for name in names:
            self._write_weights(name)
        return {"eval_loss": loss / count, "eval_error": error}

    def _write_weights(self, name: str) -> None:
        if not self.placement.is_chief:
            return
        with averaged(self.model, self.optimizer):
            with replacing(self.out / f"{name}.weights.h5") as part:
                self.model.save_weights(part)

    def _add_row(self, row: Mapping[str, Any]) -> None:
        self.log.add(
            step=self.state["step"],
            epoch=round(self.state["step"] / self.stream.steps_per_epoch, 4),
            learning_rate=float(self.schedule(self.state["step"])),
            seconds=self.clock.seconds(),
            **row,
        )

    def _draw(self) -> None:
        path, quantities = self.out / "curve.svg", self.objective.curves
        side = self.image_shape[0]
        runlog.plot(self.log.rows, path, self.settings, side, quantities)
        runlog.write_events(self.log.rows, self.out)


class _Clock:
    """Seconds of training, not counting those between a kill and the restart."""

    def __init__(self, seconds: float) -> None:
        self._before = seconds
        self._start = self._lap = time.monotonic()

    def seconds(self) -> float:
        return round(self._before + time.monotonic() - self._start, 1)

    def lap(self) -> float:
        last, self._lap = self._lap, time.monotonic()
        return self._lap - last

    @contextlib.contextmanager
    def outside_laps(self) -> Iterator[None]:
        """Leaves the time of the block out of the lap."""
        start = time.monotonic()
        yield
        self._lap += time.monotonic() - start


def _check_batch(recipe: Recipe, placement: Placement) -> None:
    shares = placement.replicas * recipe.accumulation
    if recipe.batch_size % shares:
        raise UserError(
            f"Expected a global batch that {placement.replicas} replicas with "
            f"accumulation={recipe.accumulation} can share evenly. Received: "
            f"batch_size={recipe.batch_size}"
        )
