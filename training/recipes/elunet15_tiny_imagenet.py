r"""ELUNet15 at a quarter of its width on Tiny ImageNet: a recipe for hours of CPU.

    python -m training.train training/recipes/elunet15_tiny_imagenet.py --data DIR \
        --out RUN

No normalization, and no stride in the first convolution, since the images have 64
pixels. Muon, mild dropout, crops of random size, and images that grow from 32 to 48
pixels. The learning rate rises and falls twice, and the images grow twice.

The weights are for images of 56 pixels (`training.publish --image-size 56`), the best
size for 5,000 held-out images in a smaller run: docs/results/evaluation_size.csv.
Objects look larger in crops than in whole images, and every crop was resampled: on the
images as they are, at 64 pixels, the network errs more than at any other size up to 80.

Cost: 1.30 GFLOP per image and training step at 32 pixels, 2.01 at 40, 2.88 at 48, 3.26
PFLOP in total, without Muon; 195 minutes on two cores of an AMD EPYC with AVX-512 BF16.
Result: 54.3% top-1 accuracy on the 10,000 val images, with 55.3% on the last training
batches at 48 pixels. On the images as they are, at 64 pixels, the accuracy was 47.4%,
and 39.8% after the first fall of the rate: the published run continues a run of those
10 epochs. The first peak of the rate is too high: from 0.013 on, in the second epoch,
the loss rose, and it recovered only after the third epoch.
"""

from training.data.augmentation import random_flip
from training.data.crops import RandomResizedCrop
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import Consecutive, WarmupLinear


def learning_rate(steps: int) -> Consecutive:
    """Two triangles, a warm restart (Loshchilov & Hutter, 2017)."""
    restart = 10 * steps // 21
    return Consecutive(
        {
            0: WarmupLinear(0.02, restart, warmup=0.2),
            restart: WarmupLinear(0.008, steps - restart, warmup=0.1),
        }
    )


recipe = Recipe(
    model="ELUNet15",
    model_arguments={
        "width": 0.25,
        "stem_strides": 1,
        "dropout": [0.0, 0.04, 0.06, 0.08, 0.3],
    },
    dataset="tiny_imagenet",
    batch_size=512,
    epochs=21,
    image_sizes={0: 32, 8: 40, 9: 48, 10: 32, 18: 40, 20: 48},
    augmentation=[RandomResizedCrop(area=(0.35, 1.0)), random_flip()],
    label_smoothing=0.1,
    learning_rate=learning_rate,
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
