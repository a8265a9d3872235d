import contextlib
import time

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
from publishing import assert_equal, values

from elu_zoo import _weight_files


def network(units=4, classes=3, dropout=0.0, dtype=None, name="network", extra=False):
    with keras_policy(dtype or "float32"):
        x = inputs = keras.Input((5,))
        x = keras.layers.Normalization(name="preprocessing", mean=1.0, variance=2.0)(x)
        x = keras.layers.Dense(units, name="first")(x)
        x = keras.layers.BatchNormalization(name="norm")(x)
        if extra:
            x = keras.layers.Dense(units, name="extra")(x)
        x = keras.layers.Dropout(dropout, name="dropout")(x) if dropout else x
        x = keras.layers.Dense(classes, name="predictions")(x)
        return keras.Model(inputs, x, name=name)


@contextlib.contextmanager
def keras_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fill(model, seed):
    """Weights that bfloat16 can hold, so that rounding changes nothing."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.integers(-128, 128, variable.shape) / 64
        variable.assign(value.astype("float32"))
    return model


def save_plainly(model, path):
    model.save_weights(path)


@pytest.mark.parametrize("save", [_weight_files.save_weights, save_plainly])
@pytest.mark.parametrize("dropouts", [(0.0, 0.5), (0.5, 0.0), (0.5, 0.5)])
def test_round_trip(tmp_path, save, dropouts):
    path = tmp_path / "a.weights.h5"
    source = fill(network(dropout=dropouts[0]), 0)
    save(source, path)
    target = fill(network(dropout=dropouts[1], name="other"), 1)
    _weight_files.load_weights(target, path)
    assert_equal(values(target), values(source))


def test_frozen_layers_and_the_state_of_an_optimizer(tmp_path):
    path = tmp_path / "a.weights.h5"
    source = network()
    source.compile("adam", "mse", metrics=["mae"])
    source.fit(np.ones((4, 5)), np.ones((4, 3)), verbose=0)
    source.save_weights(path)
    with h5py.File(path) as file:
        assert "optimizer" in file
    target = fill(network(), 1)
    target.trainable = False
    _weight_files.load_weights(target, path)
    assert_equal(values(target), values(source))


@pytest.mark.parametrize("save", [_weight_files.save_weights, save_plainly])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_half_precision(tmp_path, save, dtype):
    path = tmp_path / "a.weights.h5"
    source = fill(network(dtype=dtype), 0)
    save(source, path)
    for target in (network(dtype=dtype), network()):
        _weight_files.load_weights(target, path)
        assert_equal(values(target), values(source))


def test_more_than_ten_variables_in_a_layer(tmp_path):
    class Many(keras.layers.Layer):
        def build(self, shape):
            for i in range(12):
                self.add_weight(shape=(i + 1,), name=f"w{i}")

        def call(self, x):
            return x

    def build():
        inputs = keras.Input((1,))
        return keras.Model(inputs, Many(name="many")(inputs))

    source = fill(build(), 0)
    _weight_files.save_weights(source, tmp_path / "a.weights.h5")
    target = fill(build(), 1)
    _weight_files.load_weights(target, tmp_path / "a.weights.h5")
    assert_equal(values(target), values(source))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"units": 3},
            r"first: \[\(5, 4\), \(4,\)\] in the file, \[\(5, 3\), \(3,\)\]",
        ),
        ({"classes": 2}, "1 layers differ: predictions"),
        ({"extra": True}, "extra: not in the file"),
    ],
)
def test_a_misfit_assigns_nothing(tmp_path, arguments, message):
    path = tmp_path / "a.weights.h5"
    _weight_files.save_weights(fill(network(), 0), path)
    target = fill(network(**arguments), 1)
    before = values(target)
    with pytest.raises(ValueError, match=message):
        _weight_files.load_weights(target, path)
    assert_equal(values(target), before)

    _weight_files.save_weights(target, path)
    smaller = fill(network(), 2)
    before = values(smaller)
    with pytest.raises(ValueError, match="layers differ"):
        _weight_files.load_weights(smaller, path)
    assert_equal(values(smaller), before)


def test_skip(tmp_path):
    path = tmp_path / "a.weights.h5"
    source = fill(network(), 0)
    _weight_files.save_weights(source, path)
    target = fill(network(classes=2), 1)
    before = values(target)
    _weight_files.load_weights(target, path, skip=["pred", "preprocessing"])
    expected = {
        key: (before if key[0] == "predictions" else values(source))[key]
        for key in before
    }
    assert_equal(values(target), expected)


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "a.weights.h5"
    with pytest.raises(ValueError, match="cannot be read"):
        _weight_files.load_weights(network(), path)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be read"):
        _weight_files.load_weights(network(), path)
    _weight_files.save_weights(network(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        _weight_files.load_weights(network(), path)


def test_file_without_layer_names(tmp_path):
    path = tmp_path / "a.weights.h5"
    network().save_weights(path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    with pytest.raises(ValueError, match="Keras 3.6"):
        _weight_files.load_weights(network(), path)


def test_links_to_other_files_are_not_followed(tmp_path):
    path, other = tmp_path / "a.weights.h5", tmp_path / "b.weights.h5"
    network().save_weights(path)
    network().save_weights(other)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(
            str(other), "/layers/dense/vars/0"
        )
    with pytest.raises(ValueError, match="first"):
        _weight_files.load_weights(network(), path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        file.create_dataset(
            "layers/dense/vars/0", (5, 4), "float32", external=[(other, 0, 80)]
        )
    with pytest.raises(ValueError, match="no links.*dense/vars/0"):
        _weight_files.load_weights(network(), path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        layout = h5py.VirtualLayout((5, 4), "float32")
        layout[:] = h5py.VirtualSource(other, "layers/dense/vars/0", (5, 4))
        file.create_virtual_dataset("layers/dense/vars/0", layout)
    with pytest.raises(ValueError, match="no links.*dense/vars/0"):
        _weight_files.load_weights(network(), path)


def test_shapes_are_compared_before_anything_is_read(tmp_path):
    path = tmp_path / "a.weights.h5"
    network().save_weights(path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        # 2 PB, none of them stored.
        file.create_dataset("layers/dense/vars/0", (1 << 29, 1 << 20), chunks=True)
    with pytest.raises(ValueError, match="first: .*536870912"):
        _weight_files.load_weights(network(), path)


def test_saved_files(tmp_path):
    model = network(units=9000, dropout=0.5)
    first, second, plain = (tmp_path / f"{i}.weights.h5" for i in range(3))
    _weight_files.save_weights(model, first)
    model.get_layer("dropout").seed_generator.next()
    time.sleep(1.1)  # HDF5 can store times, in seconds.
    _weight_files.save_weights(model, second)
    assert first.read_bytes() == second.read_bytes()
    model.save_weights(plain)
    assert first.stat().st_size < 0.75 * plain.stat().st_size
    assert sorted(tmp_path.iterdir()) == [first, second, plain]

    loaded = network(units=9000, dropout=0.5)
    loaded.load_weights(first)
    for key, value in values(model).items():
        expected = value.astype(ml_dtypes.bfloat16).astype("float32")
        np.testing.assert_array_equal(values(loaded)[key], expected)

    with pytest.raises(ValueError, match="weights.h5.*a.h5"):
        _weight_files.save_weights(model, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_rounding_to_bfloat16():
    exponents = np.arange(2, 254, dtype="uint32") << 23
    mantissas = np.uint32(
        [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x10000, 0x18000, 0x17FFF, 0x7FFFFF]
    )
    positive = (exponents[:, None] | mantissas).ravel().view("float32")
    x = np.concatenate([positive, -positive])
    rounded = _weight_files.round_to_bfloat16(x)
    assert rounded.dtype == np.float32
    assert not (rounded.view("uint32") & 0xFFFF).any()
    # In float64: 8 significant bits, ties to even.
    wide = x.astype("float64")
    step = 2.0 ** (np.floor(np.log2(np.abs(wide))) - 7)
    np.testing.assert_array_equal(rounded, np.rint(wide / step) * step)

    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(_weight_files.round_to_bfloat16(special), special)
    assert _weight_files.round_to_bfloat16(np.float32(1.003)).shape == ()
    np.testing.assert_array_equal(_weight_files.round_to_bfloat16([1, 257]), [1, 257])
