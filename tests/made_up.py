"""Made-up data in the layouts that the package reads."""

import numpy as np
from PIL import Image


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


def write_class_folders(folder, classes=("red", "green"), count=10, size=40):
    """Class folders of images that their colour tells apart."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 80, (size, size + 8, 3))
            pixels[..., number] += 150
            image = Image.fromarray(pixels.astype("uint8"))
            image.save(folder / name / f"{i}.jpg")
