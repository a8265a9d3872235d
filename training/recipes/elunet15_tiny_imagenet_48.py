r"""ELUNet15 at a quarter of its width on Tiny ImageNet: more epochs at 48 pixels.

    python -m training.train training/recipes/elunet15_tiny_imagenet_48.py --data DIR \
        --out RUN

`elunet15_tiny_imagenet.py` has only two epochs at 48 pixels, and its network is used at
56. This recipe starts from the weights of that run, which were published before, and
trains them at 48 pixels for one more triangle of the learning rate, with everything
else unchanged. `git show 0cad308:FILE > FILE`, with the file that `initial_weights`
names, brings them back. The peak is low, since the epochs are few: with 0.006, at 40
pixels, the loss of the training batches rose from 2.36 to 2.85 within the first epoch,
after which the run was stopped:
docs/results/elunet15.tiny_imagenet/initial/peak_0.006.csv.

Cost: 2.88 GFLOP per image and training step at 48 pixels, 1.15 PFLOP in total, without
Muon and the 3.26 PFLOP of the initial weights; 74 minutes on two cores of an AMD EPYC
with AVX-512 BF16, beside other work. Result: 56.4% top-1 accuracy on the 10,000 val
images at 56 pixels, where the initial weights have 54.3%; 52.8 instead of 47.4% on
the images as they are, at 64 pixels.
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
    epochs=4,
    image_sizes={0: 48},
    initial_weights="pretrained/elunet15.tiny_imagenet-41871275.weights.h5",
    augmentation=[RandomResizedCrop(area=(0.35, 1.0)), random_flip()],
    label_smoothing=0.1,
    learning_rate=lambda steps: WarmupLinear(0.0025, steps, warmup=0.1),
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)
