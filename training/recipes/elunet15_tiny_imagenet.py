r"""ELUNet15 at a quarter of its width on Tiny ImageNet: a recipe for few hours of CPU.

    python -m training.train training/recipes/elunet15_tiny_imagenet.py --data DIR \
        --out RUN

No normalization and no stride in the first convolution, for images of 64 pixels. Muon,
mild dropout, crops of random size, and images that grow from 32 to 48 pixels. Cropped
objects look larger than those of the whole images of the evaluation at 64, so training
near 48 is the match.

Cost: 1.30 GFLOP an image and training step at 32 pixels, 2.01 at 40, 2.88 at 48, 1.53
PFLOP in all, without Muon; 91 minutes on two cores of an AMD EPYC with AVX-512 BF16.
Result: 39.8 % top-1 on the 10,000 val images at 64×64, 43.9 % on the last training
batches at 48. The peak is too high: from a rate of 0.013 on, in the second epoch, the
loss rose, and it was as low again only after the third.
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
    epochs=10,
    image_sizes={0: 32, -2: 40, -1: 48},
    augmentation=[RandomResizedCrop(area=(0.35, 1.0)), random_flip()],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupLinear(0.02, steps, warmup=0.2),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
