"""ELUNet11 on CIFAR-100: the paper's network, a modern recipe for hours of CPU.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR --out RUN

No normalization, as in the paper. The first convolution starts by whitening, Muon
replaces SGD, dropout is mild, and the images grow: an epoch at 16 pixels takes a
quarter of the operations of one at 32 pixels, and one at 24 pixels 0.57 of them. The
learning rate rises and falls twice; the second peak is half as high, and dropout is
twice as strong from then on.

Cost: 0.945 GFLOP per image and training step at 32 pixels, 1.31 PFLOP in total; 221
minutes on two AVX2 cores of an AMD EPYC in float32, some of them shared with other
work. Result: 28.7 % test error, with 22.1 % on the last training batches. After the
first fall of the rate the test error was 29.1 %: the published run continues a run of
those 30 epochs.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import Consecutive, WarmupLinear

# Share of the run after which the rate rises again and dropout doubles.
RESTART = 2 / 3


def dropout(factor: float) -> list[float]:
    """The paper's rates times a factor."""
    return [factor * rate for rate in ARCHITECTURES["elunet11"].dropout]


def learning_rate(steps: int) -> Consecutive:
    """Two triangles, a warm restart (Loshchilov & Hutter, 2017)."""
    restart = round(RESTART * steps)
    return Consecutive(
        {
            0: WarmupLinear(0.015, restart, warmup=0.15),
            restart: WarmupLinear(0.0075, steps - restart, warmup=0.1),
        }
    )


recipe = Recipe(
    model="ELUNet11",
    model_arguments={},
    dataset="cifar100",
    batch_size=256,
    epochs=45,
    image_sizes={0: 16, 8: 24, 25: 32, 30: 24, 39: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[random_crop(4, "reflect"), alternating_flip()],
    label_smoothing=0.1,
    dropout={0: dropout(0.2), RESTART: dropout(0.4)},
    learning_rate=learning_rate,
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
