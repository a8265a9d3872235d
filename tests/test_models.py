import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import elu_zoo
from elu_zoo.architectures import ARCHITECTURES
from elu_zoo.models import adapt_preprocessing

CONVOLUTIONAL = ["ELUNet11", "ELUNet18", "ELUNet15"]
SMALL = {"ELUNet11": 0.1, "ELUNet18": 0.05, "ELUNet15": 0.03}


def small(name, **arguments):
    return getattr(elu_zoo, name)(**{"width": SMALL.get(name, 0.1)} | arguments)


def images(count=2, size=32, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels)).astype("uint8")


# Worked out by hand from the paper's tables: each bracket's kernels. Multiply-adds are
# the kernels times the positions of the bracket's map, which halves from each to the
# next.
WEIGHTS_11 = [
    [14_400],
    [36_864, 414_720],
    [57_600, 249_600],
    [67_600, 291_200],
    [78_400, 336_000],
    [90_000],
    [30_000],
]
WEIGHTS_18 = [
    [10_368],
    [147_456, 589_824, 983_040, 1_638_400],
    [409_600, 1_966_080, 2_359_296, 2_359_296],
    [589_824, 2_752_512, 3_211_264],
    [7_225_344, 3_670_016, 4_194_304],
    [1_048_576, 4_718_592],
    [1_327_104],
    [115_200],
]
# Images of 224 pixels and stride 2: maps of 112, 56, 28 and 14, a pyramid of 21 bins.
WEIGHTS_15 = [
    [10_368],
    [442_368, 2_359_296, 2_359_296],
    [3_538_944, 5_308_416, 5_308_416, 5_308_416, 5_308_416],
    [7_077_888, 9_437_184, 9_437_184],
    [21 * 1024 * 4096, 4096 * 4096],
    [4096 * 1000],
]


def kernels(model):
    return [
        (layer, layer.kernel)
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    ]


def multiply_adds(model):
    return sum(
        math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
        for layer, kernel in kernels(model)
    )


@pytest.mark.parametrize(
    "name, weights, positions, layers",
    [
        ("ELUNet11", WEIGHTS_11, [32, 16, 8, 4, 2, 1, 1], 11),
        ("ELUNet18", WEIGHTS_18, [32, 16, 8, 4, 2, 1, 1, 1], 18 + 1),
        ("ELUNet15", WEIGHTS_15, [112, 56, 28, 14, 1, 1], 15),
    ],
)
def test_weights_and_multiply_adds_are_the_papers(name, weights, positions, layers):
    model = getattr(elu_zoo, name)(include_preprocessing=False)
    assert len(kernels(model)) == layers
    assert sum(math.prod(k.shape) for _, k in kernels(model)) == sum(map(sum, weights))
    assert multiply_adds(model) == sum(
        sum(stack) * side**2 for stack, side in zip(weights, positions, strict=True)
    )


def test_sizes_that_the_paper_states():
    assert round(sum(map(sum, WEIGHTS_11)) / 1e6, 2) == 1.67
    assert round(sum(map(sum, WEIGHTS_18)) / 1e6) == 39


def test_mnist_networks_have_the_papers_units():
    classifier = elu_zoo.MNISTClassifier()
    assert [k.shape[-1] for _, k in kernels(classifier)] == [128] * 8 + [10]
    autoencoder = elu_zoo.MNISTAutoencoder()
    assert [k.shape[-1] for _, k in kernels(autoencoder)] == [
        *(1000, 500, 250, 30, 250, 500, 1000, 784)
    ]


@pytest.mark.parametrize(
    "activation, reference",
    [
        ("elu", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
        ("relu", lambda x: np.maximum(x, 0)),
        ("leaky_relu", lambda x: np.maximum(x, 0.1 * x)),
        ("shifted_relu", lambda x: np.maximum(x, -1)),
    ],
)
def test_pooling_first_gives_what_the_papers_order_gives(activation, reference):
    model = small("ELUNet11", activation=activation, classifier_activation=None)
    x = (images().astype("float32") - 127.5) / 63.75
    for number in range(1, 7):
        stack = [x for x in model.layers if x.name.startswith(f"stack{number}_conv")]
        for layer in stack:
            x = ops.conv(x, layer.kernel, padding="same") + layer.bias
            x = reference(np.asarray(x, "float64")).astype("float32")
        if x.shape[1] > 1:
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    head = model.get_layer("predictions")
    expected = x[:, 0, 0] @ np.asarray(head.kernel) + np.asarray(head.bias)
    np.testing.assert_allclose(
        np.asarray(model(images())), expected, rtol=1e-4, atol=2e-6
    )


@pytest.mark.parametrize(
    "activation, reference",
    [
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("mish", lambda x: x * math.tanh(math.log1p(math.exp(x)))),
        (
            "selu",
            lambda x: 1.0507009873 * (x if x > 0 else 1.6732632423 * math.expm1(x)),
        ),
        ("silu", lambda x: x / (1 + math.exp(-x))),
    ],
)
def test_later_units_follow_their_formulas(activation, reference):
    layer = small("ELUNet11", activation=activation).get_layer("stack2_activation1")
    x = np.linspace(-4, 4, 33, dtype="float32")
    expected = [reference(float(value)) for value in x]
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_loss_starts_near_log_classes_without_normalization(name):
    size = 64 if name == "ELUNet15" else 32
    arguments = {"stem_strides": 1} if name == "ELUNet15" else {}
    keras.utils.set_random_seed(0)
    model = small(
        name,
        width=0.25,
        classes=100,
        classifier_activation=None,
        input_shape=(size, size, 3),
        **arguments,
    )
    logits = np.asarray(model(images(16, size)), "float64")
    labels = np.arange(16)
    log_sum = np.log(np.exp(logits).sum(-1))
    loss = np.mean(log_sum - logits[np.arange(16), labels])
    assert abs(loss - math.log(100)) < 0.3


def test_he_initialization_is_available():
    model = elu_zoo.ELUNet11(kernel_initializer="he_normal")
    kernel = np.asarray(model.get_layer("stack2_conv2").kernel)
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 192)), rel=0.02)
    head = np.asarray(model.get_layer("predictions").kernel)
    assert head.std() == pytest.approx(math.sqrt(2 / 300), rel=0.02)


def test_one_initializer_gives_each_layer_other_weights():
    model = elu_zoo.MNISTClassifier(kernel_initializer=keras.initializers.HeNormal())
    kernels = {np.asarray(v).tobytes() for v in model.weights if v.name == "kernel"}
    assert len(kernels) == 9


def test_the_number_of_classes_may_be_numpys():
    assert elu_zoo.ELUNet11(classes=np.int64(3), width=0.1).output_shape == (None, 3)


def test_whitening_learns_from_the_images_after_normalization():
    model = elu_zoo.ELUNet11(width=0.05, preprocessing="gcn_zca", input_shape=(4, 4, 3))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 4, 4, 3)).astype("uint8")
    adapt_preprocessing(model, images)
    white = keras.Model(model.input, model.get_layer("preprocessing_zca").output)
    outputs = np.asarray(white(images), "float64").reshape(400, -1)
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-3)
    # One direction has no variance: the mean of an image is taken off.
    variances = np.linalg.eigvalsh(np.cov(outputs.T))
    assert variances[0] < 0.01
    np.testing.assert_allclose(variances[1:], 1, atol=0.1)


def test_saved_models_give_the_same_answers_in_a_new_process(tmp_path):
    expected = {}
    for name in elu_zoo.list_models():
        model = small(name, dropout=0.1)
        shape = ARCHITECTURES[model.name].input_shape
        if name == "ELUNet15":
            shape = (64, 64, 3)
            model = small(name, input_shape=(None, None, 3), stem_strides=1)
        x = images(3, shape[0], shape[-1])
        model.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.x.npy", x)
        expected[name] = np.asarray(model(x))
    code = (
        "import sys, numpy as np, keras, elu_zoo\n"
        "for name in sys.argv[1:]:\n"
        "    model = keras.saving.load_model(f'{name}.keras')\n"
        "    np.save(f'{name}.y.npy', np.asarray(model(np.load(f'{name}.x.npy'))))\n"
    )
    command = [sys.executable, "-c", code, *expected]
    subprocess.run(command, check=True, cwd=tmp_path)
    for name, y in expected.items():
        found = np.load(tmp_path / f"{name}.y.npy")
        np.testing.assert_allclose(found, y, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", elu_zoo.list_models())
def test_mixed_bfloat16_keeps_the_output_in_float32(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small(name, input_shape=None)
        shape = ARCHITECTURES[model.name].input_shape
        y = model(np.zeros((1, *shape), "uint8"))
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    hidden = [x for x in model.layers if x.name.startswith("stack1_")][0]
    assert hidden.compute_dtype == "bfloat16"
    assert hidden.variable_dtype == "float32"


@pytest.mark.parametrize("size", [32, 40, 64, 65])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_any_image_size(name, size):
    model = small(name, input_shape=(None, None, 3), classes=7)
    y = np.asarray(model(images(2, size)))
    assert y.shape == (2, 7)
    fixed = small(name, input_shape=(size, size, 3), classes=7)
    fixed.set_weights(model.get_weights())
    np.testing.assert_allclose(fixed(images(2, size)), y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pooling, rank", [(None, 4), ("avg", 2), ("max", 2)])
def test_without_top(pooling, rank):
    model = small("ELUNet11", include_top=False, pooling=pooling)
    assert model.output.ndim == rank
    assert model.output.shape[-1] == 30


def test_images_are_nhwc_whatever_keras_is_set_to():
    expected = [v.shape for v in small("ELUNet11").weights]
    keras.config.set_image_data_format("channels_first")
    try:
        eleven, fifteen = small("ELUNet11"), small("ELUNet15", include_top=False)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert [v.shape for v in eleven.weights] == expected
    assert eleven(images()).shape == (2, 100)
    assert fifteen.output.ndim == 2


def test_input_tensor():
    image = keras.Input((32, 32, 3))
    model = small("ELUNet11", input_tensor=image * 1.0)
    assert model.input is image
    assert model(images()).shape == (2, 100)


def test_an_input_tensor_from_inputs_that_are_no_image():
    flat = keras.Input((784,))
    halves = [keras.Input((28, 14, 1)) for _ in "ab"]
    for inputs, tensor in (
        (flat, keras.layers.Reshape((28, 28, 1))(flat)),
        (halves, keras.layers.Concatenate(2)(halves)),
    ):
        model = small("MNISTClassifier", input_tensor=tensor)
        assert len(model.inputs) == len(keras.tree.flatten(inputs))
        assert model.output_shape == (None, 10)
        assert elu_zoo.get_record(model).preprocessing is None


def test_dropout_of_the_paper_after_each_stack():
    model = small("ELUNet18", dropout=ARCHITECTURES["elunet18"].dropout)
    rates = {
        x.name: x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)
    }
    assert rates == {
        "stack2_dropout4": 0.1,
        "stack3_dropout4": 0.2,
        "stack4_dropout3": 0.3,
        "stack5_dropout3": 0.4,
        "stack6_dropout2": 0.5,
    }
    model = small("ELUNet15", dropout=ARCHITECTURES["elunet15"].dropout)
    rates = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert rates == [0.5, 0.5]


def test_batch_normalization_has_no_bias_beside_it():
    model = small("ELUNet11", batch_normalization=True)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 10
    assert not model.get_layer("stack2_conv1").use_bias
    assert model(images()).shape == (2, 100)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activation": "tanh"}, "activation='tanh'"),
        ({"pooling": "sum"}, "pooling='sum'"),
        ({"preprocessing": "caffe"}, "preprocessing='caffe'"),
        ({"classes": 0}, "classes=0"),
        ({"classes": 2.5}, "classes=2.5"),
        ({"classes": "cat"}, "classes='cat'"),
        ({"classes": ["cat", "cat"]}, "different names"),
        ({"width": 0}, "width=0"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"dropout": [0.1] * 9}, "at most 6 rates"),
        ({"input_shape": (32, 32)}, "input_shape=(32, 32)"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "Keras tensor"),
    ],
)
def test_bad_arguments_say_what_came(arguments, message):
    with pytest.raises(ValueError) as error:
        elu_zoo.ELUNet11(**arguments)
    assert message in str(error.value)


def test_importing_costs_little_more_than_keras_and_no_tensorflow_under_jax():
    pytest.importorskip("jax", reason="needs JAX to import Keras on it")
    code = "import elu_zoo, sys; assert 'tensorflow' not in sys.modules, 'tensorflow'"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_public_functions_are_documented():
    for name in elu_zoo.__all__:
        doc = getattr(elu_zoo, name).__doc__
        assert doc and "{arguments}" not in doc, name
        without = ("layers", "ops")  # Modules.
        assert "Example:" in doc and ">>>" in doc or name in without, name
