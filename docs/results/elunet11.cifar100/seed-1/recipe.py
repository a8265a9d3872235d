"""ELUNet11 on CIFAR-100: the paper's network, a modern recipe for few hours of CPU.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR --out RUN

No normalization, as in the paper. A first convolution that starts by whitening, Muon
instead of SGD, mild dropout, and images that grow: an epoch at 16 pixels takes a
quarter of the operations of one at 32, at 24 pixels 0.57. The learning rate goes up and
down twice; the second time, half as high, the dropout is twice as strong.

Cost: 0.945 GFLOP an image and training step at 32 pixels, 1.31 PFLOP in all; 221
minutes on two AVX2 cores of an AMD EPYC, in float32, in part beside other work. Result:
28.7 % test error, with 22.1 % on the last training batches. After the first fall of the
rate it was 29.1 %: the published run goes on from a run of those 30 epochs.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import Consecutive, WarmupLinear

# Share of the run after which the rate rises again and dropout doubles.
RESTART = 2 / 3


def dropout(factor):
    """The paper's rates times a factor."""
    return [factor * rate for rate in ARCHITECTURES["elunet11"].dropout]


def learning_rate(steps):
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
