r"""ELUNet11 on CIFAR-100: the paper's network, its error in little time.

    python -m training.train training/recipes/elunet11_cifar100_fast.py --data DIR \
        --out RUN

The recipe of `elunet11_cifar100.py` with a third of its operations, and with label
smoothing instead of its teacher: most epochs are at 16 and 24 pixels, only the last
seven at 32, and dropout stays mild.
`training.benchmarks.time_to_accuracy` measures time and error over several seeds.

Cost: 0.945 GFLOP per image and training step at 32 pixels, 0.96 PFLOP in total.
Result: 28.69% and 28.49% test error with seeds 0 and 1, 27.90% and 27.81% with the mean
over an image and its mirror image; the paper has 28.75%. With 29 epochs, 0.65 PFLOP and
seed 0 it was 30.31% and 29.70%.
"""

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet11",
    model_arguments={"dropout": [0.2 * r for r in ARCHITECTURES["elunet11"].dropout]},
    dataset="cifar100",
    batch_size=256,
    epochs=36,
    image_sizes={0: 16, 10: 24, 29: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[random_crop(4, "reflect"), alternating_flip()],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupLinear(0.015, steps, warmup=0.1),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
