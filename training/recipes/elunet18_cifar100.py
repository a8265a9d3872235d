"""ELUNet18 on CIFAR-100: the paper's network, a modern recipe for a CPU.

    python -m training.train training/recipes/elunet18_cifar100.py --data DIR --out RUN

As in `elunet11_cifar100.py`: no normalization, a first convolution that starts by
whitening, Muon instead of SGD, mild dropout, and images that grow, here from 16 over 24
to 32 pixels. The learning rate rises and falls twice, the second time at 32 pixels. The
batch size is 1024, so that Muon's orthogonalization of 39 M weights, 0.5 TFLOP each
time, is a small part of the cost.

Cost: 8.98 GFLOP per image and training step at 32 pixels, 3.0 PFLOP in total, without
Muon; 228 minutes on two cores of an AMD EPYC with AVX-512 BF16, partly beside other
work. Result: 32.0% test error, with 17 to 19% on the training batches of the last
half epoch. The network memorizes its training images after few epochs:
`elunet18_cifar100_half.py` trains a narrower one. The run was stopped three times, and
its schedule was shortened in between; this file has the final one.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import Consecutive, WarmupLinear

# Share of the run after which the rate rises again and the images have their full size.
RESTART = 10 / 14


def learning_rate(steps: int) -> Consecutive:
    """Two triangles, of which the first is cut off before its end."""
    restart = round(RESTART * steps)
    return Consecutive(
        {
            0: WarmupLinear(0.016, round(1.1 * restart), warmup=0.15),
            restart: WarmupLinear(0.006, steps - restart, warmup=0.1),
        }
    )


recipe = Recipe(
    model="ELUNet18",
    model_arguments={},
    dataset="cifar100",
    batch_size=1024,
    epochs=14,
    image_sizes={0: 16, 9: 24, 10: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[random_crop(4, "reflect"), alternating_flip()],
    label_smoothing=0.1,
    dropout={0: [0.2 * rate for rate in ARCHITECTURES["elunet18"].dropout]},
    learning_rate=learning_rate,
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.97
    ),
)
