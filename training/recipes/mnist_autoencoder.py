"""MNISTAutoencoder on MNIST: the paper's network of figure 3, in minutes of CPU.

    python -m training.train training/recipes/mnist_autoencoder.py --data DIR --out RUN

The loss is the squared error of the reconstruction, summed over the pixels of an image.
Adam replaces the paper's SGD at a fixed rate, which needs 500 epochs. The paper's own
training is `python -m training.paper figure3`.

Cost: 0.0170 GFLOP per image and training step at 28 pixels, 0.0204 PFLOP in total.
Result: a squared error of 4.24 per test image, 8.0% of the variance
(`mnist_autoencoder.mnist`), in 74 minutes on two AVX2 cores beside much other work.
"""

import keras

from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="MNISTAutoencoder",
    model_arguments={},
    dataset="mnist",
    batch_size=256,
    epochs=20,
    learning_rate=lambda steps: WarmupLinear(0.001, steps, warmup=0.1),
    optimizer=keras.optimizers.Adam,
)
