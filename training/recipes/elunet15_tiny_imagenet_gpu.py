r"""ELUNet15 at half of its width on Tiny ImageNet: a long recipe for one GPU.

    python -m training.train training/recipes/elunet15_tiny_imagenet_gpu.py --data DIR \
        --out RUN

or `training.gpu` with `--seconds 570`, for a GPU that is there for minutes only.

As `elunet15_tiny_imagenet.py`, no normalization and no stride in the first convolution,
but twice as wide, 100 epochs in one fall of the learning rate, images that grow from 32
pixels over 48 to the data set's own 64, and random erasing and CutMix for the long
schedule. The peak of the rate is below the one at which the narrower network's loss
rose.

Cost: 5.17 GFLOP an image and training step at 32 pixels, 11.4 at 48, 20.2 at 64, 96
PFLOP in all, without Muon. Result: not run yet.
"""

from training.data.augmentation import cutmix, random_erasing, random_flip
from training.data.crops import RandomResizedCrop
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet15",
    model_arguments={
        "width": 0.5,
        "stem_strides": 1,
        "dropout": [0.0, 0.05, 0.1, 0.15, 0.4],
    },
    dataset="tiny_imagenet",
    batch_size=1024,
    epochs=100,
    image_sizes={0: 32, 50: 48, 85: 64},
    augmentation=[
        RandomResizedCrop(area=(0.25, 1.0)),
        random_flip(),
        random_erasing(0.25, fill=128),
        cutmix(probability=0.5),
    ],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupLinear(0.012, steps, warmup=0.1),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.995
    ),
)
