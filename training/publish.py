r"""Publishes a finished run: evaluates it, records it, and renders the record.

    python -m training.publish RUN --name elunet15.imagenet --data DIR

The weights are rounded to bfloat16, compressed, evaluated on the test split, and
written with their record and card to the folder `pretrained`. Log, curve, recipe and
metrics go to `docs/results/NAME`. Weights of the same name are replaced.

    python -m training.publish RUN --name elunet15.imagenet --data DIR \
        --holdout-run RUN2

With `--holdout-run`, the command calibrates the probabilities: it fits the temperature
on the images that RUN2, a run of the same recipe with `--holdout`, held out of its
training. If RUN itself held images out, it fits the temperature on these.

    python -m training.publish RUN --name elunet15.imagenet --data DIR --another-seed

With `--another-seed`, it adds the metrics of a run that differs only in its seed, so
that the card states mean and standard deviation; the weights of that run are not kept.

    python -m training.publish --name elunet15.imagenet --to-hub OWNER/NAME

With `--to-hub`, it uploads published weights with record, card and results to the
Hugging Face Hub, as the user of HF_TOKEN or `hf auth login`; given RUN and `--data`, it
publishes them first.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import math
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elu_zoo.errors import UserError
from training import hub
from training.commands import RATE_SCALING, parse, parser, positive
from training.engine import dependencies, device
from training.engine.recipe import OPTIONS, load_recipe
from training.rendering import render
from training.summary import error_text, main_error, over_seeds

if TYPE_CHECKING:
    import keras

    from elu_zoo.architectures import Architecture
    from training.data.protocol import Examples
    from training.engine.run import Run

ROOT = pathlib.Path(__file__).parents[1]
# Metrics that the record keeps.
METRICS = (
    *("n", "error", "error_interval", "top5_error", "loss", "calibration_error"),
    *("reconstruction_error", "unexplained_variance"),
)
# Largest weights file in the installed package; larger ones are fetched.
MAX_BYTES = 20_000_000
# Folder of the results of the weights that a run started from, beside its own.
INITIAL = "initial"
# Files of a run to keep, by the names that they are given.
RUN_FILES = {
    "recipe.py": "recipe.txt",
    "run.json": "run.json",
    "log.csv": "log.csv",
    "curve.svg": "curve.svg",
}


def _options() -> argparse.ArgumentParser:
    options = parser("training.publish", __doc__)
    options.add_argument("run", nargs="?", help="folder of the run")
    options.add_argument(
        "--name", required=True, help="model.tag, such as elunet15.imagenet"
    )
    options.add_argument("--data", help="folder of the data sets")
    options.add_argument(
        "--weights",
        default="last",
        choices=["last", "best"],
        help="which of the run's weights; best only if it held images out",
    )
    options.add_argument(
        "--another-seed",
        action="store_true",
        help="add only the metrics to those of the published weights",
    )
    options.add_argument(
        "--image-size",
        type=positive,
        metavar="SIDE",
        help="image size that the weights are for and are evaluated at (default: that "
        "of the data set); training.benchmarks.evaluation_size finds the best",
    )
    options.add_argument(
        "--limited-by", metavar="TEXT", help="what limits the error, for the card"
    )
    options.add_argument(
        "--holdout-run",
        metavar="RUN2",
        help="run of the same recipe whose held-out images calibrate the weights",
    )
    options.add_argument(
        "--to-hub", metavar="OWNER/NAME", help="upload to this repository of the Hub"
    )
    options.add_argument("--pretrained", type=pathlib.Path, default=ROOT / "pretrained")
    options.add_argument("--results", type=pathlib.Path, default=ROOT / "docs/results")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    options = _options()
    arguments = vars(parse(options, argv))
    another_seed, repository = arguments.pop("another_seed"), arguments.pop("to_hub")
    about_weights = {
        name: arguments.pop(name)
        for name in ("image_size", "limited_by", "holdout_run")
    }
    if another_seed and any(about_weights.values()):
        options.error(
            "--image-size, --limited-by and --holdout-run go with the weights, not "
            "with another seed"
        )
    if not (arguments["run"] and arguments["data"]) and (
        another_seed or not repository
    ):
        options.error("expected RUN and --data DIR, or --to-hub OWNER/NAME")
    try:
        if another_seed:
            _print(arguments["name"], add_seed(**arguments))
        elif arguments["run"]:
            _print(arguments["name"], publish(**arguments, **about_weights))
        if repository:
            places = (arguments["pretrained"], arguments["results"])
            print(hub.upload(arguments["name"], repository, *places))
    except (UserError, OSError) as error:
        sys.exit(f"training.publish: {error}")


def _print(name: str, record: Mapping[str, Any]) -> None:
    print(
        f"{name}: {record['file']}, {record['bytes'] / 1e6:.1f} MB, test "
        f"error {error_text(record['metrics'])}, seeds {over_seeds(record)[2]}"
    )


def publish(
    run: str | pathlib.Path,
    name: str,
    data: str | pathlib.Path,
    weights: str = "last",
    image_size: int | None = None,
    limited_by: str | None = None,
    holdout_run: str | pathlib.Path | None = None,
    pretrained: pathlib.Path = ROOT / "pretrained",
    results: pathlib.Path = ROOT / "docs/results",
) -> dict[str, Any]:
    """Publishes a finished run, see the module's docstring.

    Args:
        run: Folder of a finished run.
        name: Name of the weights, `"<model>.<tag>"`.
        data: Folder of the data sets.
        weights: `"last"` or `"best"`.
        image_size: Side in pixels of the images that the weights are for; default that
            of the run's evaluations.
        limited_by: What limits the error, as a sentence of the card.
        holdout_run: Folder of a finished run of the same recipe with held-out images;
            default `run`, if it held images out.
        pretrained: Folder of the manifest, the weights files and the cards.
        results: Folder of the results.

    Returns:
        The new record of the manifest.

    Raises:
        UserError: If a run is not finished, the name does not fit its model, `"best"`
            would choose by the test set, `holdout_run` is of a different recipe, or the
            run started from weights other than those that it replaces.
    """
    from elu_zoo.files import replacing

    finished = _finished(run)
    model_name, _, tag = name.partition(".")
    key, _ = _architecture(finished)
    if model_name != key or not tag:
        raise UserError(
            f"Expected a name like {key}.<tag> for this run. Received: {name!r}"
        )
    test = finished.load_data("test", data)
    side, _, channels = finished.facts["input_shape"]
    shape = (image_size or side, image_size or side, channels)
    temperature, calibrated_on = _temperature(
        finished, holdout_run, weights, data, shape
    )
    model, content, metrics = _evaluated(
        finished, name, weights, test, shape, temperature
    )
    manifest = _read_manifest(pretrained)
    before = manifest["weights"].get(name)
    initial = _initial(finished, before)
    record = {
        **_about_file(name, content),
        **_about_model(finished, model, shape),
        "preprocessing": test.preprocessing(shape[0]),
        "temperature": temperature,
        "calibrated_on": calibrated_on,
        **_about_run(finished, name, initial),
        "metrics": {key: metrics[key] for key in METRICS if key in metrics},
        "published": datetime.date.today().isoformat(),
        "limited_by": limited_by,
    }

    manifest["weights"][name] = record
    if initial:
        _keep_initial(results / name)
    _write_results(finished, metrics, results / name)
    (pretrained / "reference").mkdir(parents=True, exist_ok=True)
    with replacing(pretrained / record["file"]) as part:
        part.write_bytes(content)
    with replacing(pretrained / "reference" / f"{name}.json") as part:
        part.write_text(json.dumps(reference_logits(model)) + "\n")
    _write_manifest(manifest, pretrained, results)
    # Last, since the old files are valid until the new record is on disk.
    for seed in (results / name).glob("seed-*"):
        shutil.rmtree(seed)
    if before and before["file"] != record["file"]:
        (pretrained / before["file"]).unlink(missing_ok=True)
    return record


def _architecture(run: Run) -> tuple[str, Architecture]:
    from elu_zoo.architectures import find_architecture

    found = find_architecture(run.settings["model"])
    assert found, run.settings["model"]  # The run has built it.
    return found


def _about_file(name: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {
        "file": f"{name}-{digest[:8]}.weights.h5",
        "sha256": digest,
        "bytes": len(content),
        "packaged": len(content) <= MAX_BYTES,
        "urls": [],
    }


def _about_model(
    run: Run, model: keras.Model, shape: tuple[int, int, int]
) -> dict[str, Any]:
    from training.engine.cost import multiply_adds

    name, side = run.settings["model"], run.facts["input_shape"][0]
    any_size = bool(_architecture(run)[1].pyramid_levels)
    return {
        "model": name,
        "arguments": run.arguments,
        # Without the statistics of the preprocessing; a ZCA matrix has nine million.
        "parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
        "multiply_adds": multiply_adds(model),
        "input_shape": [None, None, shape[-1]] if any_size else list(shape),
        # Side of the data set's images, if the weights are for a different one.
        "resized_from": side if shape[0] != side else None,
        "class_names": list(run.class_names),
    }


def _initial(run: Run, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the record says of the weights that a run started from."""
    path = run.settings.get("initial_weights")
    if not path:
        return {}
    file = pathlib.Path(path).name
    if before is None or before["file"] != file:
        raise UserError(
            "Expected a run that starts from the weights that it replaces. Received: "
            f"{path}, while {before and before['file']} are published"
        )
    kept = ("epochs", "seconds", "flop")
    return {"file": file, **{key: before["training"][key] for key in kept}}


def _keep_initial(results: pathlib.Path) -> None:
    """Moves the results of the initial weights to a folder of their own."""
    files = [path for path in results.iterdir() if path.is_file()]
    (results / INITIAL).mkdir()
    for path in files:
        path.rename(results / INITIAL / path.name)


def _about_run(run: Run, name: str, initial: Mapping[str, Any]) -> dict[str, Any]:
    from training.data.sources import CATALOGUE
    from training.engine.cost import training_flop

    settings, facts = run.settings, run.facts
    entry = CATALOGUE[settings["dataset"]]
    return {
        "dataset": {
            "name": settings["dataset"],
            "terms": entry.terms,
            "url": entry.url,
        },
        "license": "Apache-2.0; see the terms of the training data",
        "recipe": f"docs/results/{name}/recipe.txt",
        "recipe_changes": _changes(run),
        "commit": facts["commit"],
        "training": {
            "seed": settings["seed"],
            "epochs": settings["epochs"],
            "examples": settings["train_examples"],
            "precision": settings["precision"],
            "seconds": run.rows[-1]["seconds"],
            "flop": training_flop(
                settings, facts["input_shape"], run.arguments["classes"]
            ),
            "starts": facts["starts"],
            "machine": facts["machine"],
            **({"initial": initial} if initial else {}),
        },
    }


def add_seed(
    run: str | pathlib.Path,
    name: str,
    data: str | pathlib.Path,
    weights: str = "last",
    pretrained: pathlib.Path = ROOT / "pretrained",
    results: pathlib.Path = ROOT / "docs/results",
) -> dict[str, Any]:
    """Adds a run's metrics to the record of weights that differ only in the seed.

    Args:
        run: Folder of a finished run.
        name: Name of the published weights.
        data: Folder of the data sets.
        weights: `"last"` or `"best"`.
        pretrained: Folder of the manifest, the weights files and the cards.
        results: Folder of the results.

    Returns:
        The changed record of the manifest.

    Raises:
        UserError: If no such weights are published, or the run differs in more than
            its seed and precision, or its seed is there already.
    """
    finished = _finished(run)
    manifest = _read_manifest(pretrained)
    if name not in manifest["weights"]:
        raise UserError(
            "Expected the name of published weights, one of "
            f"{sorted(manifest['weights'])}. Received: {name!r}"
        )
    record = manifest["weights"][name]
    published = json.loads((results / name / "run.json").read_text())["settings"]
    differing = {
        key: value
        for key, value in finished.settings.items()
        if key in published.keys() - {"seed", "precision"} and published[key] != value
    }
    seed = finished.settings["seed"]
    if differing or seed in over_seeds(record)[2]:
        raise UserError(
            f"Expected a run with the settings of {name} and a seed other than "
            f"{over_seeds(record)[2]}. Received: {differing | {'seed': seed}}"
        )
    test = finished.load_data("test", data)
    side = record["preprocessing"]["crop"]
    shape = (side, side, record["input_shape"][-1])
    temperature = record.get("temperature", 1.0)
    _, _, metrics = _evaluated(finished, name, weights, test, shape, temperature)
    _write_results(finished, metrics, results / name / f"seed-{seed}")
    others = record.get("other_seeds", [])
    record["other_seeds"] = sorted(
        [*others, {"seed": seed, "error": main_error(metrics)}],
        key=lambda x: x["seed"],
    )
    _write_manifest(manifest, pretrained, results)
    return record


def _finished(folder: str | pathlib.Path) -> Run:
    from training.engine.run import load_run

    run = load_run(folder)
    if not run.facts["finished"]:
        raise UserError(
            f"Expected a finished run. Received: {folder}, which was stopped after "
            f"step {run.rows[-1]['step'] if run.rows else 0}. Run its command again."
        )
    return run


def _changes(run: Run) -> dict[str, Any]:
    """The fields of the recipe that options of the command changed."""
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


def _temperature(
    run: Run,
    holdout_run: str | pathlib.Path | None,
    weights: str,
    data: str | pathlib.Path,
    shape: Sequence[int],
) -> tuple[float, int]:
    """The temperature fitted on held-out images, if any, and their number."""
    from elu_zoo.architectures import reconstructs
    from elu_zoo.predictions import fit_temperature

    if reconstructs(run.settings["model"]):
        return 1.0, 0
    if holdout_run is not None:
        run = _same_recipe(run, _finished(holdout_run))
    if not run.settings["holdout"]:
        return 1.0, 0
    held_out = run.load_data("holdout", data)
    outputs = held_out.predict(run.build_model(weights, shape))
    return round(fit_temperature(outputs, held_out.labels), 3), len(held_out)


def _same_recipe(run: Run, held_out: Run) -> Run:
    """The run with held-out images; it must not differ in anything but its seed."""
    same = {"seed": 0, "holdout": 0}
    if (
        not held_out.settings["holdout"]
        or _changes(run) | same != _changes(held_out) | same
        or dependencies.changed(_recipe_of(run), _recipe_of(held_out))
    ):
        raise UserError(
            f"Expected a run of the recipe in {run.folder} that differs only in "
            f"--holdout and --seed. Received: {held_out.folder}, with "
            f"{_changes(held_out)}, there {_changes(run)}"
        )
    return held_out


def _recipe_of(run: Run) -> dict[str, str]:
    return {dependencies.RECIPE: (run.folder / "recipe.py").read_text("utf-8")}


def _evaluated(
    run: Run,
    name: str,
    weights: str,
    test: Examples,
    shape: Sequence[int],
    temperature: float,
) -> tuple[keras.Model, bytes, dict[str, Any]]:
    """The model with rounded weights, their file's content, and their metrics."""
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
    return model, content, facts | _metrics(model, test, temperature)


def _metrics(model: keras.Model, test: Examples, temperature: float) -> dict[str, Any]:
    """The metrics at a temperature, which the model's record gets."""
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


def _write_results(run: Run, metrics: Mapping[str, Any], folder: pathlib.Path) -> None:
    from elu_zoo.files import replacing

    folder.mkdir(parents=True, exist_ok=True)
    for file, kept in RUN_FILES.items():
        shutil.copyfile(run.folder / file, folder / kept)
    with replacing(folder / "evaluation.json") as part:
        part.write_text(json.dumps(metrics) + "\n")


def _read_manifest(pretrained: pathlib.Path) -> dict[str, Any]:
    path = pretrained / "manifest.json"
    if path.is_file():
        return json.loads(path.read_text())
    return {"format": 1, "base_url": None, "weights": {}}


def _write_manifest(
    manifest: dict[str, Any], pretrained: pathlib.Path, results: pathlib.Path
) -> None:
    """Writes the manifest and what is rendered from it."""
    from elu_zoo.files import replacing

    with replacing(pretrained / "manifest.json") as part:
        part.write_text(json.dumps(manifest, indent=1) + "\n")
    readme = ROOT / "README.md" if pretrained == ROOT / "pretrained" else None
    render(manifest, pretrained, results, readme)


def reference_logits(model: keras.Model) -> list[list[float]]:
    """Computes the logits of the reference images.

    Args:
        model: Model of `elu_zoo`.

    Returns:
        Logits rounded to five decimals, one list per image.
    """
    import keras

    from elu_zoo.heads import HEAD
    from elu_zoo.reference import reference_images

    images = reference_images(model.input_shape[1:])
    head = keras.Model(model.input, model.get_layer(HEAD).output)
    return [
        [round(float(x), 5) for x in row] for row in head.predict(images, verbose=0)
    ]


if __name__ == "__main__":
    main()
