r"""ELUNet11 on CIFAR-100 as in section 4.2 of the paper.

    python -m training.train training/recipes/elunet11_cifar100_paper.py --data DIR \
        --out RUN

Everything is the paper's: He initialization, global contrast normalization and ZCA
whitening, SGD with momentum, L2 weight decay, dropout after each stack, random crops of
images padded by four zeros, flips, and four learning rates in 165,000 iterations. The
paper reports ten runs: `--seed 0` to `--seed 9`.

Cost: 0.945 GFLOP per image and training step at 32 pixels, 94.5 GFLOP per step, 15.6
PFLOP in total. Result: the paper reports 28.75 ± 0.24% test error. The recipe has not
been run to its end here; with `--epochs 14`, which compresses the schedule to 7,000
iterations, the test error was 64.4% after 0.66 PFLOP, 126 minutes on two AVX2 cores of
an AMD EPYC in float32, pauses included.
"""

import keras

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import random_crop, random_flip
from training.engine.recipe import Recipe
from training.engine.schedules import piecewise

ITERATIONS = 165_000
RATES = {0: 0.01, 35_000: 0.005, 85_000: 0.0005, 135_000: 0.00005}

recipe = Recipe(
    model="ELUNet11",
    model_arguments={
        "preprocessing": "gcn_zca",
        "kernel_initializer": "he_normal",
        "dropout": list(ARCHITECTURES["elunet11"].dropout),
    },
    dataset="cifar100",
    batch_size=100,
    epochs=330,
    augmentation=[random_crop(4), random_flip()],
    l2=0.0005,
    learning_rate=lambda steps: piecewise(RATES, of=ITERATIONS, steps=steps),
    optimizer=lambda schedule: keras.optimizers.SGD(schedule, momentum=0.9),
)
