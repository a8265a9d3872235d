"""The argument `weights` of the models."""

import keras
import numpy as np
import pytest
from publishing import Zoo, assert_equal, record_of, values

import elu_zoo
from elu_zoo import _weight_files
from elu_zoo.errors import UserError

TINY = {"width": 0.04, "classes": 7, "preprocessing": "rescale", "activation": "relu"}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    return Zoo(tmp_path, monkeypatch)


@pytest.fixture
def tiny(zoo):
    model = elu_zoo.ELUNet11(**TINY, input_shape=(32, 32, 3))
    path = zoo.folder / "tiny.weights.h5"
    _weight_files.save_weights(model, path)
    _weight_files.load_weights(model, path)
    record = record_of(
        path.read_bytes(),
        model="ELUNet11",
        arguments=TINY,
        input_shape=[32, 32, 3],
        class_names=list("abcdefg"),
    )
    # An argument that the record does not name had its default.
    elu = record | {"arguments": {"classes": 7, "width": 0.04}}
    pyramid = elu | {"model": "ELUNet15"}
    zoo.publish(
        {
            "elunet11.tiny": record,
            "elunet18.other": record,
            "elunet11.elu": elu,
            "elunet15.pyramid": pyramid,
        }
    )
    zoo.put(zoo.package, path.read_bytes())
    return model


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")


def outputs(model):
    return keras.ops.convert_to_numpy(model(IMAGES))


@pytest.mark.parametrize("tag", ["tiny", "elunet11.tiny", "ELUNet11.Tiny", "path"])
def test_model_with_weights(zoo, tiny, capsys, tag):
    if tag == "path":
        model = elu_zoo.ELUNet11(weights=zoo.folder / "tiny.weights.h5", **TINY)
    else:
        model = elu_zoo.ELUNet11(weights=tag)
    assert_equal(values(model), values(tiny))
    np.testing.assert_allclose(outputs(model), outputs(tiny), rtol=1e-6)
    assert capsys.readouterr() == ("", "")


def test_other_classes(tiny, caplog):
    model = elu_zoo.ELUNet11(weights="tiny", classes=5)
    assert model.output_shape == (None, 5)
    (message,) = caplog.messages
    assert "your 5 classes" in message
    trunk = {k: v for k, v in values(tiny).items() if k[0] != "predictions"}
    found = values(model)
    assert found.pop(("predictions", 0)).std() > 0
    assert not found.pop(("predictions", 1)).any()
    assert_equal(found, trunk)


def test_classes_that_the_weights_know_start_from_theirs(tiny, caplog):
    model = elu_zoo.ELUNet11(weights="tiny", classes=["new", "F", "b"])
    assert elu_zoo.get_record(model).class_names == ("new", "F", "b")
    assert "except for 2 that" in caplog.text
    for number in (0, 1):
        old, new = (values(net)["predictions", number] for net in (tiny, model))
        np.testing.assert_array_equal(new[..., [1, 2]], old[..., [5, 1]])


def test_an_output_layer_of_zeros_starts_from_known_classes_alone(tiny):
    model = elu_zoo.ELUNet11(
        weights="tiny", classes=["new", "b"], kernel_initializer="zeros"
    )
    kernel, known = (values(net)["predictions", 0] for net in (model, tiny))
    np.testing.assert_array_equal(kernel[:, 1], known[:, 1])
    assert not kernel[:, 0].any()


def test_without_top_or_preprocessing(tiny):
    trunk = elu_zoo.ELUNet11(weights="tiny", include_top=False)
    expected = {k: v for k, v in values(tiny).items() if k[0] != "predictions"}
    assert_equal(values(trunk), expected)
    bare = elu_zoo.ELUNet11(weights="tiny", include_preprocessing=False)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(bare(IMAGES / np.float32(255))),
        outputs(tiny),
        rtol=1e-4,
    )


def test_preprocessing_with_statistics_can_be_left_out(zoo):
    arguments = {"width": 0.04, "classes": 7}
    full = elu_zoo.ELUNet11(**arguments)
    path = zoo.folder / "full.weights.h5"
    _weight_files.save_weights(full, path)
    bare = elu_zoo.ELUNet11(weights=path, include_preprocessing=False, **arguments)
    _weight_files.load_weights(full, path)
    expected = {k: v for k, v in values(full).items() if k[0] != "preprocessing"}
    assert_equal(values(bare), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weights": "tiny", "width": 0.5}, "made with width=0.04.*width=0.5"),
        ({"weights": "tiny", "width": 1.0}, "made with width=0.04.*width=1.0"),
        ({"weights": "tiny", "activation": "leaky_relu"}, "activation"),
        ({"weights": "elu", "activation": "relu"}, "activation='elu'.*'relu'"),
        ({"weights": "elu", "batch_normalization": True}, "batch_normalization=False"),
        ({"weights": "elu", "preprocessing": "rescale"}, "'standardize'.*'rescale'"),
        (
            {"weights": "imagenet"},
            r"have been published.*elunet11\.tiny.*training\.publish",
        ),
        ({"weights": "elunet18.other"}, "belong to a different model"),
        ({"weights": "tinny"}, "Did you mean elunet11.tiny"),
        ({"weights": "elunet11"}, "one name of"),
        ({"weights": "tiny", "input_shape": (32, 32, 2)}, "2 channels"),
        ({"weights": "none.weights.h5"}, "existing file"),
        ({"weights": "folder/none"}, "existing file"),
        ({"weights": 3}, "weights=3"),
    ],
)
def test_weights_that_do_not_fit(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        elu_zoo.ELUNet11(**arguments)


def test_a_pyramid_in_another_order_does_not_fit(tiny):
    with pytest.raises(ValueError, match=r"pyramid_levels=\(4, 2, 1\)"):
        elu_zoo.ELUNet15(weights="pyramid", pyramid_levels=(1, 2, 4))


def test_arguments_that_leave_the_weights_as_they_are(tiny):
    model = elu_zoo.ELUNet11(
        weights="tiny", dropout=0.1, kernel_initializer="he_normal", width=0.04
    )
    assert_equal(values(model), values(tiny))


def test_classes_that_are_given_start_anew_though_they_are_as_many(tiny):
    model = elu_zoo.ELUNet11(weights="tiny", classes=7)
    trunk = {k: v for k, v in values(tiny).items() if k[0] != "predictions"}
    found = values(model)
    assert not found.pop(("predictions", 1)).any()
    kernel = found.pop(("predictions", 0))
    assert not np.allclose(kernel, values(tiny)["predictions", 0])
    assert_equal(found, trunk)
    assert elu_zoo.get_record(model).class_names == ()


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("preprocessing", ["rescale", "standardize", "pixel_mean"])
def test_gray_images_give_what_their_rgb_copies_do(zoo, channels, preprocessing):
    arguments = {"width": 0.05, "classes": 7, "preprocessing": preprocessing}
    model = elu_zoo.ELUNet11(**arguments)
    rng = np.random.default_rng(0)
    elu_zoo.adapt_preprocessing(model, IMAGES * np.array([1, 0.7, 0.4]))
    model.get_layer("predictions").bias.assign(rng.normal(size=7))
    path = zoo.folder / "a.weights.h5"
    _weight_files.save_weights(model, path)
    _weight_files.load_weights(model, path)
    record = record_of(
        path.read_bytes(),
        model="ELUNet11",
        arguments=arguments,
        input_shape=[32, 32, 3],
        class_names=list("abcdefg"),
    )
    zoo.publish({"elunet11.a": record})
    zoo.put(zoo.package, path.read_bytes())
    other = elu_zoo.ELUNet11(weights="a", input_shape=(32, 32, channels))
    gray = IMAGES[..., :1]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(other(np.repeat(gray, channels, -1))),
        keras.ops.convert_to_numpy(model(np.repeat(gray, 3, -1))),
        rtol=1e-5,
    )
    assert elu_zoo.get_record(other).input_shape == (32, 32, channels)
    if channels == 1 and preprocessing == "pixel_mean":
        elu_zoo.adapt_preprocessing(other, gray)
        mean = keras.ops.convert_to_numpy(other.get_layer("preprocessing").mean)
        expected = np.repeat(gray.astype("float64").mean(0), 3, -1)
        np.testing.assert_allclose(mean, expected, rtol=1e-5)
    with pytest.raises(UserError, match=f"{channels} channels.*2 channels"):
        elu_zoo.adapt_preprocessing(other, IMAGES[..., :2])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_input_tensor_from_layers_with_weights(channels):
    """They keep their weights, and the network gets its own."""
    flat = keras.Input((32 * 32,))
    image = keras.layers.Reshape((32, 32, 1))(flat)
    # The names are those of prefixes, and of no layer, in the file.
    first = keras.layers.Conv2D(channels, 1, name="predictions_of_colors")
    kept = [np.linspace(0.1, 1, channels).reshape(1, 1, 1, -1), np.zeros(channels)]
    image = first(image)
    first.set_weights(kept)
    model = elu_zoo.ELUNet11(weights="cifar100", input_tensor=image)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32 * 32)).astype("float32")
    whole = elu_zoo.ELUNet11(weights="cifar100", input_shape=(32, 32, channels))
    expected = whole(images.reshape(2, 32, 32, 1) * kept[0][0])
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model(images)),
        keras.ops.convert_to_numpy(expected),
        *(1e-3, 1e-5),
    )
    for array, weight in zip(kept, first.get_weights(), strict=True):
        np.testing.assert_allclose(weight, array, rtol=1e-6)


def test_gray_images_keep_their_fractions_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")  # Undone by a fixture.
    model = elu_zoo.ELUNet11(weights="cifar100", input_shape=(32, 32, 1))
    prepared = keras.Model(model.input, model.get_layer("preprocessing").input)
    image = np.full((1, 32, 32, 1), 200.3, "float32")
    rgb = keras.ops.convert_to_numpy(prepared(image))
    np.testing.assert_array_equal(rgb, np.repeat(image, 3, -1))


def test_flattened_images_with_more_channels():
    """Networks without convolutions, whose kernels mix pixels and channels."""
    gray = elu_zoo.MNISTClassifier(weights="mnist")
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 4)).astype("float32")
    wide = elu_zoo.MNISTClassifier(weights="mnist", input_shape=(28, 28, 4))
    expected = keras.ops.convert_to_numpy(gray(images[..., :1]))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(wide(images)), expected, rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match="images of 1 channels.*3 channels"):
        elu_zoo.MNISTAutoencoder(weights="mnist", input_shape=(28, 28, 3))
