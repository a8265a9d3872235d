"""The training steps of recipes, for the benchmarks that take them apart."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from training.benchmarks.measuring import ROOT


def steps(
    name: str, side: int, size: int, arguments: argparse.Namespace
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Makes functions that compute a step.

    Args:
        name: Name of the recipe.
        side: Side of the data set's images in pixels.
        size: Side to train at.
        arguments: Parsed arguments.

    Returns:
        A function for the whole step, and one for the step of a ready batch.
    """
    import numpy as np

    from training.data.memory import MemoryDataset
    from training.data.stream import Stream
    from training.engine import device
    from training.engine.model import build_model
    from training.engine.recipe import load_recipe
    from training.engine.steps import Steps
    from training.engine.strategy import make_placement

    recipe = load_recipe(
        ROOT / f"training/recipes/{name}.py", batch_size=arguments.batch_size
    )
    if arguments.width:
        narrow = {**recipe.model_arguments, "width": arguments.width}
        recipe = dataclasses.replace(recipe, model_arguments=narrow)
    count = 4 * arguments.batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), "uint8")
    data = MemoryDataset(images, np.arange(count) % 100, tuple(map(str, range(100))))
    stream = Stream(data, arguments.batch_size, recipe.augmentation, {0: size})

    def prepared(*resident: Any) -> Callable[..., Any]:
        model = build_model(recipe, 100, (None, None, 3))
        optimizer = recipe.optimizer(1e-3)
        optimizer.build(model.trainable_variables)
        placement, jit = make_placement("none"), device.default_jit()
        return Steps(model, optimizer, recipe, placement, jit, *resident).train

    whole, alone = prepared(stream.on_device, stream.resident), prepared()
    batch = stream.batch(0)
    return (
        lambda: np.asarray(whole([stream.drawn(0)])),
        lambda: np.asarray(alone([batch])),
    )
