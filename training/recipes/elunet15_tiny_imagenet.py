r"""ELUNet15 at a quarter of its width on Tiny ImageNet: a recipe for 10 hours of CPU.

    python -m training.train training/recipes/elunet15_tiny_imagenet.py --data DIR \
        --out RUN

No normalization and no stride in the first convolution, for images of 64 pixels. Muon,
a constant learning rate that decays in the last quarter, mild dropout, crops of random
size, and images that grow from 24 to 48 pixels. Cropped objects look larger than those
of the whole images of the evaluation at 64, so training near 48 is the match. Runs with
another `--epochs` have their first epochs in common.

Cost: 0.750 GFLOP an image and training step at 24 pixels, 1.30 at 32, 2.01 at 40, 2.88
at 48, 3.82 PFLOP in all, without Muon. Result: the whole recipe was not run yet. With
`--epochs 7`, 0.74 PFLOP, 25.4 % top-1 after 129 minutes on two AVX2 cores of an AMD
EPYC, in float32, in part beside other work; 31 % on the last training batches at 48.
"""

from training.data.augmentation import random_flip
from training.data.crops import RandomResizedCrop
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupStableDecay

recipe = Recipe(
    model="ELUNet15",
    model_arguments={
        "width": 0.25,
        "stem_strides": 1,
        "dropout": [0.0, 0.04, 0.06, 0.08, 0.3],
    },
    dataset="tiny_imagenet",
    batch_size=512,
    epochs=28,
    image_sizes={0: 24, 6: 32, 22: 40, -1: 48},
    augmentation=[RandomResizedCrop(area=(0.35, 1.0)), random_flip()],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupStableDecay(0.015, steps, warmup=200),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
