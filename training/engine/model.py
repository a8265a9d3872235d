"""The model of a recipe, its dropout rates and its averaged weights."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from elu_zoo import models
from elu_zoo.architectures import dropout_rates, find_architecture, reconstructs
from elu_zoo.errors import UserError
from training.engine.recipe import Recipe


def build_model(
    recipe: Recipe, classes: int, image_shape: tuple[int | None, int | None, int]
) -> keras.Model:
    """Builds the model of a recipe.

    Args:
        recipe: The recipe.
        classes: Number of classes; an autoencoder has its pixels instead.
        image_shape: `(height, width, channels)` of the images for evaluation. The model
            takes images of any size if the recipe trains at other sizes.

    Returns:
        A Keras model that gives logits of shape `(n, classes)`.

    Raises:
        UserError: If the model function refuses the recipe's arguments.
    """
    sizes = {*image_shape[:2], *recipe.image_sizes.values()}
    shape = image_shape if len(sizes) == 1 else (None, None, image_shape[-1])
    if reconstructs(recipe.model):
        classes = math.prod(side or 1 for side in image_shape)
    arguments = {"classes": classes, "input_shape": shape, **recipe.model_arguments}
    dropout = arguments.get("dropout")
    if recipe.dropout:
        # A dropout layer wherever one of the phases has a rate.
        phases = [layered_dropout(recipe, rates) for rates in recipe.dropout.values()]
        dropout = keras.tree.map_structure(lambda *rates: max(rates), *phases)
    try:
        return models.build_model(
            recipe.model, arguments, dropout=dropout, classifier_activation=None
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"Expected a model that can be built. Received: {recipe.model} with "
            f"{arguments | {'dropout': dropout}}: {error}"
        ) from error


def layered_dropout(
    recipe: Recipe, rates: float | Sequence | None
) -> list[list[float]]:
    """Expands the dropout rates of a phase to one per layer of each hidden stack.

    Args:
        recipe: The recipe.
        rates: Rates of the phase, as in the model functions' argument `dropout`.

    Returns:
        A list of rates for each hidden stack.

    Raises:
        UserError: If the rates do not fit the network.
    """
    found = find_architecture(recipe.model)
    assert found, recipe.model  # A recipe has a model function.
    return dropout_rates(rates, found[1].stacks[:-1])


def set_dropout(model: keras.Model, rates: Sequence[Sequence[float]]) -> None:
    """Changes the rates of a model's dropout layers, in place.

    Args:
        model: Result of `build_model`.
        rates: Result of `layered_dropout`.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            stack, number = layer.name.removeprefix("stack").split("_dropout")
            layer.rate = rates[int(stack) - 1][int(number) - 1]


@contextlib.contextmanager
def averaged(
    model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> Iterator[None]:
    """Lets the model use the optimizer's averaged weights, if it keeps any.

    Args:
        model: The model; it has its own weights again after the block.
        optimizer: Its optimizer.
    """
    values = [np.asarray(variable) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value)
