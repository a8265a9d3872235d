"""The recipe of `elunet15.tiny_imagenet`, half as wide and six epochs long.

It serves for choices for which a run of the recipe itself would take hours:

    python -m training.train training/benchmarks/tiny_narrow.py \
        --holdout 5000 --data DIR --out RUN

Cost: 0.24 PFLOP.
"""

import dataclasses
import pathlib

from training.engine.recipe import load_recipe

RECIPES = pathlib.Path(__file__).parents[2] / "training/recipes"

recipe = load_recipe(
    RECIPES / "elunet15_tiny_imagenet.py",
    epochs=6,
    image_sizes={0: 32, 4: 40, 5: 48},
)
recipe = dataclasses.replace(
    recipe, model_arguments={**recipe.model_arguments, "width": 0.125}
)
