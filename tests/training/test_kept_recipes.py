"""The recipes kept with the results are those of the runs, and can be run again."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras.src import backend

from training.data.memory import MemoryDataset
from training.engine import provenance
from training.engine.inputs import image_shape, make_stream
from training.engine.model import build_model
from training.engine.recipe import OPTIONS, dropout_steps, load_recipe, smoke
from training.engine.strategy import Placement

ROOT = pathlib.Path(__file__).parents[2]
PATHS = sorted((ROOT / "docs/results").glob("**/recipe.txt"))
NAMES = [str(path.parent.relative_to(ROOT / "docs/results")) for path in PATHS]


@pytest.fixture(autouse=True)
def convolution(monkeypatch):
    """Keras's convolution, back after the recipe that replaces it by its own."""
    monkeypatch.setattr(backend.nn, "conv", backend.nn.conv)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_it_has_the_settings_of_the_run(path):
    kept = json.loads(path.with_name("run.json").read_text())["settings"]
    recipe = load_recipe(path, **{name: kept[name] for name in OPTIONS})
    steps = recipe.epochs * (kept["train_examples"] // recipe.batch_size)
    given = (kept["precision"], kept["rate_factor"], kept["train_examples"])
    dropout = dropout_steps(recipe.dropout, steps)
    settings = provenance.settings_of(recipe, *given, dropout)
    assert settings == {key: kept.get(key) for key in settings}


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_all_its_parts_are_made(path):
    recipe = smoke(load_recipe(path))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (recipe.examples, 32, 32, 3), "uint8")
    data = MemoryDataset(images, np.arange(recipe.examples) % 4, tuple("abcd"))
    shape = image_shape(data, recipe)
    model = build_model(recipe, 4, shape)
    optimizer = recipe.optimizer(recipe.learning_rate(10))
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    json.dumps(provenance.resolved(recipe, optimizer))
    if recipe.initialize:
        recipe.initialize(model, images)
    stream = make_stream(data, recipe, Placement("none"))
    assert next(iter(stream.batches(0, 1))) is not None


def test_every_record_names_the_recipe_of_its_run():
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    for name, record in manifest["weights"].items():
        assert record["recipe"] == f"docs/results/{name}/recipe.txt"
        assert ROOT / record["recipe"] in PATHS
