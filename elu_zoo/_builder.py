"""Builds the paper's networks from the tables of `architectures.py`."""

import dataclasses
import functools
import logging
import numbers
import os
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from elu_zoo._fetching import resolve
from elu_zoo._names import check_class_names
from elu_zoo._record_layer import ModelRecord
from elu_zoo._typing import Shape
from elu_zoo._weight_files import load_weights, read_layer
from elu_zoo.architectures import (
    ARCHITECTURES,
    FC,
    Architecture,
    Stack,
    dropout_rates,
)
from elu_zoo.errors import UserError
from elu_zoo.heads import HEAD, fresh, start_head
from elu_zoo.layers import (
    ELU,
    GlobalContrastNormalization,
    ShiftedReLU,
    SpatialPyramidPooling,
    Standardization,
    ZCAWhitening,
)
from elu_zoo.records import Preprocessing, Record, attach_record

_log = logging.getLogger(__name__)

ACTIVATIONS: dict[str, Callable[..., keras.Layer]] = {
    "elu": ELU,
    "relu": keras.layers.ReLU,
    "leaky_relu": lambda **kwargs: keras.layers.LeakyReLU(0.1, **kwargs),
    "shifted_relu": ShiftedReLU,
    # Units that the paper does not have, for comparison.
    **{
        name: functools.partial(keras.layers.Activation, name)
        for name in ("gelu", "mish", "selu", "silu")
    },
}

# Arguments that must be those that the weights were made with.
OF_WEIGHTS = (
    "activation",
    "batch_normalization",
    "width",
    "preprocessing",
    "stem_strides",
    "pyramid_levels",
)

PREPROCESSING: dict[str, Callable[[], list[keras.Layer]]] = {
    "standardize": lambda: [Standardization(name="preprocessing")],
    "pixel_mean": lambda: [Standardization(axis=(1, 2, 3), name="preprocessing")],
    "gcn_zca": lambda: [
        GlobalContrastNormalization(name="preprocessing_gcn"),
        ZCAWhitening(name="preprocessing_zca"),
    ],
    "rescale": lambda: [keras.layers.Rescaling(1 / 255, name="preprocessing")],
}

# Weights and preprocessing expect this order, so `keras.json` must not change it.
NHWC = "channels_last"

# The layer that repeats the channel of gray images for weights of three.
GRAY_TO_RGB = "gray_to_rgb"


def build(
    key: str,
    *,
    include_top: bool,
    weights: str | os.PathLike[str] | None,
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape | None,
    pooling: str | None,
    classes: int | Sequence[str] | None,
    classifier_activation: str | Callable[..., Any] | None,
    name: str,
    dropout: float | Sequence[float | Sequence[float]] | None,
    include_preprocessing: bool,
    kernel_initializer: Any,
    **of_weights: Any,
) -> keras.Model:
    """Builds the model of a model function: finds the weights first, loads them last.

    `key` is that of the architecture, such as `"elunet11"`. `of_weights` are the
    arguments in `OF_WEIGHTS`, `None` where omitted. All others are those of the model
    functions.
    """
    architecture = ARCHITECTURES[key]
    record, path = resolve(key, weights)
    if record:
        _check_arguments_of_weights(architecture, of_weights, record)
        of_weights = of_weights | _known(record.arguments)
        if input_shape is None and input_tensor is None:
            input_shape = record.input_shape
    # Given classes are the user's own, even if the weights have as many.
    new_head = record is not None and include_top and classes is not None
    class_names = () if isinstance(classes, numbers.Integral) else _names(classes)
    if classes is None:
        classes = _classes(record) if record and include_top else architecture.classes
    classes = len(class_names) or classes
    of_weights = {n: _default(architecture, n, of_weights.get(n)) for n in OF_WEIGHTS}
    arguments = dict(
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape or architecture.input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        dropout=dropout,
        include_preprocessing=include_preprocessing,
        kernel_initializer=kernel_initializer,
        **of_weights,
    )
    skip = [HEAD] if new_head or not include_top else []
    skip += [] if include_preprocessing else ["preprocessing"]
    if path is None:
        model = _network(architecture, **arguments)
    else:
        model = _pretrained(architecture, arguments, record, path, skip)
    if record and path and new_head:
        _start_head(model, path, record, class_names)
    new = _new_record(architecture, model, arguments, record)
    if skip[:1] == [HEAD]:
        new = new.unmeasured(class_names=())
    if class_names and include_top:
        new = dataclasses.replace(new, class_names=class_names)
    attach_record(model, new)
    return model


def _classes(record: Record) -> int:
    """The number of outputs of the file that a record describes."""
    classes = record.arguments.get("classes", len(record.class_names))
    if not classes:
        raise UserError(
            f"Expected the record of {record.name} to state the number of classes, in "
            f"its arguments. Received: arguments={record.arguments!r}"
        )
    return int(classes)


def _names(classes: Any) -> tuple[str, ...]:
    if classes is None:
        return ()
    names = tuple(classes) if isinstance(classes, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            "Expected classes to be an integer of 1 or more, or a list of names. "
            f"Received: classes={classes!r}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"Expected different names. Received: classes={classes!r}")
    check_class_names(names)
    return names


def _start_head(
    model: keras.Model, path: pathlib.Path, record: Record, class_names: Sequence[str]
) -> None:
    """Copies the output weights of classes that the weights know; logs how many."""
    head, known = model.get_layer(HEAD), 0
    if class_names:
        kernel, bias = read_layer(path, HEAD)
        known = start_head(head, kernel, bias, record.class_names, class_names)
    _log.warning(
        "%s: loaded without the output layer of %s classes; the one for your %s "
        "classes starts from random weights%s.",
        model.name,
        _classes(record),
        head.units,
        f", except for {known} that the weights know" if known else "",
    )


def _pretrained(
    architecture: Architecture,
    arguments: dict[str, Any],
    record: Record | None,
    path: pathlib.Path,
    skip: Sequence[str],
) -> keras.Model:
    """The network with its weights, which may be for fewer or more channels."""
    tensor = arguments["input_tensor"]
    *size, channels = arguments["input_shape"] if tensor is None else tensor.shape[1:]
    pretrained = record.input_shape[-1] if record else channels
    if channels == pretrained or channels == 1 and pretrained == 3:
        gray = channels != pretrained
        model = _network(architecture, repeat_gray=gray, **arguments)
        load_weights(model, path, skip=skip, ignore=_before(tensor))
        return model
    # A file without a record fits the channels as they are.
    assert record is not None and pretrained
    more = channels and channels > pretrained and not architecture.reconstructs
    if not more or arguments["preprocessing"] == "gcn_zca":
        # The outputs of one that reconstructs images would be missing.
        some = pretrained if architecture.reconstructs else f"1, {pretrained} or more"
        raise UserError(
            f"Expected images of {some} channels for the weights {record.name!r}. "
            f"Received: {channels} channels"
        )
    model = _network(architecture, **arguments)
    given = {"input_tensor": None, "input_shape": (*size, pretrained)}
    narrow = _network(architecture, **arguments | given)
    load_weights(narrow, path, skip=skip)
    own = [layer for layer in model.layers if layer not in _before(tensor)]
    weights = [weight for layer in own for weight in layer.weights]
    for target, source in zip(weights, narrow.weights, strict=True):
        array = keras.ops.convert_to_numpy(source)
        target.assign(_widened(array, target.shape, pretrained))
    return model


def _before(tensor: keras.KerasTensor | None) -> list[keras.Layer]:
    """The layers that a user's `input_tensor` comes from."""
    if tensor is None:
        return []
    return keras.Model(keras.utils.get_source_inputs(tensor), tensor).layers


def _widened(array: np.ndarray, shape: Sequence[int], channels: int) -> np.ndarray:
    """Weights for more than `channels` channels, which give the same outputs as before.

    The kernels of the additional channels are 0; their statistics are the mean of those
    of the first channels.
    """
    if array.ndim == 2 and len(array) != shape[0]:
        # A layer of flattened images: the channels of a pixel are beside each other.
        pixels = array.reshape(-1, channels, shape[1])
        wide = (len(pixels), shape[0] // len(pixels), shape[1])
        return _widened(pixels, wide, channels).reshape(shape)
    for axis, (have, want) in enumerate(zip(array.shape, shape, strict=True)):
        if have != want:
            filling = array.mean(axis, keepdims=True)
            if axis != array.ndim - 1:
                filling = np.zeros_like(filling)
            more = np.repeat(filling, want - have, axis)
            array = np.concatenate([array, more], axis)
    return array


def _new_record(
    architecture: Architecture,
    model: keras.Model,
    arguments: dict[str, Any],
    record: Record | None,
) -> Record:
    """The record of a built model, based on the record of its weights if it has any."""
    changed = {
        name: arguments[name]
        for name in OF_WEIGHTS
        if arguments[name] != getattr(architecture, name)
    }
    classes = {"classes": int(arguments["classes"])}
    # `input_tensor` may come from several inputs, or from one that is not an image.
    shape = tuple(model.input_shape[1:]) if len(model.inputs) == 1 else ()
    how = None
    if len(shape) == 3 and shape[0] == shape[1]:
        how = record.preprocessing if record else None
        if side := shape[0]:
            how = how.scaled(side) if how else Preprocessing(side, side)
    return dataclasses.replace(
        record or Record(model=architecture.model),
        arguments=changed | (classes if arguments["include_top"] else {}),
        input_shape=shape,
        preprocessing=how,
    )


def _default(architecture: Architecture, name: str, value: Any) -> Any:
    """The value of an argument in `OF_WEIGHTS`; the architecture's if it is omitted."""
    return getattr(architecture, name) if value is None else _as_tuple(value)


def _known(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in arguments.items() if n in OF_WEIGHTS}


def _check_arguments_of_weights(
    architecture: Architecture, of_weights: Mapping[str, Any], record: Record
) -> None:
    for name, value in of_weights.items():
        made_with = _default(architecture, name, record.arguments.get(name))
        if value is not None and _as_tuple(value) != made_with:
            raise UserError(
                f"The weights {record.name!r} were made with {name}={made_with!r}. "
                f"Received: {name}={value!r}. Leave the argument out, or use "
                "`weights=None`."
            )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _network(
    architecture: Architecture,
    *,
    include_top: bool,
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape,
    pooling: str | None,
    classes: int,
    classifier_activation: str | Callable[..., Any] | None,
    name: str,
    activation: str,
    batch_normalization: bool,
    dropout: float | Sequence[float | Sequence[float]] | None,
    width: float,
    include_preprocessing: bool,
    preprocessing: str,
    kernel_initializer: Any,
    stem_strides: int,
    pyramid_levels: Sequence[int],
    repeat_gray: bool = False,
) -> keras.Model:
    _check_choice("activation", activation, ACTIVATIONS)
    _check_choice("preprocessing", preprocessing, PREPROCESSING)
    _check_choice("pooling", pooling, (None, "avg", "max"))
    _check_sizes(classes, width)
    *hidden_stacks, _ = architecture.stacks
    rates = dropout_rates(dropout, hidden_stacks)

    inputs = _image_input(input_tensor, input_shape)
    x = ModelRecord(Record(), name="record")(inputs)
    if repeat_gray:
        # Autocast would round raw images to bfloat16.
        repeat = keras.layers.Concatenate(dtype=_at_least_float32(), name=GRAY_TO_RGB)
        x = repeat([x] * 3)
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
        x = _head(x, classes, classifier_activation, kernel_initializer)
    if input_tensor is not None:
        sources = keras.utils.get_source_inputs(input_tensor)
        inputs = sources[0] if len(sources) == 1 else sources
    return keras.Model(inputs, x, name=name)


def _head(
    x: keras.KerasTensor,
    classes: int,
    activation: str | Callable[..., Any] | None,
    kernel_initializer: Any,
) -> keras.KerasTensor:
    # Logits and probabilities stay in float32 under mixed precision.
    dtype = _at_least_float32()
    tenth = keras.initializers.VarianceScaling(0.1, "fan_in", "truncated_normal")
    x = keras.layers.Dense(
        int(classes),
        kernel_initializer=fresh(kernel_initializer) or tenth,
        dtype=dtype,
        name=HEAD,
    )(x)
    if activation is None:
        return x
    return keras.layers.Activation(
        activation, dtype=dtype, name="predictions_activation"
    )(x)


def _stack(
    x: keras.KerasTensor,
    stack: Stack,
    name: str,
    *,
    strides: int,
    pool: bool,
    activation: Callable[..., keras.Layer],
    batch_normalization: bool,
    dropout: Sequence[float],
    width: float,
    kernel_initializer: Any,
) -> keras.KerasTensor:
    layers = [(units, field) for count, units, field in stack for _ in range(count)]
    for number, (units, field) in enumerate(layers, start=1):
        units = max(1, round(units * width))
        common = dict(
            use_bias=not batch_normalization,
            kernel_initializer=fresh(kernel_initializer),
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
            # Increasing activations, all that the paper has, commute with the maximum:
            # pooling first gives the same output with a quarter of the activations.
            x = keras.layers.MaxPooling2D(
                2, padding="same", data_format=NHWC, name=f"{name}_pool"
            )(x)
        x = activation(name=f"{name}_activation{number}")(x)
        if rate := dropout[number - 1]:
            x = keras.layers.Dropout(rate, name=f"{name}_dropout{number}")(x)
    return x


def _image_input(
    input_tensor: keras.KerasTensor | None, input_shape: Shape
) -> keras.KerasTensor:
    if input_tensor is not None:
        if not keras.utils.is_keras_tensor(input_tensor):
            raise UserError(
                "Expected input_tensor to be a Keras tensor, such as `keras.Input()`. "
                f"Received: input_tensor={input_tensor!r}"
            )
        return input_tensor
    if len(input_shape) != 3 or input_shape[-1] is None:
        raise UserError(
            "Expected input_shape to be (height, width, channels); height and width "
            f"may be None. Received: input_shape={input_shape!r}"
        )
    return keras.Input(input_shape, name="image")


def _check_sizes(classes: Any, width: float) -> None:
    if not isinstance(classes, numbers.Integral) or classes < 1:
        raise UserError(
            "Expected classes to be an integer of 1 or more. "
            f"Received: classes={classes!r}"
        )
    if not width > 0:
        raise UserError(f"Expected width to be positive. Received: width={width!r}")


def _check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    if value not in choices:
        raise UserError(
            f"Expected {name} to be one of {list(choices)}. Received: {name}={value!r}"
        )


def _at_least_float32() -> str:
    dtype = keras.config.dtype_policy().compute_dtype
    return "float32" if dtype in ("float16", "bfloat16") else dtype
