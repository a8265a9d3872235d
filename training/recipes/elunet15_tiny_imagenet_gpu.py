r"""ELUNet15 at half of its width on Tiny ImageNet: a long recipe for one GPU.

    python -m training.train training/recipes/elunet15_tiny_imagenet_gpu.py --data DIR \
        --out RUN

or `training.gpu` with `--seconds 570`, for a GPU that is available only for minutes.

As in `elunet15_tiny_imagenet.py`, there is no normalization, and no stride in the first
convolution. But the network is twice as wide, there are 100 epochs with a single fall
of the learning rate, the images grow from 32 over 48 to the data set's own 64 pixels,
and the long schedule has random erasing and CutMix. The peak of the rate is below the
one at which the narrower network's loss rose.

Cost: 5.17 GFLOP per image and training step at 32 pixels, 11.4 at 48, 20.2 at 64, 96
PFLOP in total, without Muon. Result: not run yet.
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
        schedule,
        momentum=0.95,
        weight_decay=0.1,
        newton_schulz_dtype="bfloat16",
        use_ema=True,
        ema_momentum=0.995,
    ),
)
