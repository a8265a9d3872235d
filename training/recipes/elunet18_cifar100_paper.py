r"""ELUNet18 on CIFAR-100 as in section 4.2 of the paper.

    python -m training.train training/recipes/elunet18_cifar100_paper.py --data DIR \
        --out RUN

Initialization, preprocessing, augmentation, momentum, weight decay and dropout are as
in `elunet11_cifar100_paper.py`; the learning rate falls once, to a tenth after 35,000
iterations. The paper then fine-tunes for 50,000 iterations with dropout after all
layers of a stack instead of only its last, and for 40,000 more with 1.5 times the
rates.

The paper is silent on the number of iterations before fine-tuning. Here they are
75,000, which makes the run as long as that of the 11 layers.

Cost: 8.98 GFLOP per image and training step at 32 pixels, 898 GFLOP per step, 148 PFLOP
in total. Result: not run here; the paper reports 24.28% test error.
"""

import keras

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import random_crop, random_flip
from training.engine.recipe import Recipe
from training.engine.schedules import piecewise

ITERATIONS = 165_000
RATES = {0: 0.01, 35_000: 0.001}

*HIDDEN_STACKS, _ = ARCHITECTURES["elunet18"].stacks
LAYERS = [sum(count for count, _, _ in stack) for stack in HIDDEN_STACKS]
DROPOUT = ARCHITECTURES["elunet18"].dropout


def after_all_layers(factor: float) -> list[list[float]]:
    """A rate for each layer; a single rate would be for the last layer of a stack."""
    return [
        [round(factor * rate, 4)] * layers
        for layers, rate in zip(LAYERS, DROPOUT, strict=True)
    ]


recipe = Recipe(
    model="ELUNet18",
    model_arguments={"preprocessing": "gcn_zca", "kernel_initializer": "he_normal"},
    dataset="cifar100",
    batch_size=100,
    epochs=330,
    augmentation=[random_crop(4), random_flip()],
    dropout={
        0: list(DROPOUT),
        75_000 / ITERATIONS: after_all_layers(1.0),
        125_000 / ITERATIONS: after_all_layers(1.5),
    },
    l2=0.0005,
    learning_rate=lambda steps: piecewise(RATES, of=ITERATIONS, steps=steps),
    optimizer=lambda schedule: keras.optimizers.SGD(schedule, momentum=0.9),
)
