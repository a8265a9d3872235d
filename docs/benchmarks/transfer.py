"""Measures what pretrained weights are worth on a small set of new images.

    python docs/benchmarks/transfer.py --data DIR [--csv FILE]

Twenty classes of Tiny ImageNet whose names CIFAR-100 does not have, 10 and 50 images
of each to learn from, 1,000 held out of its training split to measure on, 3 seeds.
Compared at equal epochs: the output layer alone on the pretrained trunk, both stages of
`elu_zoo.finetune` at several rates and decays by stack, and training from scratch.
"""

import argparse
import statistics

import numpy as np
from measuring import write_csv

CLASSES, HELD_OUT, SIZE = 20, 50, 32
EPOCHS = 30

# name: (pretrained, epochs of the stages, rates, decay by stack)
METHODS = {
    "output layer alone": (True, (EPOCHS, 0), (1e-2, 0.0), 1.0),
    "fine-tuned, 3e-5": (True, (10, EPOCHS - 10), (1e-2, 3e-5), 1.0),
    "fine-tuned, 1e-4": (True, (10, EPOCHS - 10), (1e-2, 1e-4), 1.0),
    "fine-tuned, 3e-4": (True, (10, EPOCHS - 10), (1e-2, 3e-4), 1.0),
    "fine-tuned, 3e-4, decay 0.7": (True, (10, EPOCHS - 10), (1e-2, 3e-4), 0.7),
    "fine-tuned, 1e-3": (True, (10, EPOCHS - 10), (1e-2, 1e-3), 1.0),
    "from scratch, 1e-3": (False, (0, EPOCHS), (0.0, 1e-3), 1.0),
    "from scratch, 3e-3": (False, (0, EPOCHS), (0.0, 3e-3), 1.0),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--images", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)

    import keras

    from elu_zoo import datasets

    keras.config.disable_interactive_logging()
    data = datasets.load("tiny_imagenet", "train", arguments.data)
    known = set(datasets.load("cifar100", "test", arguments.data).class_names)
    rows = []
    for images in arguments.images:
        for seed in range(arguments.seeds):
            task = choose(data, known, images, seed)
            for method in METHODS:
                accuracies = measure(task, method, seed)
                rows += [
                    {
                        "trunk": "elunet11.cifar100",
                        "data": "tiny_imagenet",
                        "images_per_class": images,
                        "seed": seed,
                        "method": method,
                        "epoch": epoch,
                        "accuracy": round(accuracy, 4),
                    }
                    for epoch, accuracy in enumerate(accuracies, start=1)
                ]
        report(rows, images)
        if arguments.csv:
            write_csv(arguments.csv, rows)


def choose(data, known, images, seed):
    """Images and labels to learn from and to measure on."""
    rng = np.random.default_rng([seed, images])
    new = [i for i, name in enumerate(data.class_names) if not known & words(name)]
    parts = {"train": ([], []), "held_out": ([], [])}
    for label, number in enumerate(rng.choice(new, CLASSES, replace=False)):
        places = rng.permutation(np.flatnonzero(data.labels == number))
        for part, chosen in (
            ("train", places[:images]),
            ("held_out", places[-HELD_OUT:]),
        ):
            parts[part][0].append(shrink(data.images[chosen]))
            parts[part][1].append(np.full(len(chosen), label))
    return {
        part: (np.concatenate(x), np.concatenate(y)) for part, (x, y) in parts.items()
    }


def words(name):
    """The name of a class and its words, as CIFAR-100 would write them."""
    name = name.lower()
    return {name, *name.split("_")}


def shrink(images):
    from PIL import Image

    return np.stack(
        [
            Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            for image in images
        ]
    )


def measure(task, method, seed):
    """Held-out accuracy after each epoch."""
    import keras

    import elu_zoo

    pretrained, epochs, rates, decay = METHODS[method]
    keras.utils.set_random_seed(seed)
    model = elu_zoo.ELUNet11(
        weights="cifar100" if pretrained else None, classes=CLASSES
    )
    if not pretrained:
        model.get_layer("preprocessing").adapt(task["train"][0])
    history = elu_zoo.finetune(
        model,
        *task["train"],
        task["held_out"],
        epochs=epochs,
        learning_rate=rates,
        rate_decay=decay,
        seed=seed,
        verbose=0,
    )
    return history["val_accuracy"]


def report(rows, images):
    print(f"{images} images a class, accuracy after {EPOCHS} epochs, mean and range")
    for method in METHODS:
        last = [
            row["accuracy"]
            for row in rows
            if (row["method"], row["images_per_class"]) == (method, images)
            and row["epoch"] == EPOCHS
        ]
        print(
            f"{method:>30} {statistics.mean(last):7.1%} "
            f"({min(last):.1%} to {max(last):.1%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
