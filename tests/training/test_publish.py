"""From made-up images to weights that a stranger loads from a server."""

import functools
import http.server
import importlib
import json
import os
import pathlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import launch
import numpy as np
import pytest
from PIL import Image

import elu_zoo
from elu_zoo.errors import UserError
from training import finished_runs
from training.data.memory import MemoryDataset
from training.engine.run import Run
from training.publish import keep_initial
from training.run_records import about_initial

ROOT = pathlib.Path(__file__).parents[2]

RECIPE = """
import keras
from training.engine.recipe import Recipe

recipe = Recipe(
    model="ELUNet15",
    model_arguments={"width": 0.02, "stem_strides": 1, "dropout": [0, 0, 0, 0, 0.3]},
    dataset="image_folder",
    batch_size=10,
    epochs=6,
    learning_rate=lambda steps: keras.optimizers.schedules.CosineDecay(2e-3, steps),
    optimizer=lambda schedule: keras.optimizers.AdamW(schedule),
)
"""


def write_images(folder, size=24):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for name, color in (("red", 0), ("green", 1), ("blue", 2)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 120, (size, size, 3))
                image[..., color] += 120
                file = folder / split / name / f"{i}.png"
                Image.fromarray(image.astype("uint8")).save(file)


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def command(module, *arguments):
    """The outcome of a command, in this process."""
    main = importlib.import_module(module).main
    status, errors = launch.outcome(main, *arguments)
    return SimpleNamespace(returncode=status, stderr=errors)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("publish")
    write_images(folder / "data")
    (folder / "tiny15.py").write_text(RECIPE)
    result = command(
        *("training.train", folder / "tiny15.py", "--quiet"),
        *("--data", folder / "data", "--out", folder / "run"),
    )
    assert result.returncode == 0, result.stderr
    result = command(
        *("training.publish", folder / "run", "--name", "elunet15.imagenet"),
        *("--data", folder / "data", "--pretrained", folder / "pretrained"),
        *("--results", folder / "results"),
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_record_card_and_results(published):
    manifest = json.loads((published / "pretrained/manifest.json").read_text())
    record = manifest["weights"]["elunet15.imagenet"]
    file = published / "pretrained" / record["file"]
    assert file.stat().st_size == record["bytes"]
    assert record["arguments"] == {"width": 0.02, "stem_strides": 1, "classes": 3}
    assert record["class_names"] == ["blue", "green", "red"]
    assert record["metrics"]["n"] == 15
    card = (published / "pretrained/cards/elunet15.imagenet.md").read_text()
    assert f"| test error | {record['metrics']['error']:.2%} |" in card
    names = {p.name for p in (published / "results/elunet15.imagenet").iterdir()}
    assert names == {
        *("recipe.txt", "run.json", "log.csv", "curve.svg", "evaluation.json")
    }


def test_a_stranger_loads_them_from_a_server(published, tmp_path):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        functools.partial(
            http.server.SimpleHTTPRequestHandler, directory=published / "pretrained"
        ),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The manifest alone, as in an installed package; the weights are on the server.
    (tmp_path / "manifest.json").write_bytes(
        (published / "pretrained/manifest.json").read_bytes()
    )
    code = (
        "import sys, numpy as np, elu_zoo\n"
        "from elu_zoo.datasets import load\n"
        "model = elu_zoo.ELUNet15(weights='imagenet')\n"
        "test = load('image_folder', 'test', sys.argv[1])\n"
        "p = model.predict(test.images, verbose=0)\n"
        "print(float(np.mean(p.argmax(-1) != test.labels)))\n"
        "print(elu_zoo.decode_predictions(p, top=1, model='elunet15.imagenet')[0])\n"
        "new = elu_zoo.ELUNet15(weights='imagenet', classes=5)\n"
        "print(new.output_shape)\n"
    )
    try:
        result = python(
            *("-c", code, published / "data"),
            ELU_ZOO_MANIFEST=str(tmp_path / "manifest.json"),
            ELU_ZOO_MIRROR=f"http://127.0.0.1:{server.server_port}",
            KERAS_HOME=str(tmp_path / "keras"),
        )
    finally:
        server.shutdown()
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    manifest = json.loads((published / "pretrained/manifest.json").read_text())
    metrics = manifest["weights"]["elunet15.imagenet"]["metrics"]
    assert float(lines[-3]) == metrics["error"]
    assert any(name in lines[-2] for name in ("blue", "green", "red"))
    assert lines[-1] == "(None, 5)"


def test_another_seed_then_publishing_again(published):
    def publish(run, *more):
        return command(
            *("training.publish", published / run, "--name", "elunet15.imagenet"),
            *("--data", published / "data", "--pretrained", published / "pretrained"),
            *("--results", published / "results", *more),
        )

    def record():
        manifest = json.loads((published / "pretrained/manifest.json").read_text())
        return manifest["weights"]["elunet15.imagenet"]

    first = record()
    again = publish("run", "--another-seed")
    assert again.returncode == 1 and "a seed other than [0]" in again.stderr
    for out, more in (("run-1", ()), ("longer", ("--epochs", 7))):
        result = command(
            *("training.train", published / "tiny15.py", "--quiet", *more),
            *("--data", published / "data", "--out", published / out, "--seed", 1),
        )
        assert result.returncode == 0, result.stderr
    longer = publish("longer", "--another-seed")
    assert longer.returncode == 1 and "'epochs': 7" in longer.stderr
    assert record() == first

    result = publish("run-1", "--another-seed")
    assert result.returncode == 0, result.stderr
    figures = published / "results/elunet15.imagenet/seed-1/evaluation.json"
    errors = [first["metrics"]["error"], json.loads(figures.read_text())["error"]]
    assert record() == first | {"other_seeds": [{"seed": 1, "error": errors[1]}]}
    card = (published / "pretrained/cards/elunet15.imagenet.md").read_text()
    stated = f"{np.mean(errors):.2%} ± {np.std(errors, ddof=1):.2%} (mean ± standard"
    assert stated in " ".join(card.split())
    assert f"| test error | {errors[0]:.2%} |" in card

    assert publish("run").returncode == 0
    assert record() == first
    assert len(list((published / "pretrained").glob("*.weights.h5"))) == 1
    assert not figures.parent.exists()

    result = publish(
        *("longer", "--limited-by", "Its few images limit it.", "--image-size", 32)
    )
    assert result.returncode == 0, result.stderr
    # The network takes any size; this is its best.
    assert record()["input_shape"] == [None, None, 3]
    assert record()["preprocessing"]["crop"] == 32
    result = python(
        *("-m", "elu_zoo", "evaluate", "elunet15.imagenet", "--json"),
        *("--data", published / "data"),
        ELU_ZOO_MANIFEST=str(published / "pretrained/manifest.json"),
        ELU_ZOO_MIRROR=str(published / "pretrained"),
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["input_shape"] == [32, 32, 3]
    card = (published / "pretrained/cards/elunet15.imagenet.md").read_text()
    assert "## Limits\n\nIts few images limit it.\n" in card
    assert (
        "elunet15.imagenet/recipe.txt --seed 1 --epochs 7 --data DIR --out RUN\n"
        in card
    )
    assert "resized from 24×24 to 32×32" in " ".join(card.split())
    assert "--data DIR --image-size 32\n" in card


def test_a_run_from_published_weights(published):
    """Without a learning rate, it ends with the weights that it started from."""
    records = published / "pretrained/manifest.json"
    before = json.loads(records.read_text())["weights"]["elunet15.imagenet"]
    weights = published / "pretrained" / before["file"]
    still = RECIPE.replace("CosineDecay(2e-3, steps)", "CosineDecay(0.0, steps)")
    recipe = still.replace("epochs=6", f"epochs=1, initial_weights='{weights}'")
    (published / "still.py").write_text(recipe)
    result = command(
        *("training.train", published / "still.py", "--quiet"),
        *("--data", published / "data", "--out", published / "still"),
    )
    assert result.returncode == 0, result.stderr
    result = command(
        *("training.publish", published / "still", "--name", "elunet15.imagenet"),
        *("--data", published / "data", "--pretrained", published / "pretrained"),
        *("--results", published / "results"),
    )
    assert result.returncode == 0, result.stderr
    after = json.loads(records.read_text())["weights"]["elunet15.imagenet"]
    assert after["sha256"] == before["sha256"]
    kept = {key: before["training"][key] for key in ("epochs", "seconds", "flop")}
    assert after["training"]["initial"] == {"file": weights.name} | kept
    log = published / "results/elunet15.imagenet/initial/log.csv"
    assert len(log.read_text().splitlines()) > 1
    card = (published / "pretrained/cards/elunet15.imagenet.md").read_text()
    assert f"started from weights published before, `{weights.name}`" in " ".join(
        card.split()
    )

    weights.rename(weights.with_name("elsewhere"))
    result = command(
        *("training.train", published / "still.py", "--quiet"),
        *("--data", published / "data", "--out", published / "without"),
    )
    assert result.returncode == 2 and weights.name in result.stderr


def test_weights_that_started_from_weights_that_started_from_others(tmp_path):
    own = {"epochs": 1, "seconds": 10.0, "flop": 1e12}
    before = {"file": "b.weights.h5", "training": own | {"initial": own}}
    run = SimpleNamespace(settings={"initial_weights": "x/b.weights.h5"})
    assert about_initial(run, before) == {
        "file": "b.weights.h5",
        **{"epochs": 2, "seconds": 20.0, "flop": 2e12},
    }
    for name in ("first", "second"):
        (tmp_path / "log.csv").write_text(name)
        keep_initial(tmp_path)
    assert (tmp_path / "initial/log.csv").read_text() == "second"
    assert (tmp_path / "initial/initial/log.csv").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--name", "elunet11.imagenet"), "elunet15.<tag>"),
        (("--name", "elunet15.x", "--weights", "best"), "choose by the test set"),
    ],
)
def test_what_must_not_be_published(published, arguments, message):
    result = command(
        *("training.publish", published / "run", *arguments),
        *("--data", published / "data", "--pretrained", published / "pretrained"),
        *("--results", published / "results"),
    )
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


def test_no_run_no_weights(tmp_path):
    result = command(
        "training.publish", tmp_path, "--name", "elunet11.x", "--data", tmp_path
    )
    assert result.returncode == 1
    assert "log.csv" in result.stderr and "Traceback" not in result.stderr


def test_an_evaluation_finds_out_first_that_it_cannot_be_written(tmp_path):
    result = command(
        *("training.evaluate", tmp_path, "--data", tmp_path),
        *("--out", tmp_path / "no folder/figures.json"),
    )
    assert result.returncode == 1
    assert "no folder" in result.stderr and "log.csv" not in result.stderr
    assert "Traceback" not in result.stderr


def kept_run(folder, recipe=RECIPE, **settings):
    folder.mkdir()
    (folder / "recipe.py").write_text(recipe)
    plain = {"seed": 0, "epochs": 6, "holdout": 0, "batch_size": 10, "rate_factor": 1.0}
    return Run(folder, {"settings": plain | settings}, [])


@pytest.mark.parametrize(
    "differing",
    [{"holdout": 0}, {"epochs": 7}, {"recipe": RECIPE.replace("2e-3", "1e-3")}],
)
def test_held_out_images_have_to_be_of_the_same_recipe(tmp_path, differing):
    run = kept_run(tmp_path / "run")
    good = kept_run(tmp_path / "good", "# A comment.\n" + RECIPE, holdout=9, seed=1)
    assert finished_runs.same_recipe(run, good) is good
    other = kept_run(tmp_path / "other", **{"holdout": 9} | differing)
    with pytest.raises(UserError, match="only in --holdout and --seed"):
        finished_runs.same_recipe(run, other)


def test_the_temperature_makes_up_for_too_much_confidence(monkeypatch):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5000, 4)) * 2
    odds = np.exp(logits)
    labels = odds.cumsum(-1) > rng.random((5000, 1)) * odds.sum(-1, keepdims=True)
    confident = odds**2.5 / (odds**2.5).sum(-1, keepdims=True)
    held_out = MemoryDataset(confident, labels.argmax(-1), tuple("abcd"))
    monkeypatch.setattr(MemoryDataset, "predict", lambda self, model: self.images)
    run = SimpleNamespace(
        settings={"model": "ELUNet11", "holdout": 5000},
        load_data=lambda split, folder: {"holdout": held_out}[split],
        build_model=lambda weights, shape: None,
    )
    arguments = (None, "last", "DIR", (32, 32, 3))
    temperature, count = finished_runs.find_temperature(run, *arguments)
    assert temperature == pytest.approx(2.5, rel=0.05) and count == 5000
    model = elu_zoo.ELUNet11(classes=4, width=0.05)
    found = finished_runs.metrics_at(model, held_out, temperature)
    assert (
        found["calibration_error"] < 0.02 < found["uncalibrated"]["calibration_error"]
    )
    assert elu_zoo.get_record(model).temperature == temperature
    run.settings["holdout"] = 0
    assert finished_runs.find_temperature(run, *arguments) == (1.0, 0)
