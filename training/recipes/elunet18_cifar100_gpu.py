r"""ELUNet18 on CIFAR-100: the paper's network, a long modern recipe for one GPU.

    python -m training.train training/recipes/elunet18_cifar100_gpu.py --data DIR \
        --out RUN

or `training.gpu` with `--seconds 420`, for a GPU that is available only for minutes.

As in `elunet18_cifar100.py`, there is no normalization, and the images grow from 16
over 24 to 32 pixels. But there are 240 epochs, so cutout and CutMix join crops and
flips, and dropout has half of the paper's rates.

Cost: 8.98 GFLOP per image and training step at 32 pixels, 61 PFLOP in total, without
Muon. Result: not run yet.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, cutmix, cutout, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet18",
    model_arguments={},
    dataset="cifar100",
    batch_size=1024,
    epochs=240,
    image_sizes={0: 16, 80: 24, 180: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[
        random_crop(4, "reflect"),
        alternating_flip(),
        cutout(0.25, fill=128),
        cutmix(probability=0.5),
    ],
    label_smoothing=0.1,
    dropout={0: [0.5 * rate for rate in ARCHITECTURES["elunet18"].dropout]},
    learning_rate=lambda steps: WarmupLinear(0.015, steps, warmup=0.1),
    optimizer=lambda schedule: ConvMuon(
        schedule,
        momentum=0.95,
        weight_decay=0.1,
        newton_schulz_dtype="bfloat16",
        use_ema=True,
        ema_momentum=0.995,
    ),
)
