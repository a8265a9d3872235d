"""Finished runs: changes to the recipe, temperature, and metrics of their weights."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from elu_zoo.errors import UserError
from training.commands import RATE_SCALING
from training.engine import dependencies, device
from training.engine.recipe import OPTIONS, load_recipe

if TYPE_CHECKING:
    import keras

    from training.data.protocol import Examples
    from training.engine.run import Run


def load_finished(folder: str | pathlib.Path) -> Run:
    """Loads a run that has to be finished.

    Args:
        folder: Its folder.

    Returns:
        The run.

    Raises:
        UserError: If it was stopped before its last step.
    """
    from training.engine.run import load_run

    run = load_run(folder)
    if not run.facts["finished"]:
        raise UserError(
            f"Expected a finished run. Received: {folder}, which was stopped after "
            f"step {run.rows[-1]['step'] if run.rows else 0}. Run its command again."
        )
    return run


def recipe_changes(run: Run) -> dict[str, Any]:
    """Finds the fields of the recipe that options of the command changed.

    Args:
        run: The run.

    Returns:
        Their values in the run.

    Raises:
        UserError: If no rule of `--rate-scaling` explains the learning rate.
    """
    recipe = load_recipe(run.folder / "recipe.py")
    changes = {
        name: run.settings[name]
        for name in OPTIONS
        if run.settings[name] != getattr(recipe, name)
    }
    ratio = run.settings["batch_size"] / recipe.batch_size
    factor = run.settings["rate_factor"]
    for scaling in ("linear", "none", "sqrt"):
        if RATE_SCALING[scaling](ratio) == factor:
            return changes | ({} if scaling == "linear" else {"rate_scaling": scaling})
    raise UserError(
        f"Expected the learning rate to be scaled by one of {list(RATE_SCALING)}. "
        f"Received: a factor of {factor} for a batch {ratio} times as large"
    )


def same_recipe(run: Run, held_out: Run) -> Run:
    """Checks that a run with held-out images differs in nothing but its seed.

    Args:
        run: The run whose weights are published.
        held_out: The run with held-out images.

    Returns:
        `held_out`.

    Raises:
        UserError: If it held nothing out, or is of a different recipe.
    """
    same = {"seed": 0, "holdout": 0}
    if (
        not held_out.settings["holdout"]
        or recipe_changes(run) | same != recipe_changes(held_out) | same
        or dependencies.changed(_recipe_of(run), _recipe_of(held_out))
    ):
        raise UserError(
            f"Expected a run of the recipe in {run.folder} that differs only in "
            f"--holdout and --seed. Received: {held_out.folder}, with "
            f"{recipe_changes(held_out)}, there {recipe_changes(run)}"
        )
    return held_out


def _recipe_of(run: Run) -> dict[str, str]:
    return {dependencies.RECIPE: (run.folder / "recipe.py").read_text("utf-8")}


def find_temperature(
    run: Run,
    holdout_run: str | pathlib.Path | None,
    weights: str,
    data: str | pathlib.Path,
    shape: Sequence[int],
) -> tuple[float, int]:
    """Fits the temperature on held-out images.

    Args:
        run: The run whose weights are published.
        holdout_run: Folder of a finished run of the same recipe with held-out images;
            default `run`, if it held images out.
        weights: `"last"` or `"best"`.
        data: Folder of the data sets.
        shape: Shape of an image.

    Returns:
        The temperature and the number of images; 1 and 0 if none were held out.
    """
    from elu_zoo.architectures import reconstructs
    from elu_zoo.predictions import fit_temperature

    if reconstructs(run.settings["model"]):
        return 1.0, 0
    if holdout_run is not None:
        run = same_recipe(run, load_finished(holdout_run))
    if not run.settings["holdout"]:
        return 1.0, 0
    held_out = run.load_data("holdout", data)
    outputs = held_out.predict(run.build_model(weights, shape))
    return round(fit_temperature(outputs, held_out.labels), 3), len(held_out)


def evaluated(
    run: Run,
    name: str,
    weights: str,
    test: Examples,
    shape: Sequence[int],
    temperature: float,
) -> tuple[keras.Model, bytes, dict[str, Any]]:
    """Evaluates a run's weights as they are published, rounded.

    Args:
        run: The run.
        name: Name of the weights.
        weights: `"last"` or `"best"`.
        test: The test images.
        shape: Shape of an image.
        temperature: Temperature of the probabilities.

    Returns:
        The model with rounded weights, the content of their file, and their metrics.

    Raises:
        UserError: If `"best"` would choose by the test set.
    """
    from elu_zoo._weight_files import load_weights, save_weights

    if weights == "best" and not run.settings["holdout"]:
        raise UserError(
            "Expected a run with held-out images for its best weights. This run would "
            "choose by the test set; use the last weights."
        )
    model = run.build_model(weights, shape)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "rounded.weights.h5"
        save_weights(model, file)
        load_weights(model, file)
        content = file.read_bytes()
    facts = {"name": name, "split": "test", "machine": device.description()}
    return model, content, facts | metrics_at(model, test, temperature)


def metrics_at(
    model: keras.Model, test: Examples, temperature: float
) -> dict[str, Any]:
    """Measures a model's metrics at a temperature, which its record gets.

    Args:
        model: Model with a record.
        test: The test images.
        temperature: Temperature of the probabilities.

    Returns:
        The metrics; unless the temperature is 1, with those at 1 as `uncalibrated`.
    """
    from elu_zoo.evaluation import measure
    from elu_zoo.predictions import probabilities
    from elu_zoo.records import attach_record
    from elu_zoo.weights import get_record

    if temperature == 1:
        return test.evaluate(model)
    outputs = test.predict(model)

    def at(value: float) -> dict[str, Any]:
        record = dataclasses.replace(get_record(model), temperature=value)
        attach_record(model, record)
        return measure(probabilities(outputs, model), test.labels, test.class_names)

    before = at(1.0)
    uncalibrated = {key: before[key] for key in ("loss", "calibration_error")}
    return at(temperature) | {"uncalibrated": uncalibrated}
