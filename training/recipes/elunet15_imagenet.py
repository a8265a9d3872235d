"""ELUNet15 on ImageNet: the paper's network, a modern recipe for many GPUs.

    python -m training.train training/recipes/elunet15_imagenet.py --data DIR --out RUN

As in `elunet15_imagenet_paper.py`, there is no normalization. AdamW replaces SGD, its
learning rate rises linearly and falls as half a cosine, and its weights are averaged.
Long gradients are scaled down, which networks without normalization need (Brock et al.,
2021). The images grow from 160 over 192 to 224 pixels; crops of random area,
RandAugment and mixup replace the crops of the paper.

A global batch of 1,024 images is computed in four parts, one after the other, to fit
into the memory of few GPUs. RandAugment runs on the host, which decodes the files.

Cost: 126 GFLOP per image and training step at 160 pixels, 181 at 192, 246 GFLOP per
image and training step at 224 pixels, 7910 PFLOP in total. Result: not run yet.
"""

import keras

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import keras_layer, mixup, random_flip
from training.data.crops import RandomResizedCrop
from training.engine.recipe import Recipe
from training.engine.schedules import warmup_cosine

recipe = Recipe(
    model="ELUNet15",
    model_arguments={"dropout": list(ARCHITECTURES["elunet15"].dropout)},
    dataset="imagenet2012_256",
    batch_size=1024,
    accumulation=4,
    epochs=40,
    image_sizes={0: 160, 25: 192, 35: 224},
    augmentation=[
        RandomResizedCrop(),
        random_flip(),
        keras_layer(keras.layers.RandAugment),
        mixup(alpha=0.2),
    ],
    label_smoothing=0.1,
    clip_norm=1.0,
    learning_rate=lambda steps: warmup_cosine(0.001, steps, warmup=0.1),
    optimizer=lambda schedule: keras.optimizers.AdamW(
        schedule, weight_decay=0.05, use_ema=True, ema_momentum=0.9999
    ),
)
