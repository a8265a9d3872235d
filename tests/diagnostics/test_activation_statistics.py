"""Statistics against NumPy."""

import csv

import keras
import numpy as np
import pytest

import elu_zoo
from elu_zoo.diagnostics import ActivationStatistics

BACKEND = keras.backend.backend()


def array(x):
    return keras.ops.convert_to_numpy(x).astype("float64")


class Snapshots(keras.callbacks.Callback):
    """The weights before and after each update."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_begin(self, batch, logs=None):
        self.weights.append([array(w) for w in self.model.weights])

    def on_train_end(self, logs=None):
        self.weights.append([array(w) for w in self.model.weights])


def test_statistics_against_numpy(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3),
            elu_zoo.layers.ELU(name="first"),
            keras.layers.Conv2D(2, 4, activation="relu", name="second"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6, 6, 1)).astype("float32") * 3
    sample = x[:10]
    statistics = ActivationStatistics(
        sample, every=3, filename=tmp_path / "a.csv", log_dir=tmp_path / "logs"
    )
    snapshots = Snapshots()
    model.fit(
        x,
        rng.integers(0, 3, 24),
        batch_size=4,
        epochs=2,
        shuffle=False,
        callbacks=[snapshots, statistics],
        verbose=0,
    )
    assert [r["step"] for r in statistics.rows] == [0, 0, 3, 3, 6, 6, 9, 9]
    assert [r["epoch"] for r in statistics.rows] == [0, 0, 0, 0, 1, 1, 1, 1]
    for row in statistics.rows:
        before, after = snapshots.weights[row["step"] : row["step"] + 2]
        expected = reference(before, after, sample, row["layer"])
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, rel=2e-3, abs=1e-6), key
    assert statistics.units["first"]["bias_shift"].shape == (2,)
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["mean"]) for r in rows] == [r["mean"] for r in statistics.rows]
    assert list((tmp_path / "logs").glob("events*"))


def convolve(x, kernel):
    size = kernel.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return np.einsum("nijcab,abcu->niju", windows, kernel)


def activations(weights, x):
    first = convolve(x.astype("float64"), weights[0]) + weights[1]
    first = np.where(first > 0, first, np.expm1(np.minimum(first, 0)))
    second = np.maximum(convolve(first, weights[2]) + weights[3], 0)
    return {"first": first, "second": second}


def reference(before, after, x, layer):
    old, new = (activations(weights, x)[layer] for weights in (before, after))
    # Only the next layer's mean input differs between these two.
    if layer == "first":
        nets = [convolve(a, after[2]).mean((0, 1, 2)) for a in (old, new)]
        saturated = old + 1 < 0.05
        saturated &= old < 0
    else:
        nets = [(a.reshape(len(a), -1) @ after[4]).mean(0) for a in (old, new)]
        saturated = old == 0
    means = old.mean((0, 1, 2))
    return {
        "mean": means.mean(),
        "median_mean": np.median(means),
        "variance": old.var((0, 1, 2)).mean(),
        "saturated": saturated.mean(),
        "bias_shift": np.sqrt(np.square(nets[1] - nets[0]).mean()),
    }


def test_statistics_of_a_network_of_the_package_in_low_precision():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = elu_zoo.ELUNet11(width=0.05, classes=3, batch_normalization=True)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    statistics = ActivationStatistics(x, every=2, layers=["stack2_activation1"])
    model.fit(x, np.arange(8) % 3, 4, epochs=2, verbose=0, callbacks=[statistics])
    (first, second) = statistics.rows
    assert (first["step"], second["step"]) == (0, 2)
    assert 0 < first["bias_shift"] < 1


def test_layers_without_an_elementwise_activation():
    model = keras.Sequential(
        [
            keras.Input((40,)),
            keras.layers.Dense(3, "elu", name="inner"),
            keras.layers.Dense(4, "softmax", name="outer"),
        ]
    )
    model.compile("sgd", "mse")
    x, y = np.zeros((2, 40)), np.zeros((2, 4))
    with pytest.raises(elu_zoo.errors.UserError, match="some of .'inner'.*'outer'"):
        model.fit(x, y, callbacks=[ActivationStatistics(x, layers=["outer"])])
    with pytest.raises(elu_zoo.errors.UserError, match="every=0"):
        ActivationStatistics(x, every=0)


def test_after_an_interruption_each_row_is_written_once(tmp_path):
    def interrupt(batch, logs):
        raise KeyboardInterrupt

    model = elu_zoo.MNISTClassifier(width=0.1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, file = np.zeros((4, 28, 28, 1)), tmp_path / "a.csv"
    statistics = ActivationStatistics(x, every=1, filename=file)
    stop = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, np.arange(4), callbacks=[statistics, stop], verbose=0)
    model.fit(x, np.arange(4), callbacks=[statistics], verbose=0)
    with open(file, newline="") as opened:
        assert len(list(csv.DictReader(opened))) == len(statistics.rows) > 8
