"""The networks that the benchmarks time and measure, in Keras."""

import itertools
from collections.abc import Mapping
from typing import Any

# Suffix of variants with batch normalization.
NORMALIZED = "_normalized"


def network(variant: str, case: Mapping[str, Any]) -> Any:
    """Builds the network of a case, and sets Keras's precision.

    Args:
        variant: The network's argument `activation`, with the suffix `"_normalized"`
            for batch normalization, or `"keras"` for Keras's own layers.
        case: The case.

    Returns:
        A Keras model that gives logits if it is to train, else probabilities.
    """
    import keras

    from elu_zoo.models import build_model

    precision = "mixed_bfloat16" if case["dtype"] == "bfloat16" else "float32"
    keras.config.set_dtype_policy(precision)
    settings = case["arguments"] | {
        "input_shape": (case["size"], case["size"], 3),
        "classifier_activation": "softmax" if case["kind"] == "predict" else None,
    }
    if variant == "keras":
        return stock_network(case["model"], **settings)
    activation = variant.removesuffix(NORMALIZED)
    settings["batch_normalization"] = activation != variant
    return build_model(case["model"], settings, activation=activation)


def stock_network(
    model: str,
    input_shape: tuple[int, int, int],
    classifier_activation: str | None,
    width: float = 1.0,
    stem_strides: int = 1,
    classes: int = 100,
) -> Any:
    """Builds a convolutional network of Keras's layers, in the order of the paper.

    Each layer has its activation, and pooling comes after the last one of a stack.
    `elu_zoo` pools before that activation, which gives the same result. Spatial pyramid
    pooling is that of `elu_zoo`, since Keras has none.

    Args:
        model: `"ELUNet11"`, `"ELUNet15"` or `"ELUNet18"`.
        input_shape: `(height, width, channels)`.
        classifier_activation: Activation of the output layer.
        width: Factor of the number of units.
        stem_strides: Strides of the first layer.
        classes: Number of classes.

    Returns:
        A Keras model.
    """
    import keras
    from keras import layers

    from elu_zoo.architectures import FC, find_architecture
    from elu_zoo.layers import SpatialPyramidPooling

    found = find_architecture(model)
    assert found is not None
    stacks, levels = found[1].stacks, found[1].pyramid_levels
    net = keras.Sequential([keras.Input(input_shape), layers.Rescaling(1 / 64, -2)])
    strides = stem_strides
    for stack, following in itertools.pairwise(stacks):
        rows = [(units, field) for count, units, field in stack for _ in range(count)]
        for units, field in rows:
            units, elu = max(1, round(units * width)), {"activation": "elu"}
            if field == FC:
                net.add(layers.Dense(units, **elu))
            else:
                net.add(layers.Conv2D(units, field, strides, padding="same", **elu))
            strides = 1
        if following[0][2] != FC:
            net.add(layers.MaxPooling2D(padding="same"))
        elif stack[0][2] != FC:
            net.add(SpatialPyramidPooling(levels))
    if not levels:
        net.add(layers.GlobalAveragePooling2D())
    net.add(layers.Dense(classes, classifier_activation, dtype="float32"))
    return net
