"""The paper's networks as Keras models: one builder that reads `architectures.py`."""

import functools
import inspect
import numbers
import sys

import keras
import numpy as np

from elu_zoo._fetching import resolve
from elu_zoo._weight_files import load_weights
from elu_zoo.architectures import ARCHITECTURES, FC
from elu_zoo.layers import (
    ELU,
    GlobalContrastNormalization,
    ShiftedReLU,
    SpatialPyramidPooling,
    Standardization,
    ZCAWhitening,
)

ACTIVATIONS = {
    "elu": ELU,
    "relu": keras.layers.ReLU,
    "leaky_relu": lambda **kwargs: keras.layers.LeakyReLU(0.1, **kwargs),
    "shifted_relu": ShiftedReLU,
}

# Arguments that have to be those that the weights were made with.
OF_WEIGHTS = (
    "activation",
    "batch_normalization",
    "width",
    "preprocessing",
    "stem_strides",
    "pyramid_levels",
)

PREPROCESSING = {
    "standardize": lambda: [Standardization(name="preprocessing")],
    "pixel_mean": lambda: [Standardization(axis=(1, 2, 3), name="preprocessing")],
    "gcn_zca": lambda: [
        GlobalContrastNormalization(name="preprocessing_gcn"),
        ZCAWhitening(name="preprocessing_zca"),
    ],
    "rescale": lambda: [keras.layers.Rescaling(1 / 255, name="preprocessing")],
}

HEAD = "predictions"

# Whatever keras.json says: weights and preprocessing are for this order.
NHWC = "channels_last"

_ARGUMENTS = """
    The arguments that `keras.applications` has mean the same here. The model takes raw
    images with values from 0 to 255 (`uint8` or float, NHWC); the preprocessing is a
    layer of the model, its statistics are part of the weights. With a `weights` tag,
    arguments that are left out become what the weights were made with.

    Args:
        include_top: Whether to include the output layer.
        weights: `None` (random initialization), a tag of published weights (see
            `elu_zoo.list_weights()`), or the path of a `.weights.h5` file.
        input_tensor: Optional Keras tensor to use as the image input.
        input_shape: Optional `(height, width, channels)`; default `{input_shape}`, or
            that of the weights.
        pooling: With `include_top=False`: `None` for the output of the last hidden
            layer as it is, `"avg"` or `"max"` for global pooling over the image.
        classes: Number of classes; default {classes}, or that of the weights. With
            pretrained weights and another number of classes everything but the output
            layer is loaded, and the output layer starts anew; with the same number it
            is loaded too.
        classifier_activation: Activation of the output layer, `None` for logits.
        name: Name of the model.
        activation: `"elu"`, `"relu"`, `"leaky_relu"` (slope 0.1) or `"shifted_relu"`.
        batch_normalization: Whether each hidden layer is batch-normalized before its
            activation. The networks are meant to be trained without.
        dropout: `None` for no dropout, a rate for all hidden stacks, or a sequence
            with one rate per stack, applied after its last layer (after each layer of a
            fully-connected stack). In place of a rate, a sequence with one per layer of
            the stack. The paper's rates: `{dropout}`.
        width: Factor for the number of units of every hidden layer.
        include_preprocessing: Whether the model starts with its preprocessing.
        preprocessing: `"standardize"` (mean and standard deviation per channel),
            `"pixel_mean"` (the same per pixel and channel, for images of one size),
            `"gcn_zca"` (the paper's global contrast normalization and ZCA whitening) or
            `"rescale"` (to 0–1). All but the last have statistics: call
            `elu_zoo.models.adapt_preprocessing`, or load weights.
        kernel_initializer: Initializer of all kernels, such as the paper's
            `"he_normal"`. The default, `None`, is LeCun normal with a ten times smaller
            variance in the output layer: without normalization the loss then starts
            near `log(classes)`, where with He's it starts far above.{extra_args}

    Returns:
        A functional `keras.Model`. Its layers are named after the paper's stacks
        (`"stack2_conv1"`, ..., `"predictions"`); see `elu_zoo.features`.

    Raises:
        ValueError: If an argument is not one of the values above, or if it contradicts
            the weights.
"""

_PYRAMID_ARGS = """
        stem_strides: Strides of the first convolution. The paper does not state them; 2
            makes its training times plausible. Use 1 for images of 64 pixels.
        pyramid_levels: Sides of the grids of the spatial pyramid pooling (He et al.,
            2015). The paper has three levels and does not state their sizes."""


def _model_function(function):
    """Builds the model, and completes the docstring, of a function of the arguments."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args, **kwargs):
        arguments = function(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        return _build(_key(function), arguments, given)

    architecture = ARCHITECTURES[_key(function)]
    text = _ARGUMENTS.format(
        input_shape=architecture.input_shape,
        classes=architecture.classes,
        dropout=architecture.dropout,
        extra_args=_PYRAMID_ARGS if "pyramid_levels" in signature.parameters else "",
    )
    # Python 3.13 takes the indentation off docstrings, the versions before leave it.
    build.__doc__ = inspect.cleandoc(function.__doc__).replace(
        "{arguments}", f"\n{inspect.cleandoc(text)}\n"
    )
    return build


def _key(function):
    return inspect.signature(function).parameters["name"].default


@_model_function
def ELUNet11(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation="softmax",
    name="elunet11",
    *,
    activation="elu",
    batch_normalization=False,
    dropout=None,
    width=1.0,
    include_preprocessing=True,
    preprocessing="standardize",
    kernel_initializer=None,
):
    """The 11-layer CIFAR network (section 4.2 of the paper), 1.67 M weights.

    Example:

    >>> model = ELUNet11(classes=10)
    >>> model.output_shape
    (None, 10)
    {arguments}
    """
    return locals()


@_model_function
def ELUNet18(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation="softmax",
    name="elunet18",
    *,
    activation="elu",
    batch_normalization=False,
    dropout=None,
    width=1.0,
    include_preprocessing=True,
    preprocessing="standardize",
    kernel_initializer=None,
):
    """The 18-layer CIFAR network (section 4.2 of the paper), 39 M weights.

    The paper's table lists 18 hidden layers and the output layer.

    Example:

    >>> model = ELUNet18(include_top=False, pooling="avg", width=0.125)
    >>> model.output_shape
    (None, 144)
    {arguments}
    """
    return locals()


@_model_function
def ELUNet15(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation="softmax",
    name="elunet15",
    *,
    activation="elu",
    batch_normalization=False,
    dropout=None,
    width=1.0,
    include_preprocessing=True,
    preprocessing="standardize",
    kernel_initializer=None,
    stem_strides=2,
    pyramid_levels=(4, 2, 1),
):
    """The 15-layer ImageNet network (section 4.3 of the paper).

    Spatial pyramid pooling before the fully-connected layers lets it take images of
    any size: pass `input_shape=(None, None, 3)`.

    Example:

    >>> model = ELUNet15(input_shape=(None, None, 3), width=0.125)
    >>> model.output_shape
    (None, 1000)
    {arguments}
    """
    return locals()


@_model_function
def MNISTClassifier(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation="softmax",
    name="mnist_classifier",
    *,
    activation="elu",
    batch_normalization=False,
    dropout=None,
    width=1.0,
    include_preprocessing=True,
    preprocessing="rescale",
    kernel_initializer=None,
):
    """The MNIST classifier (section 4.1 of the paper): 8 hidden layers of 128 units.

    Example:

    >>> MNISTClassifier().count_params()
    217354
    {arguments}
    """
    return locals()


@_model_function
def MNISTAutoencoder(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation="sigmoid",
    name="mnist_autoencoder",
    *,
    activation="elu",
    batch_normalization=False,
    dropout=None,
    width=1.0,
    include_preprocessing=True,
    preprocessing="rescale",
    kernel_initializer=None,
):
    """The MNIST autoencoder (section 4.1 of the paper): 1000-500-250-30, mirrored.

    Its "classes" are the pixels: the output is the reconstruction, a vector of values
    from 0 to 1, and `include_top=False` leaves the output layer away. The code of 30
    units is `"stack1"` of `elu_zoo.features`.

    Example:

    >>> MNISTAutoencoder().output_shape
    (None, 784)
    {arguments}
    """
    return locals()


MODELS = {
    _key(function): function
    for function in (ELUNet11, ELUNet18, ELUNet15, MNISTClassifier, MNISTAutoencoder)
}


def list_models():
    """Names of the model functions.

    Returns:
        A list of names, each of a function of `elu_zoo`.

    Example:

    >>> list_models()
    ['ELUNet11', 'ELUNet18', 'ELUNet15', 'MNISTClassifier', 'MNISTAutoencoder']
    """
    return [function.__name__ for function in MODELS.values()]


def get_model_function(name):
    """The model function of a name as in `list_models()`; capitals do not matter.

    Args:
        name: String, such as `"ELUNet11"`.

    Returns:
        The function.

    Raises:
        ValueError: If there is no such model.
    """
    for function in MODELS.values():
        if str(name).lower() in (function.__name__.lower(), _key(function)):
            return function
    raise ValueError(f"Expected one of the models {list_models()}. Received: {name!r}")


def _build(key, arguments, given):
    """The model of a model function: weights found first, loaded last."""
    architecture = ARCHITECTURES[key]
    record, path = resolve(key, arguments.pop("weights"))
    if record:
        _take_arguments_of_weights(key, arguments, given, record)
    if arguments["classes"] is None:
        arguments["classes"] = architecture.classes
    model = _network(architecture, **arguments)
    if path is None:
        return model
    skip = []
    if record and arguments["include_top"]:
        pretrained_classes = record["arguments"]["classes"]
        if arguments["classes"] != pretrained_classes:
            skip.append(HEAD)
            _say(
                f"{model.name}: loaded without the output layer for "
                f"{pretrained_classes} classes; the one for {arguments['classes']} "
                "classes starts from random weights."
            )
    if not arguments["include_top"]:
        skip.append(HEAD)
    if not arguments["include_preprocessing"]:
        skip.append("preprocessing")
    load_weights(model, path, skip=skip)
    return model


def _as_tuple(value):
    return tuple(value) if isinstance(value, list) else value


def adapt_preprocessing(model, images):
    """Lets the preprocessing of a model learn its statistics.

    Args:
        model: Keras model made by a model function of `elu_zoo`.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255.

    Example:

    >>> model = ELUNet11(width=0.1, preprocessing="standardize")
    >>> adapt_preprocessing(model, np.full((10, 32, 32, 3), 7, "uint8"))
    >>> np.asarray(model.get_layer("preprocessing").mean).ravel()
    array([7., 7., 7.], dtype=float32)
    """
    layers = [x for x in model.layers if x.name.startswith("preprocessing")]
    for layer in layers:
        if hasattr(layer, "adapt"):
            layer.adapt(images)
        if layer is not layers[-1]:
            parts = np.array_split(images, max(1, len(images) // 1000))
            images = np.concatenate(
                [keras.ops.convert_to_numpy(layer(part)) for part in parts]
            )


def reset_head(model):
    """Starts the output layer of a model anew, from its initializers."""
    head = model.get_layer(HEAD)
    for variable, initializer in (
        (head.kernel, head.kernel_initializer),
        (head.bias, head.bias_initializer),
    ):
        variable.assign(initializer(variable.shape, variable.dtype))


def _say(message):
    if keras.config.is_interactive_logging_enabled():
        print(message, file=sys.stderr)


def _take_arguments_of_weights(key, arguments, given, record):
    for name, value in record["arguments"].items():
        if given.get(name) is None:
            arguments[name] = _as_tuple(value)
    parameters = inspect.signature(MODELS[key]).parameters
    for name in parameters.keys() & set(OF_WEIGHTS):
        value = record["arguments"].get(name, parameters[name].default)
        if _as_tuple(arguments[name]) != _as_tuple(value):
            raise ValueError(
                f"The weights {record['name']!r} were made with {name}={value!r}. "
                f"Received: {name}={arguments[name]!r}. Leave the argument out, or use "
                "`weights=None`."
            )
    if arguments["input_shape"] is None and arguments["input_tensor"] is None:
        arguments["input_shape"] = tuple(record["input_shape"])


def _network(
    architecture,
    *,
    include_top,
    input_tensor,
    input_shape,
    pooling,
    classes,
    classifier_activation,
    name,
    activation,
    batch_normalization,
    dropout,
    width,
    include_preprocessing,
    preprocessing,
    kernel_initializer,
    stem_strides=1,
    pyramid_levels=(),
):
    _check_choice("activation", activation, ACTIVATIONS)
    _check_choice("preprocessing", preprocessing, PREPROCESSING)
    _check_choice("pooling", pooling, (None, "avg", "max"))
    if not isinstance(classes, numbers.Integral) or classes < 1:
        raise ValueError(
            "Expected classes to be an integer of 1 or more. "
            f"Received: classes={classes!r}"
        )
    if not width > 0:
        raise ValueError(f"Expected width to be positive. Received: width={width!r}")
    *hidden_stacks, _ = architecture.stacks
    rates = dropout_rates(dropout, hidden_stacks)

    inputs = _image_input(input_tensor, input_shape or architecture.input_shape)
    x = inputs
    if include_preprocessing:
        for layer in PREPROCESSING[preprocessing]():
            x = layer(x)
    for index, stack in enumerate(hidden_stacks):
        convolutional = stack[0][2] != FC
        if not convolutional and x.ndim == 4:
            x = (
                SpatialPyramidPooling(pyramid_levels, name="pyramid")(x)
                if pyramid_levels
                else keras.layers.Flatten(NHWC, name="flatten")(x)
            )
        next_field = architecture.stacks[index + 1][0][2]
        x = _stack(
            x,
            stack,
            f"stack{index + 1}",
            strides=stem_strides if index == 0 else 1,
            pool=convolutional and not (pyramid_levels and next_field == FC),
            activation=ACTIVATIONS[activation],
            batch_normalization=batch_normalization,
            dropout=rates[index],
            width=width,
            kernel_initializer=kernel_initializer or "lecun_normal",
        )
    if x.ndim == 4 and (include_top or pooling == "avg"):
        x = keras.layers.GlobalAveragePooling2D(NHWC, name="average_pool")(x)
    elif x.ndim == 4 and pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(NHWC, name="max_pool")(x)
    if include_top:
        # Logits and probabilities stay in float32 under mixed precision.
        x = keras.layers.Dense(
            int(classes),
            kernel_initializer=_fresh(kernel_initializer)
            or keras.initializers.VarianceScaling(0.1, "fan_in", "truncated_normal"),
            dtype=_at_least_float32(),
            name=HEAD,
        )(x)
        if classifier_activation is not None:
            x = keras.layers.Activation(
                classifier_activation,
                dtype=_at_least_float32(),
                name="predictions_activation",
            )(x)
    if input_tensor is not None:
        sources = keras.utils.get_source_inputs(input_tensor)
        inputs = sources[0] if len(sources) == 1 else sources
    return keras.Model(inputs, x, name=name)


def _stack(
    x,
    stack,
    name,
    *,
    strides,
    pool,
    activation,
    batch_normalization,
    dropout,
    width,
    kernel_initializer,
):
    layers = [(units, field) for count, units, field in stack for _ in range(count)]
    for number, (units, field) in enumerate(layers, start=1):
        units = max(1, round(units * width))
        common = dict(
            use_bias=not batch_normalization,
            kernel_initializer=_fresh(kernel_initializer),
        )
        if field == FC:
            x = keras.layers.Dense(units, name=f"{name}_dense{number}", **common)(x)
        else:
            x = keras.layers.Conv2D(
                units,
                field,
                strides=strides if number == 1 else 1,
                padding="same",
                data_format=NHWC,
                name=f"{name}_conv{number}",
                **common,
            )(x)
        if batch_normalization:
            x = keras.layers.BatchNormalization(name=f"{name}_norm{number}")(x)
        if number == len(layers) and pool and x.shape[1:3] != (1, 1):
            # The activations increase, so they commute with the maximum: pooling first
            # gives the same output for a quarter of the activations.
            x = keras.layers.MaxPooling2D(
                2, padding="same", data_format=NHWC, name=f"{name}_pool"
            )(x)
        x = activation(name=f"{name}_activation{number}")(x)
        if rate := dropout[number - 1]:
            x = keras.layers.Dropout(rate, name=f"{name}_dropout{number}")(x)
    return x


def _fresh(initializer):
    """Keras's initializers give the same values each time: a layer needs its own."""
    if isinstance(initializer, keras.initializers.Initializer):
        config = initializer.get_config()
        if config.get("seed", 0) is None:
            return initializer.__class__.from_config(config)
    return initializer


def dropout_rates(dropout, stacks):
    """One rate for each layer of each stack, from a model function's `dropout`."""
    rates = [dropout or 0.0] * len(stacks) if _is_rate(dropout) else list(dropout)
    if any(rates[len(stacks) :]):
        raise ValueError(
            f"Expected dropout to have at most {len(stacks)} rates above 0, one for "
            f"each hidden stack. Received: dropout={dropout!r}"
        )
    rates = rates[: len(stacks)] + [0.0] * (len(stacks) - len(rates))
    layered = []
    for rate, stack in zip(rates, stacks, strict=True):
        count = sum(layers for layers, _, _ in stack)
        if not isinstance(rate, (list, tuple)):
            all_layers = stack[0][2] == FC
            rate = [rate] * count if all_layers else [0.0] * (count - 1) + [rate]
        valid = all(_is_rate(r) and 0 <= (r or 0) < 1 for r in rate)
        if len(rate) != count or not valid:
            raise ValueError(
                "Expected dropout rates in [0, 1), one for each stack or for each of "
                f"its {count} layers. Received: dropout={dropout!r}"
            )
        layered.append(rate)
    return layered


def _is_rate(value):
    return value is None or isinstance(value, numbers.Real)


def _image_input(input_tensor, input_shape):
    if input_tensor is not None:
        if not keras.utils.is_keras_tensor(input_tensor):
            raise ValueError(
                "Expected input_tensor to be a Keras tensor, such as `keras.Input()`. "
                f"Received: input_tensor={input_tensor!r}"
            )
        return input_tensor
    if len(input_shape) != 3 or input_shape[-1] is None:
        raise ValueError(
            "Expected input_shape to be (height, width, channels); height and width "
            f"may be None. Received: input_shape={input_shape!r}"
        )
    return keras.Input(input_shape, name="image")


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"Expected {name} to be one of {list(choices)}. Received: {name}={value!r}"
        )


def _at_least_float32():
    dtype = keras.config.dtype_policy().compute_dtype
    return "float32" if dtype in ("float16", "bfloat16") else dtype
