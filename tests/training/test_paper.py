"""The paper's experiments: training of all seeds at once against plain NumPy."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import unittest.mock

import keras
import numpy as np
import pytest
from environment import on_backend
from made_up import write_cifar100

import elu_zoo
from elu_zoo.architectures import ARCHITECTURES, find_architecture
from training.engine import cost
from training.paper import depth, figure3, initialization, plots, runs, saturation
from training.paper.__main__ import FIGURES, main, read, write
from training.paper.experiment import Experiment
from training.paper.runs import replace_stacks
from training.paper.units import UNITS

ROOT = pathlib.Path(__file__).parents[2]
pytest.importorskip("jax", reason="needs jax")

# A linear network of two classes, so that NumPy's gradient is one line.
TRAIN = """
import json, pathlib, sys
import keras
import numpy as np
from keras import ops
from training.paper.ensemble import train_together

rng = np.random.default_rng(0)
images, labels = rng.normal(size=(22, 3)).astype("float32"), np.arange(22) % 2

def build():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))

def loss(outputs, images, labels):
    return ops.mean(keras.losses.sparse_categorical_crossentropy(
        labels, outputs, from_logits=True))

def run(name, epochs, seeds=(3, 5)):
    return train_together(
        build, loss, lambda forward, values: {"norm": ops.sum(values[0] ** 2)},
        images, labels, seeds=seeds, epochs=epochs, learning_rate=0.5, batch_size=4,
        checkpoint=pathlib.Path(sys.argv[1]) / name, checkpoint_every=1)

starts = []
for seed in (3, 5):
    keras.utils.set_random_seed(seed)
    starts.append(np.asarray(build().trainable_variables[0]).tolist())
whole = run("whole.npz", 3)
run("parts.npz", 1)
try:
    run("parts.npz", 3, seeds=(4, 5))
except ValueError as error:
    refused = str(error)
print(json.dumps({"starts": starts, "whole": whole, "resumed": run("parts.npz", 3),
                  "refused": refused}))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    result = subprocess.run(
        [sys.executable, "-c", TRAIN, tmp_path_factory.mktemp("runs")],
        cwd=ROOT,
        env=on_backend("jax"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("place, seed", list(enumerate([3, 5])))
def test_seeds_together_train_as_each_alone(results, place, seed):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(22, 3)).astype("float32"), np.arange(22) % 2
    kernel, bias = np.array(results["starts"][place]), np.zeros(2)
    for epoch in range(1, 4):
        order = np.random.default_rng([seed, epoch]).permutation(22)[:20]
        losses = []
        for numbers in order.reshape(5, 4):
            x, y = images[numbers].astype("float64"), np.eye(2)[labels[numbers]]
            scores = np.exp(x @ kernel + bias)
            p = scores / scores.sum(-1, keepdims=True)
            losses.append(-np.log((p * y).sum(-1)).mean())
            kernel = kernel - 0.5 * x.T @ (p - y) / 4
            bias = bias - 0.5 * (p - y).mean(0)
        (row,) = [
            row
            for row in results["whole"]
            if (row["seed"], row["epoch"]) == (seed, epoch)
        ]
        assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert row["norm"] == pytest.approx((kernel**2).sum(), rel=1e-5)


def test_a_resumed_run_is_the_same(results):
    assert results["resumed"] == results["whole"]
    assert "'seeds': [4, 5]" in results["refused"]


def test_a_figure_is_drawn_from_its_table(tmp_path):
    fields = ["variant", "seed", "epoch", "train_loss"]
    fields += ["activation_variance", "mean_activation", "test_error"]
    rows = [
        (unit, seed, epoch, epoch and 1 / epoch, 1 + seed, 0.5, 0.1)
        for unit in ("elu", "relu")
        for seed in (0, 1)
        for epoch in range(3)
    ]
    with (tmp_path / "figure2.csv").open("w", newline="") as file:
        csv.writer(file).writerows([fields, *rows])
    main(["figure2", "--draw", "--out", str(tmp_path)])
    text = (tmp_path / "figure2.svg").read_text()
    assert ">ELU<" in text and ">ReLU<" in text and ">LReLU<" not in text


def test_angles_are_drawn_by_epoch_and_by_layer(tmp_path):
    fields = ["variant", "seed", "epoch", "layer", "angle", "units", "test_error"]
    rows = [
        (f"elu{normalized}", 0, epoch, layer, 80 - layer, 16, 0.1)
        for normalized in ("", " with batch normalization")
        for epoch in (0, 1)
        for layer in (2, 3)
    ]
    with (tmp_path / "angles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([fields, *rows])
    main(["angles", "--draw", "--out", str(tmp_path)])
    text = (tmp_path / "angles.svg").read_text()
    assert text.count(">ELU<") == 1 and "dashed: batch normalization" in text


def test_an_autoencoder_is_drawn_at_each_rate(tmp_path):
    fields = ["variant", "seed", "epoch", "train_loss", "train_error", "test_error"]
    rows = [
        (f"{unit} {rate}", 0, epoch, 10, 20 - epoch, 21 - epoch)
        for unit in ("elu", "relu")
        for rate in figure3.RATES
        for epoch in range(3)
    ]
    with (tmp_path / "figure3.csv").open("w", newline="") as file:
        csv.writer(file).writerows([fields, *rows])
    main(["figure3", "--draw", "--out", str(tmp_path)])
    text = (tmp_path / "figure3.svg").read_text()
    assert all(f">learning rate {rate}<" in text for rate in figure3.RATES)
    assert "dashed: training" in text


def test_squared_errors_are_of_pixels_from_0_to_1():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 4, 4, 1), "uint8")
    outputs = rng.random((5, 16), "float32")
    expected = ((outputs - images.reshape(5, 16) / 255) ** 2).sum(1).mean()
    error = figure3.squared_error(outputs, images)
    assert float(error) == pytest.approx(expected, rel=1e-6)


def test_dots_say_which_networks_are_normalized(tmp_path):
    fields = ["variant", "seed", "step", "epoch", "train_loss", "error"]
    rows = [
        (f"relu{normalized}", 0, 10, 1.0, 4.5, 0.5)
        for normalized in ("", " with batch normalization")
    ]
    with (tmp_path / "activations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([fields, *rows])
    main(["activations", "--draw", "--out", str(tmp_path)])
    text = (tmp_path / "activations.svg").read_text()
    assert ">ReLU, normalized<" in text and "dashed: batch normalization" in text


@pytest.mark.parametrize(
    "figure, variant, label",
    [
        ("depth", "relu 5", "ReLU"),
        ("initialization", "he 11", "He"),
        ("activations", "gelu", "GELU"),
    ],
)
def test_recipes_as_parts_of_an_experiment(figure, variant, label, tmp_path):
    write_cifar100(tmp_path / "data", train=40, test=10)
    options = ["--quick", "--seeds", "1", "--variant", variant]
    for name in ("data", "runs", "out"):
        options += [f"--{name}", str(tmp_path / name)]
    main([figure, *options])
    with (tmp_path / f"out/{figure}_quick.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {variant}
    assert float(rows[-1]["train_loss"]) > 0 and 0 <= float(rows[-1]["error"]) <= 1
    assert f">{label}<" in (tmp_path / f"out/{figure}_quick.svg").read_text()


def test_a_run_that_diverges_ends_with_a_cross():
    fields = ("variant", "seed", "step", "train_loss")
    rows = [
        dict(zip(fields, row, strict=True))
        for row in [
            *[("elu 5", "0", "10", "5.5"), ("elu 5", "0", "20", "4.5")],
            *[("elu 5", "1", "10", "9.5"), ("elu 5", "1", "20", "nan")],
            *[("elu 5", "2", "10", "1e6"), ("elu 5", "2", "20", "inf")],
            *[("elu 5", "3", "30", "inf"), ("elu 11", "0", "10", "inf")],
        ]
    ]
    low, high = plots.loss_range(rows)
    assert (low, high) == pytest.approx((0.95 * 4.5, 2 * np.log(100)))
    axis = unittest.mock.Mock()
    plots.crosses(axis, rows, "elu 5", UNITS["elu"], "step", "train_loss", high)
    places = {place for place, _ in axis.plot.call_args_list}
    assert places == {(10.0, high), (30.0, high)}
    plots.crosses(axis, rows, "elu 5", UNITS["elu"], "step", "train_loss", 20.0)
    assert (10.0, 9.5) in {place for place, _ in axis.plot.call_args_list}


def test_he_for_hidden_layers_and_the_same_output_layer():
    models = []
    for start in ({}, {"kernel_initializer": "he_normal"}, {}):
        keras.utils.set_random_seed(0)
        models.append(elu_zoo.ELUNet11(width=0.2, input_shape=(16, 16, 3), **start))
    zoo, he, scaled = models
    runs.scale_hidden(2.0, None, scaled, None)
    for index, variable in enumerate(scaled.trainable_variables):
        expected = zoo if variable.path.startswith("predictions") else he
        np.testing.assert_allclose(
            *(variable, expected.trainable_variables[index]), rtol=1e-5, atol=1e-7
        )


def test_rows_are_kept_seed_by_seed_beside_those_of_others(tmp_path, monkeypatch):
    path, calls = tmp_path / "out/depth.csv", []

    def run(data_dir, folder, variant, seeds, quick):
        calls.append((variant, *seeds))
        if len(calls) == 2:  # Another process adds its rows.
            write(path, [*read(path), {"variant": "c", "seed": 0, "error": 0.25}])
        return [{"seed": seed, "error": 0.5} for seed in seeds]

    drawn = unittest.mock.Mock()
    experiment = Experiment("depth", ("a", "b", "c"), run, drawn)
    monkeypatch.setattr(depth, "experiment", experiment)
    options = ["depth", "--seeds", "2", "--variant", "a", "--variant", "b"]
    main([*options, "--data", "any", "--out", str(path.parent)])
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    rows = [tuple(row.values()) for row in read(path)]
    others = [("b", "0", "0.5"), ("a", "1", "0.5"), ("b", "1", "0.5")]
    assert rows == [("a", "0", "0.5"), ("c", "0", "0.25"), *others]
    assert drawn.call_args.args[0] == read(path)


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "expected --data DIR"),
        (["--data", "any", "--variant", "sigmoid"], "elu, leaky_relu.*sigmoid"),
        (["--draw"], "expected rows in .*figure2.csv"),
    ],
)
def test_mistakes_on_the_command_line(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["figure2", "--out", str(tmp_path), *options])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err.replace("'", ""))


@pytest.mark.parametrize("layers", depth.NETWORKS)
def test_networks_of_all_depths_cost_the_same(layers, monkeypatch):
    model, width, stacks = depth.NETWORKS[layers]
    if stacks:
        name, architecture = find_architecture(model)
        monkeypatch.setitem(ARCHITECTURES, name, architecture)  # Restored afterwards.
        replace_stacks(model, stacks)
        hidden = ARCHITECTURES[name].stacks[:-1]
        assert sum(count for stack in hidden for count, _, _ in stack) == layers
    settings = depth.SETTINGS | {"model": model, "model_arguments": {"width": width}}
    flop = cost.training_flop(settings | {"train_examples": 45_000}, (32, 32, 3), 100)
    assert flop / 1e12 == pytest.approx(depth.TFLOP, rel=0.02)


def test_an_initialization_keeps_the_second_moment_of_elu():
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    outputs = np.where(points > 0, points, np.expm1(points))
    moment = np.sum(weights * outputs**2) / np.sum(weights)
    assert moment == pytest.approx(0.645, abs=5e-4)
    assert initialization.KEEPING["config"]["scale"] == pytest.approx(1 / moment, 1e-3)


def test_inactive_units_pass_on_the_square_of_their_slope():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2000, 3))
    inputs = np.where(np.abs(inputs) < 0.01, 0.01, inputs)  # None crosses 0.
    noisy = inputs + 1e-4 * rng.normal(size=inputs.shape)
    inactive = inputs[inputs < 0]
    # The steep half of the last activation is that of active units.
    for activation, expected in (
        (lambda x: np.maximum(x, 0.1 * x), 0.01),
        (lambda x: np.maximum(x, 0), 0),
        (lambda x: np.where(x > 0, x, np.expm1(x)), np.mean(np.exp(2 * inactive))),
        (lambda x: np.where(x > 0, 9 * x, x), 1),
    ):
        share = float(saturation.passed_on(activation, inputs, noisy))
        assert share == pytest.approx(expected, rel=0.1)


def test_noise_is_a_multiple_of_each_units_deviation():
    rng = np.random.default_rng(0)
    inputs = (rng.normal(size=(20_000, 2)) * [1, 8] + [5, -3]).astype("float32")
    noise = saturation.NetInputNoise(0.5, seed=0)
    added = np.asarray(noise(inputs)) - inputs
    assert added.std(0) == pytest.approx([0.5, 4], rel=0.02)
    assert np.array_equal(np.asarray(noise(inputs)) - inputs, added)
    other = np.asarray(saturation.NetInputNoise(0.5, seed=1)(inputs)) - inputs
    assert abs(np.corrcoef(added[:, 0], other[:, 0])[0, 1]) < 0.03


def test_units_are_compared_by_seed(tmp_path):
    pytest.importorskip("scipy", reason="needs SciPy")
    fields = ["variant", "seed", "step", "epoch", "train_loss", "error"]
    rows = [
        (variant, seed, 10 * epoch, epoch, 1 / epoch, error + 0.01 * seed / epoch)
        for variant, error in (("elu", 0.2), ("relu with batch normalization", 0.3))
        for seed in range(6)
        for epoch in (1, 2)
    ]
    with (tmp_path / "figure4.csv").open("w", newline="") as file:
        csv.writer(file).writerows([fields, *rows])
    main(["figure4", "--draw", "--out", str(tmp_path)])
    text = (tmp_path / "figure4.svg").read_text()
    assert text.count(">ELU<") == 1 and "dashed: batch normalization" in text
    with (tmp_path / "figure4_tests.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    # Six pairs with the same sign: p = 2 / 2**6.
    assert (row["pairs"], row["difference"], row["p"]) == ("6", "0.1", "0.03125")


@pytest.mark.slow
@pytest.mark.skipif(
    "ELU_ZOO_DATA" not in os.environ,
    reason="needs the real data sets in the folder of ELU_ZOO_DATA",
)
@pytest.mark.parametrize("figure", FIGURES)
def test_a_quick_try(figure, tmp_path):
    backend = FIGURES[figure] or "tensorflow"
    options = ["--data", os.environ["ELU_ZOO_DATA"], "--out", tmp_path]
    options += ["--runs", tmp_path / "runs"]
    result = subprocess.run(
        [sys.executable, "-m", "training.paper", figure, "--quick", "--seeds", "1"]
        + [str(option) for option in options],
        cwd=ROOT,
        env=on_backend(backend),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / f"{figure}_quick.svg").stat().st_size > 1000
