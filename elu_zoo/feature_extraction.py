"""The outputs of a network's stacks, found by the names of its layers."""

import re
from collections.abc import Sequence

import keras

from elu_zoo.errors import UserError


def features(model: keras.Model, stacks: Sequence[str] | None = None) -> keras.Model:
    """Makes a model that outputs the features of a network's stacks.

    Args:
        model: A model of this package: from a model function, fine-tuned, or loaded
            from a file. It is shared, not copied: training one trains the other.
        stacks: Names of the stacks to output, such as `["stack2", "stack5"]`; default
            all of them.

    Returns:
        A functional `keras.Model` with the same input. Its output is a dict from
        `"stack1"`, `"stack2"`, ... to the output of the stack's last layer: feature
        maps of shape `(n, height, width, units)`, whose size each stack halves or
        keeps, or vectors of shape `(n, units)`.

    Raises:
        UserError: If the model does not have these stacks.

    Example:

    >>> import elu_zoo
    >>> model = features(elu_zoo.ELUNet11(width=0.05), ["stack1", "stack2"])
    >>> {name: output.shape for name, output in model.output.items()}
    {'stack1': (None, 16, 16, 10), 'stack2': (None, 8, 8, 12)}
    """
    layers = stack_layers(model)
    wanted = list(layers) if stacks is None else stacks
    if isinstance(wanted, str) or not wanted or any(s not in layers for s in wanted):
        raise UserError(
            f"Expected stacks to be a list of some of {list(layers)}. "
            f"Received: stacks={stacks!r}"
        )
    outputs = {stack: layers[stack][-1].output for stack in wanted}
    return keras.Model(model.input, outputs, name=f"{model.name}_features")


def stack_layers(model: keras.Model) -> dict[str, list[keras.Layer]]:
    """Finds the layers of each stack.

    Args:
        model: A model of this package.

    Returns:
        A dict from `"stack1"`, `"stack2"`, ... to the stack's layers, in order.

    Raises:
        UserError: If no layer of the model is named after a stack.

    Example:

    >>> import elu_zoo
    >>> layers = stack_layers(elu_zoo.ELUNet11(width=0.05))
    >>> [layer.name for layer in layers["stack1"]]
    ['stack1_conv1', 'stack1_pool', 'stack1_activation1']
    """
    stacks: dict[str, list[keras.Layer]] = {}
    for layer in getattr(model, "layers", []):
        if match := re.match(r"(stack\d+)_", layer.name):
            stacks.setdefault(match[1], []).append(layer)
    if not stacks:
        inner = [
            layer.name
            for layer in getattr(model, "layers", [])
            if isinstance(layer, keras.Model)
        ]
        hint = (
            f" Pass the model inside it: model.get_layer({inner[0]!r})."
            if inner
            else ""
        )
        raise UserError(
            "Expected a model of elu_zoo, with layers named 'stack1_conv1' and so on. "
            f"Received: {model!r}, which has none.{hint}"
        )
    return stacks


def find_trunk(model: keras.Model) -> keras.Model:
    """Finds the model of this package within a model: itself, or the first inside it.

    Args:
        model: Keras model, such as `Sequential([ELUNet11(include_top=False), ...])`.

    Returns:
        The `keras.Model` whose layers are named after stacks; `model` if there is none.

    Example:

    >>> import elu_zoo
    >>> trunk = elu_zoo.ELUNet11(width=0.05, include_top=False, pooling="avg")
    >>> find_trunk(keras.Sequential([trunk, keras.layers.Dense(2)])) is trunk
    True
    """
    inner = [model]
    for candidate in inner:
        layers = getattr(candidate, "layers", [])
        if any(re.match(r"stack\d+_", layer.name) for layer in layers):
            return candidate
        inner += [layer for layer in layers if isinstance(layer, keras.Model)]
    return model
