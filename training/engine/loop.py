"""The training loop: one process, resumable at any moment to the same end."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import time

import keras
import numpy as np
from tqdm import tqdm

from elu_zoo import datasets
from elu_zoo.files import replacing
from elu_zoo.models import get_model_function
from training.data.stream import Stream
from training.engine import checkpoint, device, runlog
from training.engine.steps import make_train_step, predict


def train(
    recipe_path,
    recipe,
    data_dir,
    out,
    *,
    precision=None,
    log_every=50,
    checkpoint_every=100,
    progress=True,
):
    """Runs a recipe, or goes on with the run in a folder.

    The run can be killed at any moment and started again with the same arguments; it
    ends with the same bits as if it had not been killed.

    Args:
        recipe_path: Path of the recipe's file, kept with the run.
        recipe: `Recipe`.
        data_dir: Folder of the data, see `elu_zoo.datasets`.
        out: Folder of the run. It receives `recipe.py`, `run.json` (settings, versions,
            hardware), `log.csv`, `curve.png`, TensorBoard events, `best.weights.h5`,
            `last.weights.h5` and `checkpoint.npz`.
        precision: Keras dtype policy; default by device.
        log_every: Steps between rows of the log.
        checkpoint_every: Steps between checkpoints, a multiple of `log_every`.
        progress: Whether to show a progress bar.

    Returns:
        A dict with the last row of the log and the best evaluation error.

    Raises:
        ValueError: If the folder holds a run of another recipe.
    """
    if checkpoint_every % log_every:
        raise ValueError(
            "Expected checkpoint_every to be a multiple of log_every. "
            f"Received: checkpoint_every={checkpoint_every}, log_every={log_every}"
        )
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for half_written in out.glob(".part.*"):
        half_written.unlink()
    precision = precision or device.default_precision()
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(recipe.seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()

    train_set = datasets.load(recipe.dataset, "train", data_dir)
    if recipe.holdout:
        train_set, eval_set = split_holdout(train_set, recipe.holdout)
    else:
        eval_set = datasets.load(recipe.dataset, "test", data_dir)
    stream = Stream(
        train_set,
        recipe.batch_size,
        recipe.augmentation,
        recipe.image_sizes,
        recipe.seed,
    )
    total = recipe.epochs * stream.steps_per_epoch

    model = build_model(recipe, train_set)
    optimizer = recipe.optimizer(recipe.learning_rate(total))
    optimizer.build(model.trainable_variables)
    groups = {"model": model.variables, "optimizer": optimizer.variables}
    settings = _settings(recipe, precision, len(train_set.images))
    state = {"step": 0, "best_error": None, "starts": 0, "settings": settings}
    file = out / "checkpoint.npz"
    if file.exists():
        state = checkpoint.restore(file, groups)
        _check_same(state["settings"], settings, out)
    else:
        adapt_preprocessing(model, train_set.images)
        if recipe.initialize:
            recipe.initialize(model, train_set.images)
    log = runlog.RunLog(out / "log.csv", state["step"])
    if state["step"] == total:
        return log.rows[-1] | {"best_error": state["best_error"]}
    state["starts"] += 1
    _write_facts(out, recipe_path, settings, state, train_set)

    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing
    )
    jit = device.default_jit()
    steps = {}
    clock = _Clock(log.seconds)
    window = []
    bar = tqdm(
        total=total * recipe.batch_size,
        initial=state["step"] * recipe.batch_size,
        unit=" images",
        unit_scale=True,
        desc=pathlib.Path(recipe_path).stem,
        disable=not progress,
    )
    batches = stream.batches(state["step"], total)
    with bar, contextlib.closing(batches):
        for batch in batches:
            size = batch.image_size
            if size not in steps:
                steps[size] = make_train_step(model, optimizer, loss, size, jit)
            window.append(steps[size](batch.images, batch.targets))
            state["step"] += 1
            step = state["step"]
            bar.update(recipe.batch_size)
            row = None
            if step % log_every == 0 or step == total:
                row = _train_row(window, recipe.batch_size, clock)
                bar.set_postfix(
                    loss=f"{row['train_loss']:.3f}", error=f"{row['train_error']:.1%}"
                )
                window = []
            evaluated = step == total or (
                recipe.holdout
                and step % (recipe.evaluate_every * stream.steps_per_epoch) == 0
            )
            if evaluated:
                row = (row or {}) | _evaluate(
                    recipe, model, optimizer, eval_set, out, state
                )
            if row:
                log.add(
                    step=step,
                    epoch=round(step / stream.steps_per_epoch, 4),
                    learning_rate=float(optimizer.learning_rate),
                    seconds=clock.seconds(),
                    **row,
                )
            if evaluated or step % checkpoint_every == 0:
                checkpoint.save(file, groups, state)
            if evaluated:
                runlog.plot(log.rows, out / "curve.png", _title(recipe))
                runlog.write_events(log.rows, out)
    return log.rows[-1] | {"best_error": state["best_error"]}


def build_model(recipe, dataset):
    """The recipe's model, giving logits."""
    shape = dataset.images.shape[1:]
    if recipe.image_sizes:
        shape = (None, None, shape[-1])
    return get_model_function(recipe.model)(
        **{
            "classes": len(dataset.class_names),
            "input_shape": shape,
            **recipe.model_arguments,
            "classifier_activation": None,
        }
    )


def adapt_preprocessing(model, images):
    """Lets the model's preprocessing layers learn their statistics from images."""
    layers = [x for x in model.layers if x.name.startswith("preprocessing")]
    for layer in layers:
        if hasattr(layer, "adapt"):
            layer.adapt(images)
        if layer is not layers[-1]:
            images = predict(keras.Sequential([layer]), images)


def split_holdout(dataset, count):
    """Splits off the same `count` examples in every run, whatever its seed."""
    order = np.random.default_rng(20160210).permutation(len(dataset.images))
    return dataset[np.sort(order[count:])], dataset[np.sort(order[:count])]


def _train_row(window, batch_size, clock):
    losses, corrects = zip(*window, strict=True)
    count = len(window) * batch_size
    return {
        "train_loss": float(np.mean([float(x) for x in losses])),
        "train_error": 1 - sum(int(x) for x in corrects) / count,
        "images_per_second": round(count / clock.lap(), 1),
    }


def _evaluate(recipe, model, optimizer, dataset, out, state):
    with averaged(model, optimizer):
        logits = predict(model, dataset.images)
        shifted = logits - logits.max(-1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        own = log_probabilities[np.arange(len(logits)), dataset.labels]
        error = float(np.mean(logits.argmax(-1) != dataset.labels))
        with replacing(out / "last.weights.h5") as part:
            model.save_weights(part)
        if state["best_error"] is None or error < state["best_error"]:
            state["best_error"] = error
            with replacing(out / "best.weights.h5") as part:
                model.save_weights(part)
    return {"eval_loss": float(-own.mean()), "eval_error": error}


@contextlib.contextmanager
def averaged(model, optimizer):
    """Has the model use the optimizer's averaged weights, if it keeps any."""
    values = [np.asarray(variable) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value)


class _Clock:
    """Seconds of training, without those between a kill and the restart."""

    def __init__(self, seconds):
        self._before = seconds
        self._start = self._lap = time.monotonic()

    def seconds(self):
        return round(self._before + time.monotonic() - self._start, 1)

    def lap(self):
        last, self._lap = self._lap, time.monotonic()
        return self._lap - last


def _settings(recipe, precision, examples):
    fields = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if not callable(getattr(recipe, field.name)) and field.name != "augmentation"
    }
    fields["image_sizes"] = {str(k): v for k, v in recipe.image_sizes.items()}
    fields["model_arguments"] = dict(recipe.model_arguments)
    fields["eval_split"] = "holdout" if recipe.holdout else "test"
    fields |= {"precision": precision, "train_examples": examples}
    return json.loads(json.dumps(fields))


def _check_same(before, now, out):
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        raise ValueError(
            f"Expected {out} to be empty or to hold a run with the same settings. "
            + "; ".join(
                f"Received: {k}={now[k]!r}, there {before.get(k)!r}" for k in differing
            )
            + ". Use another folder for --out."
        )


def _write_facts(out, recipe_path, settings, state, dataset):
    if state["starts"] == 1:
        shutil.copyfile(recipe_path, out / "recipe.py")
    facts = {
        "recipe": pathlib.Path(recipe_path).name,
        "settings": settings,
        "input_shape": dataset.images.shape[1:],
        "class_names": dataset.class_names,
        "starts": state["starts"],
        "commit": _commit(),
        "machine": device.description(),
    }
    with replacing(out / "run.json") as part:
        part.write_text(json.dumps(facts, indent=2) + "\n")


def _commit():
    folder = pathlib.Path(__file__).parent
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True
    )
    return result.stdout.strip() or None


def _title(recipe):
    split = "held-out images" if recipe.holdout else "test set"
    return f"{recipe.model} on {recipe.dataset}, evaluated on the {split}"
