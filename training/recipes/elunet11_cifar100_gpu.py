r"""ELUNet11 on CIFAR-100: the paper's network, a long modern recipe for one GPU.

    python -m training.train training/recipes/elunet11_cifar100_gpu.py --data DIR \
        --out RUN

or `training.gpu` with `--seconds 120`, for a GPU that is available only for minutes.

It has no teacher, unlike `elunet11_cifar100.py`, but label smoothing. It takes 300
epochs, the last 80 of them at 32 pixels, larger batches with a higher rate, and CutMix
for a third of the images. The network is small, so dropout and mixing are milder than
in `elunet18_cifar100_gpu.py`.

Cost: 0.945 GFLOP per image and training step at 32 pixels, 8.0 PFLOP in total, without
Muon. Result: not run yet.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, cutmix, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet11",
    model_arguments={},
    dataset="cifar100",
    batch_size=1024,
    epochs=300,
    image_sizes={0: 16, 100: 24, 220: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[
        random_crop(4, "reflect"),
        alternating_flip(),
        cutmix(probability=0.33),
    ],
    label_smoothing=0.1,
    dropout={0: [0.3 * rate for rate in ARCHITECTURES["elunet11"].dropout]},
    learning_rate=lambda steps: WarmupLinear(0.02, steps, warmup=0.1),
    optimizer=lambda schedule: ConvMuon(
        schedule,
        momentum=0.95,
        weight_decay=0.1,
        newton_schulz_dtype="bfloat16",
        use_ema=True,
        ema_momentum=0.995,
    ),
)
