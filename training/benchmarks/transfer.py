"""Measures what pretrained weights are worth on small sets of new images.

    python -m training.benchmarks.transfer --data DIR --csv FILE [--candidates]

Each trunk is tried on data that it has not seen: `elunet11.cifar100` on twenty classes
of Tiny ImageNet that CIFAR-100 does not have, `elunet15.tiny_imagenet` on CIFAR-100,
and both on MNIST. After the same number of steps, and with several seeds, each with its
own images, the study compares `elu_zoo.finetune` with its default rates, the output
layer alone on the frozen trunk (a linear probe), and the same network from scratch. The
accuracies are of images held out of the training splits, all at 32×32 pixels. Two more
tasks are at the weights' own size: twenty of the classes that `elunet15.tiny_imagenet`
knows, by name, on half of the test images; and photographs, one for each class of
ImageNet, which DIR holds as `imagenet-sample-images`
(https://github.com/EliSchwartz/imagenet-sample-images). They are sorted into six kinds;
classes of Tiny ImageNet are left out.

A row is an epoch, step 0 being before the training. The last row, of the stage `end`,
is of the weights that the model ends with: those of the epoch marked as `kept`, or a
mean that has the `share` of it. The command prints how `finetune` ends compared with
the best epoch of the better of its stages. `--trunks` chooses weights and `--methods`
methods.

`--candidates` instead compares settings for `finetune`'s defaults, on seeds that the
study does not use: all settings on one seed, the most promising on two more. Settings
that name epochs take more or fewer steps than the others. When started again, the
command resumes with what the CSV file lacks; rows of weights that are no longer
published, and of runs that chose their weights differently, are dropped. The study ends
with curves in a SVG file beside the CSV file.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from elu_zoo.weights import get_record
from training.benchmarks.measuring import set_precision, write_csv

if TYPE_CHECKING:
    import keras

    from elu_zoo._stages import History
    from elu_zoo.datasets import Dataset

# Images and labels.
Arrays = tuple[np.ndarray, np.ndarray]
# Those to learn from and those to measure on; the classes' names, if the weights know
# them.
Part = tuple[Arrays, Arrays, list[str] | None]
# Epochs of both stages, or the share of `STEPS` for the output layer alone.
Stages = float | tuple[int, int]
# Pretrained or not, the stages, and other arguments of `finetune`.
Method = tuple[bool, Stages, dict[str, Any]]

SIZE, BATCH, STEPS, STEPS_PER_EPOCH = 32, 32, 320, 32
SEEDS = (0, 1, 2)

# Trunk, data, images per class.
STUDY = [
    ("elunet11.cifar100", "tiny_imagenet", 10),
    ("elunet15.tiny_imagenet", "cifar100", 10),
    ("elunet11.cifar100", "mnist", 10),
    ("elunet15.tiny_imagenet", "mnist", 10),
    ("elunet11.cifar100", "tiny_imagenet", 50),
    ("elunet15.tiny_imagenet", "cifar100", 50),
    ("elunet15.tiny_imagenet", "tiny_imagenet", 25),
    ("elunet11.cifar100", "photographs", 10),
    ("elunet15.tiny_imagenet", "photographs", 10),
]
CANDIDATES_STUDY = STUDY[:2]


def method(
    pretrained: bool, stages: Stages, *rates: float, decay: float = 1.0
) -> Method:
    """Makes a method to compare.

    Args:
        pretrained: Whether to start from pretrained weights.
        stages: Epochs of both stages, or the share of `STEPS` for the output layer.
        *rates: Learning rates of both stages.
        decay: Factor between the learning rates of neighboring stacks.

    Returns:
        The method.
    """
    return pretrained, stages, {"learning_rate": rates, "rate_decay": decay}


METHODS: dict[str, Method] = {
    "fine-tuned": (True, 1 / 3, {}),
    "linear probe": (True, 1.0, {}),
    "from scratch": method(False, 0.0, 0.0, 1e-3),
}
CANDIDATES: dict[str, Method] = {
    "fine-tuned, 1e-4": method(True, 1 / 3, 1e-2, 1e-4),
    "fine-tuned, 3e-4": method(True, 1 / 3, 1e-2, 3e-4),
    "fine-tuned, 3e-4, decay 0.7": method(True, 1 / 3, 1e-2, 3e-4, decay=0.7),
    "fine-tuned, 1e-3, decay 0.7": method(True, 1 / 3, 1e-2, 1e-3, decay=0.7),
    "fine-tuned, 3e-3 and 3e-4, decay 0.7": method(True, 1 / 3, 3e-3, 3e-4, decay=0.7),
    "fine-tuned, 3e-4, one stage": method(True, 0.0, 0.0, 3e-4),
    **{
        f"fine-tuned, {first} and {second} epochs": method(
            True, (first, second), 3e-3, 3e-4, decay=0.7
        )
        for first, second in [(2, 5), (5, 10), (10, 20), (20, 40)]
    },
    "linear probe, 3e-3": method(True, 1.0, 3e-3, 0.0),
    "linear probe, 1e-2": method(True, 1.0, 1e-2, 0.0),
    "from scratch, 1e-3": method(False, 0.0, 0.0, 1e-3),
    "from scratch, 3e-3": method(False, 0.0, 0.0, 3e-3),
}
FINALISTS = {
    name: CANDIDATES[name]
    for name in (
        "fine-tuned, 3e-4, decay 0.7",
        "fine-tuned, 3e-3 and 3e-4, decay 0.7",
        "linear probe, 3e-3",
        "fine-tuned, 2 and 5 epochs",
        "fine-tuned, 5 and 10 epochs",
        "fine-tuned, 10 and 20 epochs",
    )
}
CANDIDATES_OF_SEEDS = {100: CANDIDATES, 101: FINALISTS, 102: FINALISTS}

# Classes that CIFAR-100 has under a different name, as a kind or a part.
KNOWN_TO_CIFAR100 = {
    *("American_alligator", "alp", "bell_pepper", "boa_constrictor", "black_widow"),
    *("bullfrog", "cash_machine", "cliff", "desk", "koala", "lampshade", "lakeside"),
    *("monarch", "ladybug", "ox", "pay-phone", "seashore", "stopwatch", "tarantula"),
    *("triumphal_arch", "trolleybus", "viaduct", "water_jug"),
}

# Ranges in the order of ImageNet's 1,000 classes, which is that of the files' names.
KINDS = {
    "arthropod": [(69, 80), (118, 127), (300, 327)],
    "bird": [(7, 25), (80, 101), (127, 147)],
    "dog": [(151, 269)],
    "food": [(924, 958), (959, 968)],
    "other carnivore": [(269, 300), (356, 363), (387, 389)],
    "reptile": [(33, 69)],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--csv", required=True, type=pathlib.Path)
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--trunks", nargs="+", default=sorted({t for t, _, _ in STUDY}))
    parser.add_argument("--methods", nargs="+", default=[*METHODS])
    arguments = parser.parse_args(argv)
    chosen_methods = {name: METHODS[name] for name in arguments.methods}
    study, methods = STUDY, dict.fromkeys(SEEDS, chosen_methods)
    if arguments.candidates:
        study, methods = CANDIDATES_STUDY, CANDIDATES_OF_SEEDS
    files = {trunk: get_record(trunk).file for trunk, _, _ in study}
    study = [task for task in study if task[0] in arguments.trunks]

    facts = set_precision()
    rows = _kept_rows(arguments.csv, files.values())
    for (trunk, data, images), seed in itertools.product(study, methods):
        part = None
        for name, chosen in methods[seed].items():
            key = dict(
                trunk=trunk,
                weights=files[trunk],
                data=data,
                images_per_class=str(images),
                seed=str(seed),
                method=name,
            )
            if any(key.items() <= row.items() for row in rows):
                continue
            part = part or choose(trunk, data, images, seed, arguments.data)
            augment = data != "mnist"  # A mirrored digit is none.
            epochs = measure(trunk, part, chosen, seed, augment)
            new = [facts | key | epoch for epoch in epochs]
            rows += new
            write_csv(arguments.csv, rows)
            print(*key.values(), f"{kept_accuracy(new):.1%}", flush=True)
    report(rows)
    if not arguments.candidates:
        plot(rows, arguments.csv.with_suffix(".svg"))


def _kept_rows(path: pathlib.Path, files: Collection[str]) -> list[dict[str, Any]]:
    """The rows that a CSV file has already, without those that are out of date.

    Those stay that are of weights still published, and that say how the run ended.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["weights"] in files and "share" in row]


def choose(trunk: str, name: str, images: int, seed: int, folder: str) -> Part:
    """Chooses images of a data set at random.

    Args:
        trunk: Name of the weights. Of data that they know, the test images are taken,
            at the size that the weights are for.
        name: Name of the data set.
        images: Number of images per class to learn from.
        seed: Seed of the choice.
        folder: Folder of the data sets.

    Returns:
        Images and labels to learn from, those to measure on, and names.
    """
    record = get_record(trunk)
    known_data = name == record.dataset["name"]
    own_size = known_data or name == "photographs"
    side = record.preprocessing.crop if own_size and record.preprocessing else SIZE
    if name == "photographs":
        data = photographs(folder, side)
    else:
        data = load(name, "test" if known_data else "train", folder)
    rng = np.random.default_rng([seed, images])
    classes: np.ndarray = np.arange(len(data.class_names))
    if known_data:
        classes = rng.choice(classes, 20, replace=False)
    elif name == "tiny_imagenet":
        known = set(load("cifar100", "train", folder).class_names)
        new = [c for c in classes if not same(data.class_names[c], known)]
        classes = rng.choice(new, 20, replace=False)
    fewest = np.bincount(data.labels)[classes].min()
    held_out = images if known_data else min(1000 // len(classes), fewest - images)
    train, rest = [], []
    for label, number in enumerate(classes):
        places = rng.permutation(np.flatnonzero(data.labels == number))
        train += [(place, label) for place in places[:images]]
        rest += [(place, label) for place in places[-held_out:]]
    learned, measured = (
        (rgb(data.images[[place for place, _ in some]], side), np.array(some)[:, 1])
        for some in (train, rest)
    )
    names = [data.class_names[c] for c in classes] if known_data else None
    return learned, measured, names


@functools.cache
def load(name: str, split: str, folder: str) -> Dataset:
    """Loads a split of a data set, once.

    Args:
        name: Name of the data set.
        split: `"train"` or `"test"`.
        folder: Folder of the data sets.

    Returns:
        The data set.
    """
    from elu_zoo import datasets

    return datasets.load(name, split, folder)


def photographs(folder: str, side: int) -> Dataset:
    """Loads the photographs of ImageNet's classes that Tiny ImageNet lacks, by kind.

    Args:
        folder: Folder of the data sets.
        side: Side in pixels to resize to.

    Returns:
        The data set; its classes are those of `KINDS`.

    Raises:
        FileNotFoundError: If a photograph is missing.
    """
    from elu_zoo.datasets import Dataset
    from elu_zoo.images import load_image

    data = pathlib.Path(folder)
    paths = sorted((data / "imagenet-sample-images").glob("n*.JPEG"))
    if len(paths) != 1000:
        raise FileNotFoundError(
            f"Expected 1,000 photographs in {data}/imagenet-sample-images. "
            f"Found: {len(paths)}"
        )
    known = set((data / "tiny-imagenet-200/wnids.txt").read_text().split())
    chosen = [
        (paths[number], label)
        for label, ranges in enumerate(KINDS.values())
        for number in itertools.chain.from_iterable(itertools.starmap(range, ranges))
        if paths[number].name.split("_")[0] not in known
    ]
    images = [load_image(path, resize=side, crop=side) for path, _ in chosen]
    labels = np.array([label for _, label in chosen])
    return Dataset(np.rint(np.stack(images)).astype("uint8"), labels, tuple(KINDS))


def same(name: str, known: set[str]) -> bool:
    """Returns whether CIFAR-100 has a class of Tiny ImageNet, or one of its words.

    Args:
        name: Name of the class.
        known: Names of CIFAR-100's classes.
    """
    words = {name.lower(), *name.lower().split("_")}
    return name in KNOWN_TO_CIFAR100 or bool(words & known)


def rgb(images: np.ndarray, side: int) -> np.ndarray:
    """Converts images to RGB of a size.

    Args:
        images: uint8 array of shape `(n, height, width, channels)`.
        side: The size in pixels.

    Returns:
        uint8 array of shape `(n, side, side, 3)`.
    """
    from PIL import Image

    from elu_zoo.images import resize

    if images.shape[-1] == 1:  # MNIST, 28×28
        images = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)]).repeat(3, -1)
    if images.shape[1] == side:
        return images
    resized = [resize(Image.fromarray(image), side) for image in images]
    return np.rint(np.stack(resized)).astype("uint8")


def measure(
    trunk: str, part: Part, chosen: Method, seed: int, augment: bool
) -> list[dict[str, str]]:
    """Trains by a method, and measures the held-out accuracy after each epoch.

    A fifth of the images to learn from chooses the weights that are kept.

    Args:
        trunk: Name of published weights.
        part: Result of `choose`.
        chosen: Method.
        seed: Seed of the training.
        augment: Whether to augment.

    Returns:
        Columns of the CSV file, for the model before the training, after each epoch,
        and at the end.
    """
    import keras

    import elu_zoo
    from elu_zoo.labels import split_by_class

    pretrained, stages, arguments = chosen
    (images, labels), held_out, names = part
    keras.utils.set_random_seed(seed)
    model = _starting_model(trunk, images, names or int(labels.max()) + 1, pretrained)
    train, chosen_by = split_by_class(labels, 0.2, seed)
    validation = images[chosen_by], labels[chosen_by]
    images, labels, epochs = _schedule(images[train], labels[train], stages)
    curve: list[float] = []

    def measure_start(logs: dict[str, Any]) -> None:
        if not curve:  # Of the first stage.
            curve.append(accuracy(model, held_out))

    measured = keras.callbacks.LambdaCallback(
        on_train_begin=measure_start,
        on_epoch_end=lambda epoch, logs: curve.append(accuracy(model, held_out)),
    )
    history = elu_zoo.finetune(
        model,
        images,
        labels,
        validation,
        class_names=names,
        epochs=epochs,
        batch_size=BATCH,
        augment=augment,
        seed=seed,
        callbacks=[measured],
        verbose=0,
        **arguments,
    )
    end = accuracy(model, held_out)
    return _rows(history, curve, end, _steps_per_epoch(labels))


def _starting_model(
    trunk: str, images: np.ndarray, classes: int | Sequence[str], pretrained: bool
) -> keras.Model:
    """The published network with a new output layer, or with random weights.

    With names for `classes`, the output layer starts from the weights of known ones.
    """
    import elu_zoo
    from elu_zoo.models import adapt_preprocessing, build_model

    changes = {"classes": classes, "input_shape": images.shape[1:]}
    if pretrained:
        return elu_zoo.load(trunk, **changes)
    record = get_record(trunk)
    model = build_model(record.model, record.arguments, **changes)
    adapt_preprocessing(model, images)
    return model


def _steps_per_epoch(labels: np.ndarray) -> int:
    return -(-len(labels) // BATCH)


def _schedule(
    images: np.ndarray, labels: np.ndarray, stages: Stages
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """The images of an epoch, their labels, and the epochs of both stages."""
    if isinstance(stages, tuple):
        return images, labels, stages
    # Small sets are repeated within an epoch, so that all epochs are about as long.
    times = max(1, round(STEPS_PER_EPOCH * BATCH / len(labels)))
    images, labels = np.tile(images, (times, 1, 1, 1)), np.tile(labels, times)
    epochs = round(STEPS / _steps_per_epoch(labels))
    first = round(stages * epochs)
    return images, labels, (first, epochs - first)


def _rows(
    history: History, curve: Sequence[float], end: float, per_epoch: int
) -> list[dict[str, str]]:
    epochs = history.rows()
    before = {"stage": 0, "epoch": 0, "kept": not any(history["kept"])} | history.start
    after = {"stage": "end", "epoch": len(epochs), "kept": False} | history.end
    return [
        {
            "stage": str(row["stage"]),
            "step": str(row["epoch"] * per_epoch),
            "accuracy": f"{share:.4f}",
            "validation_loss": f"{row['val_loss']:.4f}",
            "calibrated_validation_loss": f"{row['val_calibrated_loss']:.4f}",
            "validation_accuracy": f"{row['val_accuracy']:.4f}",
            "kept": "yes" if row["kept"] else "",
            "share": str(row.get("share", "")),
        }
        for row, share in zip([before, *epochs, after], [*curve, end], strict=True)
    ]


def accuracy(model: keras.Model, data: Arrays) -> float:
    """Measures the accuracy of a model.

    Args:
        model: The model.
        data: Images and labels.

    Returns:
        Share of correct answers.
    """
    answers = model.predict(data[0], verbose=0).argmax(-1)
    return float((answers == data[1]).mean())


# Rows of the CSV file by task, method and seed.
Tasks = dict[tuple[str, str, int], dict[str, dict[str, list[Mapping[str, Any]]]]]


def grouped(rows: Sequence[Mapping[str, Any]]) -> Tasks:
    """Groups rows of the CSV file.

    Args:
        rows: Rows of the CSV file.

    Returns:
        The rows of each run, in order, by task, method and seed.
    """
    tasks: Tasks = {}
    for row in rows:
        task = (row["trunk"], row["data"], int(row["images_per_class"]))
        seeds = tasks.setdefault(task, {}).setdefault(row["method"], {})
        seeds.setdefault(row["seed"], []).append(row)
    return tasks


def kept_accuracy(rows: Sequence[Mapping[str, Any]]) -> float:
    """The accuracy of the weights that a run ended with."""
    return next(float(row["accuracy"]) for row in rows if row["stage"] == "end")


def stage_accuracies(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The accuracies of the best epochs of a run's stages, by stage."""
    best = {}
    for row in sorted(rows, key=lambda row: -float(row["calibrated_validation_loss"])):
        best[row["stage"]] = float(row["accuracy"])
    return {stage: best[stage] for stage in ("1", "2") if stage in best}


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints mean and range of the accuracies, by task and method, and the stages'.

    Args:
        rows: Rows of the CSV file.
    """
    for (trunk, data, images), methods in grouped(rows).items():
        print(f"{trunk} on {data}, {images} images per class")
        for method, seeds in methods.items():
            last = [kept_accuracy(run) for run in seeds.values()]
            print(
                f"{method:>30} {statistics.mean(last):6.1%} "
                f"({min(last):.1%} to {max(last):.1%}; {len(last)} seeds)"
            )
        for seed, run in methods.get("fine-tuned", {}).items():
            stages = stage_accuracies(run)
            behind = max(stages.values()) - kept_accuracy(run)
            print(
                f"{f'seed {seed}':>30} {kept_accuracy(run):6.1%}, stages "
                f"{', '.join(f'{share:.1%}' for share in stages.values())}: "
                f"{100 * behind:+.1f} points behind the better one"
            )


def plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws the mean and the range of the seeds by step, one panel per task.

    A point at the right is the mean accuracy of the weights that the runs end with.
    """
    from training import figures

    tasks = grouped(rows)
    colors = dict(
        zip(METHODS, (figures.BLUE, figures.ORANGE, figures.GREEN), strict=True)
    )
    with figures.drawing(path, len(tasks), columns=2) as axes:
        for axis, (task, methods) in zip(axes, tasks.items(), strict=True):
            for method, seeds in methods.items():
                runs = list(seeds.values())
                *steps, last = [int(row["step"]) for row in runs[0]]
                accuracies = 100 * np.array(
                    [[float(row["accuracy"]) for row in run] for run in runs]
                )
                values, ends = accuracies[:, :-1], accuracies[:, -1]
                axis.plot(last, ends.mean(), "o", color=colors[method], markersize=4)
                axis.plot(steps, values.mean(0), label=method, color=colors[method])
                axis.fill_between(
                    *(steps, values.min(0), values.max(0)),
                    color=colors[method],
                    alpha=0.2,
                )
            axis.set_title("{}\non {}, {} per class".format(*task))
            axis.set_xlabel("step")
            axis.set_ylabel("held-out accuracy (%)")
            axis.set_ylim(bottom=0)
        axes[0].legend()


if __name__ == "__main__":
    main()
