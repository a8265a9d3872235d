"""ELUNet11 on CIFAR-100: the paper's network, a modern recipe for few hours of CPU.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR --out RUN

No normalization, as in the paper. A first convolution that starts by whitening, Muon
instead of SGD, one triangle of the learning rate, mild dropout, and images that grow:
an epoch at 16 pixels takes a quarter of the operations of one at 32, at 24 pixels 0.57.

Cost: 0.945 GFLOP an image and training step at 32 pixels, 0.79 PFLOP in all; 142
minutes on two AVX2 cores of an AMD EPYC, in float32, beside other work. Result: 29.2 %
test error, with 20.6 % on the last training batches.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet11",
    model_arguments={
        "dropout": [0.2 * rate for rate in ARCHITECTURES["elunet11"].dropout]
    },
    dataset="cifar100",
    batch_size=256,
    epochs=30,
    image_sizes={0: 16, 8: 24, 25: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[random_crop(4, "reflect"), alternating_flip()],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupLinear(0.015, steps, warmup=0.15),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
