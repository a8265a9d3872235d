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
import datetime
import json
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elu_zoo.errors import UserError
from training import hub
from training.commands import parse, parser, positive
from training.finished_runs import evaluated, find_temperature, load_finished
from training.rendering import render
from training.run_records import (
    about_file,
    about_initial,
    about_model,
    about_run,
    architecture_of,
)
from training.summary import error_text, main_error, over_seeds

if TYPE_CHECKING:
    import keras

    from training.engine.run import Run

ROOT = pathlib.Path(__file__).parents[1]
# Metrics that the record keeps.
METRICS = (
    *("n", "error", "error_interval", "top5_error", "loss", "calibration_error"),
    *("reconstruction_error", "unexplained_variance"),
)
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
        "of the run's evaluations); training.benchmarks.evaluation_size finds the best",
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

    finished = load_finished(run)
    model_name, _, tag = name.partition(".")
    key, _ = architecture_of(finished)
    if model_name != key or not tag:
        raise UserError(
            f"Expected a name like {key}.<tag> for this run. Received: {name!r}"
        )
    test = finished.load_data("test", data)
    side, _, channels = finished.facts["input_shape"]
    shape = (image_size or side, image_size or side, channels)
    temperature, calibrated_on = find_temperature(
        finished, holdout_run, weights, data, shape
    )
    model, content, metrics = evaluated(
        finished, name, weights, test, shape, temperature
    )
    manifest = _read_manifest(pretrained)
    before = manifest["weights"].get(name)
    initial = about_initial(finished, before)
    record = {
        **about_file(name, content),
        **about_model(finished, model, shape),
        "preprocessing": test.preprocessing(shape[0]),
        "temperature": temperature,
        "calibrated_on": calibrated_on,
        **about_run(finished, name, initial),
        "metrics": {key: metrics[key] for key in METRICS if key in metrics},
        "published": datetime.date.today().isoformat(),
        "limited_by": limited_by,
    }

    manifest["weights"][name] = record
    if initial:
        keep_initial(results / name)
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


def keep_initial(results: pathlib.Path) -> None:
    """Moves the results of the initial weights to a folder of their own.

    Args:
        results: Folder of the results of the weights.
    """
    part = results / f".{INITIAL}"
    part.mkdir(exist_ok=True)
    for path in list(results.iterdir()):
        # These weights may have started from others in turn.
        if path.is_file() or path.name == INITIAL:
            path.rename(part / path.name)
    part.rename(results / INITIAL)


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
    finished = load_finished(run)
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
    _, _, metrics = evaluated(finished, name, weights, test, shape, temperature)
    _write_results(finished, metrics, results / name / f"seed-{seed}")
    others = record.get("other_seeds", [])
    record["other_seeds"] = sorted(
        [*others, {"seed": seed, "error": main_error(metrics)}],
        key=lambda x: x["seed"],
    )
    _write_manifest(manifest, pretrained, results)
    return record


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
