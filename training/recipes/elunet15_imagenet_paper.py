r"""ELUNet15 on ImageNet as in section 4.3 of the paper.

    python -m training.train training/recipes/elunet15_imagenet_paper.py --data DIR \
        --out RUN

From the paper: He initialization, L2 weight decay, 50% dropout in the two wide layers,
images resized to 256×256 (by `training.prepare`: docs/imagenet.md), the mean of each
pixel subtracted, random crops of 224×224, flips, and a single center crop to evaluate.
The mean is that of 2,000 images. Each pixel is also divided by its standard deviation,
which is nearly the same for all, since He's initialization expects inputs of unit
variance.

The paper is silent on three more things:

- the batch size. With 64 images, the paper's 12.15 hours for 10,000 iterations are 3.6
  TFLOP/s, plausible for a GPU of that year; with 128 they would exceed what such a GPU
  can do. On many devices use `--batch-size`, which scales the learning rate.
- the learning rates. They are those of the paper's 11-layer network, with the same
  shares of the run, and so is the momentum.
- the length. 30 epochs are 600,540 iterations; the paper reaches 20% top-5 error after
  160,000.

Cost: 246 GFLOP per image and training step at 224 pixels, 15.7 TFLOP per step, 9440
PFLOP in total. Result: not run here; the paper reports a top-5 error below 10%.
"""

import keras

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import random_flip
from training.data.crops import ResizedRandomCrop
from training.engine.recipe import Recipe
from training.engine.schedules import piecewise

ITERATIONS = 165_000
RATES = {0: 0.01, 35_000: 0.005, 85_000: 0.0005, 135_000: 0.00005}

recipe = Recipe(
    model="ELUNet15",
    model_arguments={
        # A mean for each pixel needs images of one size.
        "input_shape": [224, 224, 3],
        "preprocessing": "pixel_mean",
        "kernel_initializer": "he_normal",
        "dropout": list(ARCHITECTURES["elunet15"].dropout),
    },
    dataset="imagenet2012_256",
    batch_size=64,
    epochs=30,
    image_sizes={0: 224},
    augmentation=[ResizedRandomCrop(256), random_flip()],
    l2=0.0005,
    learning_rate=lambda steps: piecewise(RATES, of=ITERATIONS, steps=steps),
    optimizer=lambda schedule: keras.optimizers.SGD(schedule, momentum=0.9),
)
