r"""ELUNet11 on CIFAR-100: the paper's network, a modern recipe for hours of CPU.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR \
        --out RUN --holdout 1000

No normalization, as in the paper. The first convolution starts by whitening, Muon
replaces SGD, dropout is mild, and the images grow: an epoch at 16 pixels takes a
quarter of the operations of one at 32 pixels, and one at 24 pixels 0.57 of them. The
learning rate rises and falls once; dropout is twice as strong from the middle on. The
published 18-layer network contributes to the targets. Both runs hold out the same
1,000 images, which calibrate the probabilities.

Cost: 0.945 GFLOP per image and training step at 32 pixels, 3.1 PFLOP in total, without
the teacher's; 247 minutes on two cores of an AMD EPYC with AVX-512 BF16, in part beside
other work. In 61 of them the process was stopped, at the slowest rows of its log.
Result: 26.25% test error, with 14.6% on the last training batches, against the most
probable class of each target.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, random_crop
from training.engine.distillation import Teacher
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear


def dropout(factor: float) -> list[float]:
    """The paper's rates times a factor."""
    return [factor * rate for rate in ARCHITECTURES["elunet11"].dropout]


recipe = Recipe(
    model="ELUNet11",
    model_arguments={},
    dataset="cifar100",
    batch_size=256,
    epochs=100,
    image_sizes={0: 16, 20: 24, 65: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[random_crop(4, "reflect"), alternating_flip()],
    teacher=Teacher(weights="elunet18.cifar100", share=0.7),
    dropout={0: dropout(0.2), 0.5: dropout(0.4)},
    learning_rate=lambda steps: WarmupLinear(0.015, steps, warmup=0.1),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
