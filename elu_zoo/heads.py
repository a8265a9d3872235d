"""Output layers: reset, made for other classes, started from known classes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from elu_zoo.architectures import reconstructs
from elu_zoo.errors import UserError
from elu_zoo.records import record_of

HEAD = "predictions"
"""Name of the output layer."""


def reset_head(model: keras.Model) -> None:
    """Resets the output layer of a model with its initializers.

    Args:
        model: Keras model made by a model function of `elu_zoo`; changed in place.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=5, width=0.1)
    >>> reset_head(model)
    >>> float(abs(np.asarray(model.get_layer("predictions").bias)).max())
    0.0
    """
    head = model.get_layer(HEAD)
    for variable, initializer in (
        (head.kernel, head.kernel_initializer),
        (head.bias, head.bias_initializer),
    ):
        variable.assign(fresh(initializer)(variable.shape, variable.dtype))


def gives_pixels(model: keras.Model) -> bool:
    """Tells whether a model is a network of this package that reconstructs images.

    Args:
        model: Keras model. With an output layer of its own, it may contain such a
            network.

    Returns:
        Whether its outputs are the pixels of its images.

    Example:

    >>> import elu_zoo
    >>> gives_pixels(elu_zoo.MNISTAutoencoder(width=0.1))
    True
    """
    record = record_of(model)
    own_output = any(layer.name == HEAD for layer in model.layers)
    return bool(record and own_output and reconstructs(record.model))


def check_classifier(model: keras.Model) -> None:
    """Checks that the outputs of a model are not pixels.

    Args:
        model: Keras model; see `gives_pixels`.

    Raises:
        UserError: If they are.

    Example:

    >>> import elu_zoo
    >>> check_classifier(elu_zoo.MNISTAutoencoder(width=0.1))
    Traceback (most recent call last):
    elu_zoo.errors.UserError: Expected a classifier. Received: MNISTAutoencoder, which \
reconstructs its images
    """
    record = record_of(model)
    if record and gives_pixels(model):
        raise UserError(
            f"Expected a classifier. Received: {record.model}, which reconstructs its "
            "images"
        )


def fresh(initializer: Any) -> Any:
    """Copies an initializer for one use: Keras's give the same values every time.

    Args:
        initializer: Initializer, or what Keras makes one of.

    Returns:
        A copy of a Keras initializer without a seed; otherwise the argument.

    Example:

    >>> once = keras.initializers.RandomNormal()
    >>> bool(keras.ops.all(once((2,)) == once((2,))))
    True
    >>> bool(keras.ops.any(fresh(once)((2,)) == once((2,))))
    False
    """
    if isinstance(initializer, keras.initializers.Initializer):
        config = initializer.get_config()
        if config.get("seed", 0) is None:
            return initializer.__class__.from_config(config)
    return initializer


def with_classes(
    model: keras.Model, class_names: Sequence[str], known_names: Sequence[str] = ()
) -> keras.Model:
    """Gives a network an output layer for other classes.

    Classes that the network already knows keep their weights, so that training starts
    from what it can do; see `start_head`.

    Args:
        model: Keras model made by a model function of `elu_zoo`. Its other layers are
            shared with the result, not copied.
        class_names: Names of the new classes.
        known_names: Names of the model's own classes, in the order of its outputs.

    Returns:
        A functional `keras.Model`.

    Raises:
        UserError: If the model has no layer `"predictions"`.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=3, width=0.05)
    >>> with_classes(model, ["cat", "dog"], ["ant", "bee", "cat"]).output_shape
    (None, 2)
    """
    layers = [layer.name for layer in model.layers]
    if HEAD not in layers:
        raise UserError(
            "Expected a model of elu_zoo with an output layer named 'predictions'. "
            f"Received: {model!r}, whose last layer is {layers[-1:]}"
        )
    old, *rest = model.layers[layers.index(HEAD) :]
    head = keras.layers.Dense.from_config(
        old.get_config() | {"units": len(class_names)}
    )
    outputs = head(old.input)
    for layer in rest:
        outputs = type(layer).from_config(layer.get_config())(outputs)
    kernel, bias = old.get_weights()
    start_head(head, kernel, bias, known_names, class_names)
    return keras.Model(model.input, outputs, name=model.name)


def start_head(
    head: keras.layers.Dense,
    kernel: np.ndarray,
    bias: np.ndarray,
    known_names: Sequence[str],
    class_names: Sequence[str],
) -> int:
    """Initializes an output layer from a different one where class names match.

    The other classes keep random weights, scaled to match the copied ones.

    Args:
        head: Output layer for `class_names`, changed in place.
        kernel: Kernel of the other layer, of shape `(units, known classes)`.
        bias: Bias of the other layer, of shape `(known classes,)`.
        known_names: Class names of the other layer.
        class_names: Class names of `head`. Names match regardless of case, and of
            whether spaces, hyphens or underscores join their words.

    Returns:
        The number of classes whose weights were copied.

    Example:

    >>> head = keras.layers.Dense(2)
    >>> head.build((None, 3))
    >>> start_head(head, np.eye(3), np.arange(3), ["ox", "sea_lion", "cat"],
    ...            ["dog", "Sea lion"])
    1
    >>> kernel, bias = head.get_weights()
    >>> kernel[:, 1], bias[1]
    (array([0., 1., 0.], dtype=float32), np.float32(1.0))
    """
    places = {_plain(name): place for place, name in enumerate(known_names)}
    new = [n for n, name in enumerate(class_names) if _plain(name) in places]
    if not new:
        return 0
    old = [places[_plain(class_names[n])] for n in new]
    kernels, biases = map(np.array, head.get_weights())
    if spread := kernels.std():
        kernels *= kernel[:, old].std() / spread
    kernels[:, new] = kernel[:, old]
    biases[:] = bias[old].mean()
    biases[new] = bias[old]
    head.kernel.assign(kernels)
    head.bias.assign(biases)
    return len(new)


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")
