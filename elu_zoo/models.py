"""The paper's networks as functions with the arguments of `keras.applications`."""

import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from elu_zoo._builder import GRAY_TO_RGB, build
from elu_zoo._hub import is_address
from elu_zoo._record_layer import ModelRecord
from elu_zoo.errors import UserError
from elu_zoo.records import Preprocessing, Record, record_of
from elu_zoo.weights import did_you_mean, get_record, list_weights


def ELUNet11(
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | Sequence[str] | None = None,
    classifier_activation: str | Callable[..., Any] | None = "softmax",
    name: str = "elunet11",
    *,
    activation: str | None = None,
    batch_normalization: bool | None = None,
    dropout: float | Sequence[float | Sequence[float]] | None = None,
    width: float | None = None,
    include_preprocessing: bool = True,
    preprocessing: str | None = None,
    kernel_initializer: Any = None,
) -> keras.Model:
    """The 11-layer CIFAR network (section 4.2 of the paper), with 1.67 M weights.

    Arguments shared with `keras.applications` mean the same here. The model takes raw
    images with values from 0 to 255 (`uint8` or float, NHWC). Preprocessing is a layer
    of the model, and its statistics are part of the weights. With a `weights` tag,
    omitted arguments take the values that the weights were made with.

    Args:
        include_top: Whether to include the output layer.
        weights: `None` (random initialization), a tag of published weights (see
            `elu_zoo.list_weights()`), an address `"hf://owner/name[@revision]"` on the
            Hugging Face Hub, or the path of a `.weights.h5` file.
        input_tensor: Optional Keras tensor to use as the image input.
        input_shape: Optional `(height, width, channels)`; default `(32, 32, 3)`, or
            the shape of the weights. Weights for 3 channels also serve 1 channel, where
            an image gives the outputs of its RGB copy, and more than 3, where the
            additional channels have no influence at first.
        pooling: With `include_top=False`: `None` for the unpooled output of the last
            hidden layer, `"avg"` or `"max"` for global pooling over the image.
        classes: Number of your own classes, or a list of their names. With a `weights`
            tag, all layers except the output layer are loaded, and the output layer
            starts from random weights, even if the number is that of the weights. Of
            classes whose name the weights know, it starts from their weights. Default:
            the classes of the weights, with their output layer, or 100 without weights.
            With a file, it must be the number of classes in the file.
        classifier_activation: Activation of the output layer; `None` for logits.
        name: Name of the model.
        activation: `"elu"` (default), one of the units that the paper compares it with,
            `"relu"`, `"leaky_relu"` (slope 0.1) and `"shifted_relu"`, or one of later
            units, `"gelu"`, `"mish"`, `"selu"` and `"silu"`.
        batch_normalization: Whether to batch-normalize each hidden layer before its
            activation. The default is no: the networks are meant to be trained without.
        dropout: `None` for no dropout, one rate for all hidden stacks, or a sequence
            with one rate per stack, applied after the last layer of the stack (after
            each layer of a fully-connected stack). A sequence in place of a stack's
            rate gives one rate per layer. The paper's rates are
            `elu_zoo.architectures.ARCHITECTURES["elunet11"].dropout`.
        width: Factor for the number of units of every hidden layer. Default: that of
            the weights, or 1.
        include_preprocessing: Whether the model starts with its preprocessing.
        preprocessing: `"standardize"` (default; mean and standard deviation per
            channel), `"pixel_mean"` (the same per pixel and channel, for images of one
            size), `"gcn_zca"` (the paper's global contrast normalization and ZCA
            whitening) or `"rescale"` (to 0–1). All but `"rescale"` have statistics:
            call `elu_zoo.adapt_preprocessing`, or load weights.
        kernel_initializer: Initializer of all kernels, such as the paper's
            `"he_normal"`. The default, `None`, is LeCun normal with a tenth of the
            variance in the output layer. Without normalization the loss then starts
            near `log(classes)`; with He initialization it starts far above. For plain
            SGD take He's: from the default, 18 layers learned nothing in 900 steps.

    Returns:
        A functional `keras.Model`. Its layers are named after the paper's stacks
        (`"stack2_conv1"`, ..., `"predictions"`); see `elu_zoo.features`.

    Raises:
        ValueError: If an argument is not one of the values above, or contradicts the
            weights.
        OSError: If published weights cannot be found or downloaded.

    Example:

    >>> model = ELUNet11(classes=10)
    >>> model.output_shape
    (None, 10)
    """
    return build(
        "elunet11",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        activation=activation,
        batch_normalization=batch_normalization,
        dropout=dropout,
        width=width,
        include_preprocessing=include_preprocessing,
        preprocessing=preprocessing,
        kernel_initializer=kernel_initializer,
    )


def ELUNet18(
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | Sequence[str] | None = None,
    classifier_activation: str | Callable[..., Any] | None = "softmax",
    name: str = "elunet18",
    *,
    activation: str | None = None,
    batch_normalization: bool | None = None,
    dropout: float | Sequence[float | Sequence[float]] | None = None,
    width: float | None = None,
    include_preprocessing: bool = True,
    preprocessing: str | None = None,
    kernel_initializer: Any = None,
) -> keras.Model:
    """The 18-layer CIFAR network (section 4.2 of the paper), with 39 M weights.

    The paper's table lists 18 hidden layers and the output layer. The arguments and
    their defaults are those of `elu_zoo.ELUNet11`.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: As in `elu_zoo.ELUNet11`.

    Example:

    >>> model = ELUNet18(include_top=False, pooling="avg", width=0.125)
    >>> model.output_shape
    (None, 144)
    """
    return build(
        "elunet18",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        activation=activation,
        batch_normalization=batch_normalization,
        dropout=dropout,
        width=width,
        include_preprocessing=include_preprocessing,
        preprocessing=preprocessing,
        kernel_initializer=kernel_initializer,
    )


def ELUNet15(
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | Sequence[str] | None = None,
    classifier_activation: str | Callable[..., Any] | None = "softmax",
    name: str = "elunet15",
    *,
    activation: str | None = None,
    batch_normalization: bool | None = None,
    dropout: float | Sequence[float | Sequence[float]] | None = None,
    width: float | None = None,
    include_preprocessing: bool = True,
    preprocessing: str | None = None,
    kernel_initializer: Any = None,
    stem_strides: int | None = None,
    pyramid_levels: Sequence[int] | None = None,
) -> keras.Model:
    """The 15-layer ImageNet network (section 4.3 of the paper), with 165 M weights.

    Spatial pyramid pooling before the fully-connected layers makes it accept images of
    any size: pass `input_shape=(None, None, 3)`, the default with published weights.
    Arguments not listed here are those of `elu_zoo.ELUNet11`.

    Args:
        input_shape: Optional `(height, width, channels)`; default `(224, 224, 3)`, or
            the shape of the weights.
        classes: Number of classes; default 1000, or that of the weights.
        stem_strides: Strides of the first convolution; default 2. The paper does not
            state them; 2 makes its training times plausible. Use 1 for images of 64
            pixels.
        pyramid_levels: Sides of the grids of the spatial pyramid pooling (He et al.,
            2015); default `(4, 2, 1)`. The paper has three levels and does not state
            their sizes.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: As in `elu_zoo.ELUNet11`.

    Example:

    >>> model = ELUNet15(input_shape=(None, None, 3), width=0.125)
    >>> model.output_shape
    (None, 1000)
    """
    return build(
        "elunet15",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        activation=activation,
        batch_normalization=batch_normalization,
        dropout=dropout,
        width=width,
        include_preprocessing=include_preprocessing,
        preprocessing=preprocessing,
        kernel_initializer=kernel_initializer,
        stem_strides=stem_strides,
        pyramid_levels=pyramid_levels,
    )


def MNISTClassifier(
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | Sequence[str] | None = None,
    classifier_activation: str | Callable[..., Any] | None = "softmax",
    name: str = "mnist_classifier",
    *,
    activation: str | None = None,
    batch_normalization: bool | None = None,
    dropout: float | Sequence[float | Sequence[float]] | None = None,
    width: float | None = None,
    include_preprocessing: bool = True,
    preprocessing: str | None = None,
    kernel_initializer: Any = None,
) -> keras.Model:
    """The MNIST classifier (section 4.1 of the paper): 8 hidden layers of 128 units.

    Arguments not listed here are those of `elu_zoo.ELUNet11`.

    Args:
        input_shape: Optional `(height, width, channels)`; default `(28, 28, 1)`.
        classes: Number of classes; default 10.
        preprocessing: As in `elu_zoo.ELUNet11`; default `"rescale"`.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: As in `elu_zoo.ELUNet11`.

    Example:

    >>> MNISTClassifier().count_params()
    217354
    """
    return build(
        "mnist_classifier",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        activation=activation,
        batch_normalization=batch_normalization,
        dropout=dropout,
        width=width,
        include_preprocessing=include_preprocessing,
        preprocessing=preprocessing,
        kernel_initializer=kernel_initializer,
    )


def MNISTAutoencoder(
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | Callable[..., Any] | None = "sigmoid",
    name: str = "mnist_autoencoder",
    *,
    activation: str | None = None,
    batch_normalization: bool | None = None,
    dropout: float | Sequence[float | Sequence[float]] | None = None,
    width: float | None = None,
    include_preprocessing: bool = True,
    preprocessing: str | None = None,
    kernel_initializer: Any = None,
) -> keras.Model:
    """The MNIST autoencoder (section 4.1 of the paper): 1000-500-250-30, mirrored.

    Its "classes" are pixels: the output is the reconstructed image as a vector of
    values from 0 to 1, and `include_top=False` omits the output layer. The code of 30
    units is `"stack1"` of `elu_zoo.features`. Arguments not listed here are those of
    `elu_zoo.ELUNet11`.

    Args:
        input_shape: Optional `(height, width, channels)`; default `(28, 28, 1)`.
        classes: Number of pixels; default 784.
        classifier_activation: Activation of the output layer; default `"sigmoid"`.
        preprocessing: As in `elu_zoo.ELUNet11`; default `"rescale"`.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: As in `elu_zoo.ELUNet11`.

    Example:

    >>> MNISTAutoencoder().output_shape
    (None, 784)
    """
    return build(
        "mnist_autoencoder",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        activation=activation,
        batch_normalization=batch_normalization,
        dropout=dropout,
        width=width,
        include_preprocessing=include_preprocessing,
        preprocessing=preprocessing,
        kernel_initializer=kernel_initializer,
    )


MODELS: dict[str, Callable[..., keras.Model]] = {
    "elunet11": ELUNet11,
    "elunet18": ELUNet18,
    "elunet15": ELUNet15,
    "mnist_classifier": MNISTClassifier,
    "mnist_autoencoder": MNISTAutoencoder,
}
"""The model functions by the names of their architectures."""


def list_models() -> list[str]:
    """Lists the names of the model functions.

    Returns:
        The names, each of a function of `elu_zoo`.

    Example:

    >>> list_models()
    ['ELUNet11', 'ELUNet18', 'ELUNet15', 'MNISTClassifier', 'MNISTAutoencoder']
    """
    return [function.__name__ for function in MODELS.values()]


def get_model_function(name: str) -> Callable[..., keras.Model]:
    """Finds a model function by its name.

    Args:
        name: A name as in `list_models()`, such as `"ELUNet11"`, in any case.

    Returns:
        The function.

    Raises:
        UserError: If there is no such model.

    Example:

    >>> get_model_function("elunet11") is ELUNet11
    True
    """
    for key, function in MODELS.items():
        if str(name).lower() in (function.__name__.lower(), key):
            return function
    raise UserError(
        f"Expected one of the models {list_models()}. Received: {name!r}"
        + did_you_mean(str(name), list_models())
    )


def build_model(model: str, arguments: Mapping[str, Any], **more: Any) -> keras.Model:
    """Builds a model from settings, such as those of a record or a run.

    Args:
        model: Name of the model function.
        arguments: Its arguments. `dropout` is ignored, because it has no weights.
        **more: Arguments that override `arguments`.

    Returns:
        A `keras.Model`.

    Raises:
        UserError: If there is no such model, or an argument is invalid.

    Example:

    >>> build_model("ELUNet11", {"width": 0.1, "dropout": 0.5}, classes=3).output_shape
    (None, 3)
    """
    kept = {name: value for name, value in arguments.items() if name != "dropout"}
    return get_model_function(model)(**kept | more)


def load(name_or_path: str | os.PathLike[str], **arguments: Any) -> keras.Model:
    """Loads a model with its weights and its record.

    Args:
        name_or_path: Name of published weights, such as `"elunet11.cifar100"`, an
            address `"hf://owner/name[@revision]"` on the Hugging Face Hub, or the path
            of a `.keras` file or of a folder that holds a `model.keras`.
        **arguments: For published weights, arguments of the model function, such as
            `classes`, `input_shape` or `classifier_activation`.

    Returns:
        A `keras.Model`. `preprocess_input`, `decode_predictions`, `evaluate` and
        `export_saved_model` take it and need no further information.

    Raises:
        UserError: If there are no such weights, or the file is not a model made of
            layers of Keras and this package.
        OSError: If the file cannot be read, found or downloaded.

    Example:

    >>> model = load("elunet11.cifar100")
    >>> model.output_shape
    (None, 100)
    """
    path = pathlib.Path(name_or_path).expanduser()
    # A name of published weights wins over a folder of that name, which is "./NAME".
    named = is_address(name_or_path) or str(name_or_path) in list_weights()
    if not named and path.is_dir():
        path = path / "model.keras"
    if path.suffix == ".keras" and not named:
        if arguments:
            raise UserError(
                f"Expected no arguments beside a saved model, {path}, which has its "
                f"own. Received: {arguments}"
            )
        return _load_saved(path)
    record = get_record(str(name_or_path))
    return get_model_function(record.model)(weights=record.name, **arguments)


def _load_saved(path: pathlib.Path) -> keras.Model:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a saved model. There is no {path}")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        # Keras's message puts the model's whole configuration before the cause.
        cause = str(error).rsplit("Exception encountered: ", 1)[-1] or repr(error)
        raise UserError(
            f"Expected a model of layers of Keras and elu_zoo. Received: {path}, which "
            f"Keras cannot load: {cause.splitlines()[0][:200]}"
        ) from error
    names = path.with_name("class_names.json")
    if record_of(model) is None and names.is_file():
        # Version 0.1 kept the class names in this file.
        record = _record_of_names(model, json.loads(names.read_text("utf-8")))
        return _with_record(model, record)
    return model


def _with_record(model: keras.Model, record: Record) -> keras.Model:
    """A copy with one more layer, after the input, which keeps the record when saved.

    Shared layers would have two outputs each, of which `features` cannot take one.
    """
    keeper = ModelRecord(record, name="record")
    model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    first = model.layers[1].name

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if layer.name == first:
            args = (keeper(args[0]), *args[1:])
        return layer(*args, **kwargs)

    copy = keras.models.clone_model(model, call_function=call)
    copy.set_weights(model.get_weights())
    return copy


def _record_of_names(model: keras.Model, class_names: Sequence[str]) -> Record:
    shape = model.input_shape[1:]
    square = len(shape) == 3 and shape[0] is not None and shape[0] == shape[1]
    how = Preprocessing(shape[0], shape[0]) if square else None
    return Record(input_shape=shape, preprocessing=how, class_names=tuple(class_names))


def adapt_preprocessing(model: keras.Model, images: np.ndarray) -> None:
    """Computes the statistics of a model's preprocessing from images.

    Args:
        model: Keras model made by a model function of `elu_zoo`; changed in place.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255.

    Raises:
        UserError: If the images have a different number of channels than the model's.

    Example:

    >>> model = ELUNet11(width=0.1, preprocessing="standardize")
    >>> adapt_preprocessing(model, np.full((10, 32, 32, 3), 7, "uint8"))
    >>> np.asarray(model.get_layer("preprocessing").mean).ravel()
    array([7., 7., 7.], dtype=float32)
    """
    layers = [x for x in model.layers if x.name.startswith("preprocessing")]
    if not layers:
        return
    gray = any(layer.name == GRAY_TO_RGB for layer in model.layers)
    channels = 1 if gray else layers[0].input.shape[-1]
    if images.shape[-1] != channels:
        raise UserError(
            f"Expected images of {channels} channels, as the model's. "
            f"Received: {images.shape[-1]} channels"
        )
    if gray:
        images = np.repeat(images, 3, axis=-1)
    for layer in layers:
        if hasattr(layer, "adapt"):
            layer.adapt(images)
        if layer is not layers[-1]:
            parts = np.array_split(images, max(1, len(images) // 1000))
            images = np.concatenate(
                [keras.ops.convert_to_numpy(layer(part)) for part in parts]
            )
