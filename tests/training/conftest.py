import numpy as np
import pytest

RECIPE = '''
from training.data.augmentation import random_crop, random_flip
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import WarmupLinear

recipe = Recipe(
    model="ELUNet11",
    model_arguments={"width": 0.04, "dropout": 0.1},
    dataset="cifar100",
    batch_size=20,
    epochs=4,
    image_sizes={0: 16, 2: 32},
    augmentation=[random_crop(4), random_flip()],
    label_smoothing=0.1,
    holdout=100,
    learning_rate=lambda steps: WarmupLinear(0.02, steps),
    optimizer=lambda schedule: ConvMuon(schedule, use_ema=True, ema_momentum=0.9),
)
'''


def write_cifar100(folder, train=500, test=100, seed=0):
    """Made-up records in CIFAR-100's binary layout; the hue tells the class."""
    rng = np.random.default_rng(seed)
    folder = folder / "cifar-100-binary"
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        fine = rng.permutation(np.arange(count) % 100).astype("uint8")
        colors = np.random.default_rng(7).integers(0, 256, (100, 3))[fine]
        noise = rng.normal(0, 20, (count, 3, 32, 32))
        images = np.clip(colors[:, :, None, None] + noise, 0, 255).astype("uint8")
        records = np.concatenate(
            [fine[:, None] // 5, fine[:, None], images.reshape(count, -1)], axis=1
        )
        records.tofile(folder / f"{split}.bin")
    names = [f"class{i:02d}" for i in range(100)]
    (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_cifar100(folder)
    return folder


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.py"
    path.write_text(RECIPE)
    return path
