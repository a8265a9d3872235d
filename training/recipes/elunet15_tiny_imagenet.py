r"""ELUNet15 at a quarter of its width on Tiny ImageNet: a recipe for 10 hours of CPU.

    python -m training.train training/recipes/elunet15_tiny_imagenet.py --data DIR \
        --out RUN

No normalization and no stride in the first convolution, for images of 64 pixels. Muon,
one triangle of the learning rate, mild dropout, crops of random size, and images that
grow: 32, 48, then 56 pixels. Cropped objects look larger than those of the whole images
of the evaluation at 64, so training at 56 is the match; 32 pixels cost a quarter of 64
and are the fewest that fill the pyramid's 4×4 grid.

Cost: 3.90 GFLOP an image and training step at 56 pixels, 1.30 at 32, 4.4 PFLOP in all,
and 0.7 for Muon, mostly of the fully-connected layers: 10 hours on two cores that give
150 GFLOP/s, 4.5 hours in bfloat16 on two that give 330. Result: not run here yet.
"""

from training.data.augmentation import random_flip
from training.data.crops import RandomResizedCrop
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet15",
    model_arguments={
        "width": 0.25,
        "stem_strides": 1,
        "dropout": [0.0, 0.04, 0.06, 0.08, 0.3],
    },
    dataset="tiny_imagenet",
    batch_size=512,
    epochs=22,
    image_sizes={0: 32, 14: 48, 19: 56},
    augmentation=[RandomResizedCrop(area=(0.35, 1.0)), random_flip()],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupLinear(0.02, steps, warmup=0.15),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
