"""Every recipe file: what it says it costs, the paper's numbers, and that it runs."""

import csv
import json
import math
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import elu_zoo
from elu_zoo.architectures import ARCHITECTURES, FC
from training.engine.descriptions import describe
from training.engine.recipe import dropout_steps, load_recipe, smoke

ROOT = pathlib.Path(__file__).parents[2]
PATHS = sorted((ROOT / "training/recipes").glob("*.py"))
NAMES = [path.stem for path in PATHS]
EXAMPLES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "imagenet2012_256": 1_281_167,
    "mnist": 60_000,
    "tiny_imagenet": 100_000,
}
KEYS = {
    "MNISTClassifier": "mnist_classifier",
    "MNISTAutoencoder": "mnist_autoencoder",
}
SIZES = {"cifar10": 32, "cifar100": 32, "mnist": 28, "tiny_imagenet": 64}
CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "imagenet2012_256": 1000,
    "mnist": 10,
    "tiny_imagenet": 200,
}

# Small CIFAR images: the whitening of 32×32 pixels alone takes seconds.
SMOKE = """
import pathlib, sys
import numpy as np
from elu_zoo import get_record
from training.data import sources
from training.data.memory import MemoryDataset
from training.engine import device
from training.engine.loop import train
from training.engine.recipe import load_recipe, smoke

out, *paths = map(pathlib.Path, sys.argv[1:])
shapes = {
    "cifar10": (16, 16, 3),
    "cifar100": (16, 16, 3),
    "imagenet2012_256": (224, 224, 3),
    "mnist": (28, 28, 1),
    "tiny_imagenet": (64, 64, 3),
}
for path in paths:
    recipe = smoke(load_recipe(path))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, *shapes[recipe.dataset]), "uint8")
    names = tuple("abcde")
    if recipe.teacher:
        names = get_record(recipe.teacher.weights).class_names
    data = MemoryDataset(images, np.arange(40) % 5, names)
    sources.load = lambda *arguments, data=data: data
    train(path, recipe, out, out / path.stem, precision="float32", log_every=1,
          checkpoint_every=2, progress=False)
"""


def recipe_of(name):
    return load_recipe(ROOT / f"training/recipes/{name}.py")


def multiply_adds(architecture, size, classes, width=1.0, strides=None):
    """Of one image, from the paper's table alone."""
    strides = strides or (2 if architecture is ARCHITECTURES["elunet15"] else 1)
    side, channels, vector, total = size, 3, None, 0
    for index, stack in enumerate(architecture.stacks):
        output = index == len(architecture.stacks) - 1
        for count, units, field in stack:
            units = classes if output else max(1, round(units * width))
            for _ in range(count):
                if field == FC and vector is None:
                    cells = sum(n * n for n in (4, 2, 1))
                    vector = channels * cells if total else size**2
                if field == FC or output:
                    total += (vector or channels) * units
                    vector = units
                    continue
                if total == 0:
                    side = math.ceil(side / strides)
                total += side**2 * field**2 * channels * units
                channels = units
        following = architecture.stacks[index + 1 :]
        if following and following[0][0][2] != FC:
            side = math.ceil(side / 2)
    return total


def image_flop(recipe, size):
    """Of a training step, an image: forward, and twice as much backward."""
    arguments = recipe.model_arguments
    return 6 * multiply_adds(
        ARCHITECTURES[KEYS.get(recipe.model, recipe.model.lower())],
        size,
        # Of an autoencoder, its pixels.
        28**2 if recipe.model == "MNISTAutoencoder" else CLASSES[recipe.dataset],
        arguments.get("width", 1.0),
        arguments.get("stem_strides"),
    )


def steps_per_epoch(recipe):
    return EXAMPLES[recipe.dataset] // recipe.batch_size


def total_steps(recipe):
    return recipe.epochs * steps_per_epoch(recipe)


def sizes_of_epochs(recipe):
    firsts = {k % recipe.epochs: size for k, size in recipe.image_sizes.items()}
    sizes = {0: SIZES.get(recipe.dataset), **firsts}
    return [
        sizes[max(first for first in sizes if first <= epoch)]
        for epoch in range(recipe.epochs)
    ]


@pytest.mark.parametrize(
    "function, size, arguments",
    [
        (elu_zoo.ELUNet11, 24, {"width": 0.3}),
        (elu_zoo.ELUNet18, 32, {"width": 0.1}),
        (elu_zoo.ELUNet15, 60, {"width": 0.1}),
        (elu_zoo.ELUNet15, 48, {"width": 0.1, "stem_strides": 1}),
    ],
)
def test_multiply_adds_are_those_of_the_model(function, size, arguments):
    model = function(input_shape=(size, size, 3), classes=20, **arguments)
    expected = sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    )
    architecture = ARCHITECTURES[function.__name__.lower()]
    strides, width = arguments.get("stem_strides"), arguments["width"]
    assert multiply_adds(architecture, size, 20, width, strides) == expected


def test_the_paper_counts_as_many_multiply_adds():
    # It says 1.45 G; the difference is the borders, which "same" padding keeps.
    count = multiply_adds(ARCHITECTURES["elunet18"], 32, 100)
    assert count == pytest.approx(1.45e9, rel=0.05)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_the_docstring_tells_command_cost_and_result(path):
    recipe = load_recipe(path)
    text = " ".join(path.read_text().split('"""')[1].split())
    command = f"python -m training.train training/recipes/{path.name} --data DIR"
    assert command in text and "Result:" in text
    costs = re.findall(
        r"([\d.]+) GFLOP per image and training step at (\d+) pixels", text
    )
    assert costs
    for cost, size in costs:
        expected = image_flop(recipe, int(size)) / 1e9
        assert float(cost) == pytest.approx(expected, rel=0.006)
    whole = float(re.search(r"([\d.]+) PFLOP in total", text)[1])
    images = steps_per_epoch(recipe) * recipe.batch_size
    expected = sum(
        image_flop(recipe, size) * images for size in sizes_of_epochs(recipe)
    )
    assert whole == pytest.approx(expected / 1e15, rel=0.02)
    step = re.search(r"([\d.]+) ([GT])FLOP per step", text)
    if step:
        flop = float(step[1]) * {"G": 1e9, "T": 1e12}[step[2]]
        (size,) = set(sizes_of_epochs(recipe))
        expected = recipe.batch_size * image_flop(recipe, size)
        assert flop == pytest.approx(expected, rel=0.006)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_its_description_does_not_depend_on_the_process(path):
    recipes = [load_recipe(path) for _ in range(2)]
    one, other = (json.dumps(describe(list(r.augmentation))) for r in recipes)
    assert one == other and " at 0x" not in one


@pytest.mark.parametrize(
    "name, iterations, rates",
    [
        (
            "elunet11_cifar100_paper",
            165_000,
            {0: 0.01, 35_000: 0.005, 85_000: 0.0005, 135_000: 0.00005},
        ),
        ("elunet18_cifar100_paper", 165_000, {0: 0.01, 35_000: 0.001}),
        ("elunet18_cifar10_paper", 165_000, {0: 0.01, 35_000: 0.001}),
    ],
)
def test_the_papers_training(name, iterations, rates):
    recipe = recipe_of(name)
    assert recipe.batch_size == 100 and recipe.l2 == 0.0005
    assert total_steps(recipe) == iterations
    assert recipe.model_arguments["preprocessing"] == "gcn_zca"
    assert recipe.model_arguments["kernel_initializer"] == "he_normal"
    schedule = recipe.learning_rate(iterations)
    for begin, end in zip(rates, [*list(rates)[1:], iterations], strict=True):
        for step in (begin, end - 1):
            rate = float(schedule(keras.ops.array(step, "int32")))
            assert rate == pytest.approx(rates[begin], rel=1e-6)
    optimizer = recipe.optimizer(schedule)
    assert type(optimizer) is keras.optimizers.SGD
    assert optimizer.momentum == 0.9 and not optimizer.nesterov
    assert not optimizer.weight_decay and not optimizer.use_ema


def test_dropout_changes_after_a_share_of_a_run_of_any_length():
    recipe = recipe_of("elunet11_cifar100")
    first, second = recipe.dropout.values()
    for steps in (100, 5_265, 8_776):
        assert dropout_steps(recipe.dropout, steps) == {0: first, steps // 2: second}
    with pytest.raises(ValueError, match=r"below 1. Received: \[0.5\]"):
        dropout_steps({0.5: 0.1}, 100)
    with pytest.raises(ValueError, match="75000"):
        dropout_steps({0: 0.1, 75000: 0.2}, 100_000)


def test_the_papers_dropout_of_the_11_layers():
    dropout = recipe_of("elunet11_cifar100_paper").model_arguments["dropout"]
    assert list(dropout) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0]


@pytest.mark.parametrize("name", ["elunet18_cifar100_paper", "elunet18_cifar10_paper"])
def test_the_papers_fine_tuning_of_the_18_layers(name):
    recipe = recipe_of(name)
    layers, rates = [1, 4, 4, 3, 3, 2, 1], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0]
    steps = dropout_steps(recipe.dropout, total_steps(recipe))
    (_, before), (tuned, during), (stronger, end) = steps.items()
    assert (tuned, stronger, total_steps(recipe)) == (75_000, 125_000, 165_000)
    assert before == rates
    for stack, (count, rate) in enumerate(zip(layers, rates, strict=True)):
        assert during[stack] == [rate] * count
        np.testing.assert_allclose(end[stack], [1.5 * rate] * count)


def test_the_papers_imagenet():
    recipe = recipe_of("elunet15_imagenet_paper")
    assert recipe.model_arguments["dropout"] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert recipe.l2 == 0.0005 and set(sizes_of_epochs(recipe)) == {224}
    assert recipe.augmentation[0].resize == 256
    seconds_an_iteration = 12.15 * 3600 / 10_000
    flop = recipe.batch_size * image_flop(recipe, 224)
    assert flop / seconds_an_iteration == pytest.approx(3.6e12, rel=0.01)


def run_small(paths, out):
    """Runs recipes in small; returns the folder of their runs and what they said."""
    result = subprocess.run(
        [sys.executable, "-c", SMOKE, out, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return out, result.stderr


# One of each network and kind; the others repeat these in all but numbers.
QUICK = [
    ROOT / f"training/recipes/{name}.py"
    for name in (
        *("elunet11_cifar100", "elunet15_imagenet_paper", "elunet18_cifar100_paper"),
        "mnist_autoencoder",
    )
]
SLOW = [path for path in PATHS if path not in QUICK]


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory):
    return run_small(QUICK, tmp_path_factory.mktemp("smoke"))


def test_a_smoke_run_takes_another_batch_size():
    recipe = smoke(recipe_of("elunet11_cifar100"), batch_size=32)
    assert (recipe.batch_size, recipe.examples) == (32, 64)


@pytest.mark.parametrize("path", QUICK, ids=[path.stem for path in QUICK])
def test_the_smoke_variant_runs_to_its_end(smoke_runs, path):
    check_smoke(path, *smoke_runs)


@pytest.mark.slow
@pytest.mark.parametrize("path", SLOW, ids=[path.stem for path in SLOW])
def test_the_smoke_variant_of_another_recipe_runs_to_its_end(tmp_path, path):
    check_smoke(path, *run_small([path], tmp_path))


def check_smoke(path, out, errors):
    assert (out / path.stem / "last.weights.h5").is_file(), errors
    recipe = load_recipe(path)
    settings = json.loads((out / path.stem / "run.json").read_text())["settings"]
    assert settings["model"] == recipe.model
    assert settings["l2"] == recipe.l2
    assert list(settings["image_sizes"].values()) == list(recipe.image_sizes.values())
    assert len(settings["dropout"]) == len(recipe.dropout)
    with (out / path.stem / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= max(2, len(recipe.dropout), len(recipe.image_sizes))
    assert all(math.isfinite(float(row["train_loss"])) for row in rows)
