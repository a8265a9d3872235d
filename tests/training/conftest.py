import pytest
from made_up import write_cifar100

RECIPE = """
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
"""


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
