"""Fine-tunes pretrained weights to a folder of images.

The folder holds one folder of JPEG or PNG files a class. DIR receives model.keras,
class_names.json and history.csv.

examples:
  elu-zoo finetune elunet11.cifar100 photos --out DIR
  elu-zoo predict new.jpg --model DIR
"""

import csv
import json
import pathlib
import sys

from elu_zoo.cli.common import print_json, start_backend


def add_arguments(parser):
    parser.add_argument("weights", metavar="MODEL", help="name of pretrained weights")
    parser.add_argument("folder", metavar="FOLDER", help="FOLDER/<class>/*.jpg")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--epochs",
        type=int,
        nargs=2,
        default=[5, 10],
        metavar=("HEAD", "ALL"),
        help="epochs for the output layer alone, then for everything (default: 5 10)",
    )
    parser.add_argument(
        "--frozen", action="store_true", help="train the output layer alone"
    )
    parser.add_argument(
        "--holdout", type=float, default=0.2, help="share to measure on (default: 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments):
    start_backend()
    import keras
    import numpy as np

    from elu_zoo.files import check_writable, replacing
    from elu_zoo.finetuning import finetune, split_by_class
    from elu_zoo.images import load_image_folder
    from elu_zoo.models import get_model_function, reset_head
    from elu_zoo.records import get_record

    out = pathlib.Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"Expected a new or empty folder for --out. Received: {out}"
        )
    record = get_record(arguments.weights)
    keras.utils.set_random_seed(arguments.seed)
    images, labels, class_names = load_image_folder(
        arguments.folder,
        record["preprocessing"]["crop"],
        channels=record["input_shape"][-1],
    )
    for name, count in zip(class_names, np.bincount(labels), strict=True):
        if count < 2:
            raise ValueError(
                "Expected at least two images of each class, one to hold out. "
                f"Received: one of {name}"
            )
    train, held_out = split_by_class(labels, arguments.holdout, arguments.seed)
    validation = images[held_out], labels[held_out]
    model = get_model_function(record["model"])(
        weights=record["name"], classes=len(class_names)
    )
    if len(class_names) == len(record["class_names"]):
        # They are other classes, though there are as many.
        reset_head(model)
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    # Keras's bars are for terminals; elsewhere a line an epoch.
    verbose = 0 if arguments.json else "auto" if sys.stdout.isatty() else 2
    if not arguments.json:
        print(
            f"{len(train)} images of {len(class_names)} classes to learn from, "
            f"{len(held_out)} held out"
        )
    before = _accuracy(model, validation)
    epochs = (arguments.epochs[0], 0 if arguments.frozen else arguments.epochs[1])
    history = finetune(
        model,
        images[train],
        labels[train],
        validation,
        epochs=epochs,
        seed=arguments.seed,
        verbose=verbose,
    )
    result = {
        "out": str(out),
        "classes": class_names,
        "train": len(train),
        "held_out": len(held_out),
        "accuracy_before": before,
        "accuracy": _accuracy(model, validation),
    }
    with replacing(out / "model.keras") as part:
        model.save(part)
    with replacing(out / "class_names.json") as part:
        part.write_text(json.dumps(class_names, indent=1) + "\n")
    with replacing(out / "history.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        writer.writerows(
            [epoch, *row]
            for epoch, row in enumerate(zip(*history.values(), strict=True), start=1)
        )
    if arguments.json:
        print_json(result)
        return
    print(
        f"Held-out accuracy: {before:.1%} with a new output layer, "
        f"{result['accuracy']:.1%} after fine-tuning\n"
        f"{out / 'model.keras'}: `elu-zoo predict IMAGE --model {out}`, "
        f"`elu-zoo export {out} --out SERVED`"
    )


def _accuracy(model, data):
    images, labels = data
    answers = model.predict(images, verbose=0).argmax(-1)
    return float((answers == labels).mean())
