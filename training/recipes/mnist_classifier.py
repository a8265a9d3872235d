"""MNISTClassifier on MNIST: the paper's network of 8 × 128 units, in minutes of CPU.

    python -m training.train training/recipes/mnist_classifier.py --data DIR --out RUN

Muon replaces SGD, and images are shifted by up to two pixels; without that, even so
small a network memorizes its training images after a few epochs. The paper's own
training is `python -m training.paper figure2`.

Cost: 0.0013 GFLOP per image and training step at 28 pixels, 0.0023 PFLOP in total.
Result: 0.69% test error (`mnist_classifier.mnist`), 16 minutes on two AVX2 cores of an
AMD EPYC, one run in one piece. A run with 5,000 images held out of train has 0.84% on
them (docs/results/mnist_classifier.mnist/holdout).
"""

from training.data.augmentation import random_crop
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="MNISTClassifier",
    model_arguments={},
    dataset="mnist",
    batch_size=256,
    epochs=30,
    augmentation=[random_crop(2)],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupLinear(0.02, steps, warmup=0.15),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
