"""Fine-tunes pretrained weights on a folder of images.

FOLDER holds one folder of images per class. DIR receives model.keras, class_names.json,
history.csv and learning_curve.png, and a report on the held-out images: metrics.json,
classes.csv, confusion_matrix.png, errors.csv and errors.png. After an interruption, the
same command resumes from the last complete epoch.

examples:
  elu-zoo finetune elunet11.cifar100 photos --out DIR
  elu-zoo finetune DIR more_photos --out OTHER
  elu-zoo predict new.jpg --model DIR
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import pathlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from elu_zoo.cli.common import (
    add_model_argument,
    add_resize_argument,
    load_model,
    natural,
    print_json,
    start_backend,
)

if TYPE_CHECKING:
    import keras
    import numpy as np

    from elu_zoo._stages import History
    from elu_zoo.image_files import ImageFiles

    Labelled = tuple[ImageFiles, np.ndarray]

CHECKPOINT = "checkpoint.npz"
"""File in the output folder that an interrupted run resumes from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    add_model_argument(parser, "weights", metavar="MODEL")
    parser.add_argument("folder", metavar="FOLDER", help="FOLDER/<class>/*.jpg")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to create")
    parser.add_argument(
        "--epochs",
        type=natural,
        nargs=2,
        default=[5, 10],
        metavar=("HEAD", "ALL"),
        help="epochs for the output layer alone, then for all layers (default: 5 10)",
    )
    parser.add_argument(
        "--frozen", action="store_true", help="train only the output layer"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        nargs=2,
        default=[3e-3, 3e-4],
        metavar=("HEAD", "ALL"),
        help="peak learning rates of the two stages (default: 0.003 0.0003)",
    )
    parser.add_argument(
        "--batch-size",
        type=natural,
        default=32,
        metavar="N",
        help="images per step (default: 32)",
    )
    parser.add_argument(
        "--patience",
        type=natural,
        metavar="N",
        help="end a stage after N epochs without a lower calibrated held-out loss",
    )
    parser.add_argument(
        "--no-augment", action="store_true", help="do not flip or shift images"
    )
    parser.add_argument(
        "--class-weight",
        choices=["balanced"],
        help="give all classes the same total weight",
    )
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument(
        "--validation",
        metavar="FOLDER",
        help="images to measure on (default: a share of the training images)",
    )
    held_out.add_argument(
        "--holdout",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of the images to measure on (default: 0.2); 0 holds none out, and "
        "keeps the last epoch, not the best",
    )
    add_resize_argument(parser)
    parser.add_argument(
        "--tensorboard", metavar="DIR", help="folder for TensorBoard event files"
    )
    parser.add_argument(
        "--callbacks",
        metavar="MODULE:FUNCTION",
        help="function that returns a list of Keras callbacks",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help='have the model answer "none of these" if no class is that probable',
    )
    parser.add_argument(
        "--seed", type=natural, default=0, help="seed of order and weights (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns its exit code."""
    out = pathlib.Path(arguments.out)
    _check_out(out)
    start_backend(whole=bool(arguments.callbacks))
    from elu_zoo.files import LOCK, check_writable, locked
    from elu_zoo.heads import check_classifier, with_classes
    from elu_zoo.predictions import set_threshold

    _make_repeatable(arguments.seed)
    model, known_names = load_model(arguments.weights)
    check_classifier(model)
    # Checked before the training, which resets it.
    set_threshold(model, arguments.threshold)
    train, validation, class_names = _data(arguments, model)
    if class_names != known_names:
        model = with_classes(model, class_names, known_names)
    callbacks = _callbacks(arguments)
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    result = {
        "out": str(out),
        "classes": class_names,
        "train": len(train[1]),
        "held_out": len(validation[1]) if validation else 0,
    }
    if not arguments.json:
        print(
            f"Training on {result['train']} images of {len(class_names)} classes; "
            f"{result['held_out']} held out"
        )
    with _resumable(out) as stopped, locked(out):
        for part in out.glob(".part.*"):
            part.unlink()
        history = _train(arguments, model, train, validation, class_names, callbacks)
        set_threshold(model, arguments.threshold)
        result |= _write(out, model, history, validation, class_names)
        # The model is written: nothing is left to resume.
        (out / CHECKPOINT).unlink(missing_ok=True)
    if stopped:
        return stopped[0]
    # Windows does not remove a file that is locked.
    (out / LOCK).unlink(missing_ok=True)
    if arguments.json:
        print_json(result)
    else:
        _print(out, result)
    return 0


def _data(
    arguments: argparse.Namespace, model: keras.Model
) -> tuple[Labelled, Labelled | None, list[str]]:
    """What to train on, what to measure on, and the class names."""
    from elu_zoo.image_files import open_image_folder
    from elu_zoo.images import preprocessing_of

    how = preprocessing_of(model, arguments.resize)
    images, labels, class_names = open_image_folder(
        arguments.folder, how["crop"], model.input_shape[-1], preprocessing=how
    )
    return *_split(arguments, images, labels, class_names), class_names


def _train(
    arguments: argparse.Namespace,
    model: keras.Model,
    train: Labelled,
    validation: Labelled | None,
    class_names: list[str],
    callbacks: list[keras.callbacks.Callback],
) -> History:
    from elu_zoo.finetuning import finetune

    head, whole = arguments.epochs
    return finetune(
        model,
        *train,
        validation,
        class_names=class_names,
        epochs=(head, 0 if arguments.frozen else whole),
        learning_rate=tuple(arguments.learning_rate),
        batch_size=arguments.batch_size,
        augment=not arguments.no_augment,
        class_weight=arguments.class_weight,
        patience=arguments.patience,
        callbacks=callbacks,
        checkpoint=pathlib.Path(arguments.out) / CHECKPOINT,
        seed=arguments.seed,
        # Keras's bars are for terminals; elsewhere, one line per epoch.
        verbose=0 if arguments.json else "auto" if sys.stdout.isatty() else 2,
    )


def _write(
    out: pathlib.Path,
    model: keras.Model,
    history: History,
    validation: Labelled | None,
    class_names: list[str],
) -> dict[str, float]:
    """Writes the reports and the model; returns the held-out metrics."""
    from elu_zoo import reports
    from elu_zoo.files import replacing

    result = {}
    if validation:
        metrics = reports.measure_held_out(out, model, *validation, class_names)
        after = 1 - metrics["error"]
        result = {
            "accuracy_before": history.start.get("val_accuracy", after),
            "accuracy": after,
            "temperature": metrics["temperature"],
        }
    if history:
        reports.write_csv(out / "history.csv", history.rows())
        reports.draw_learning_curve(history, out / "learning_curve.png", history.end)
    with replacing(out / "class_names.json") as part:
        part.write_text(json.dumps(class_names, indent=1) + "\n")
    with replacing(out / "model.keras") as part:
        model.save(part)
    return result


def _print(out: pathlib.Path, result: dict[str, Any]) -> None:
    if "accuracy" in result:
        print(
            f"Held-out accuracy: {result['accuracy_before']:.1%} before, "
            f"{result['accuracy']:.1%} after fine-tuning"
        )
    print(
        f"{out / 'model.keras'}: `elu-zoo predict IMAGE --model {out}`, "
        f"`elu-zoo export {out} --out SERVED`"
    )


def _check_out(out: pathlib.Path) -> None:
    """Raises an error unless the folder is new, empty, or has an interrupted run."""
    if out.is_dir():
        from elu_zoo.files import LOCK
        from elu_zoo.image_folders import JUNK

        names = {path.name for path in out.iterdir()}
        kept = {n for n in names if n[0] != "." and n.lower() not in JUNK}
        # Callbacks may have written to it before there was a checkpoint.
        if not kept or not names.isdisjoint({CHECKPOINT, LOCK}):
            return
    if out.exists():
        raise FileExistsError(
            "Expected a new or empty folder for --out, or one with an interrupted run. "
            f"Received: {out}"
        )


def _make_repeatable(seed: int) -> None:
    import keras

    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _split(
    arguments: argparse.Namespace,
    images: ImageFiles,
    labels: np.ndarray,
    class_names: list[str],
) -> tuple[Labelled, Labelled | None]:
    """Images and labels to train on, and those to measure on, or `None`."""
    from elu_zoo.errors import UserError
    from elu_zoo.image_files import open_image_folder
    from elu_zoo.labels import split_by_class

    if arguments.validation:
        held_out_images, held_out_labels, _ = open_image_folder(
            arguments.validation,
            images.size,
            images.channels,
            class_names,
            images.preprocessing,
        )
        return (images, labels), (held_out_images, held_out_labels)
    if not arguments.holdout:
        return (images, labels), None
    train, held_out = split_by_class(labels, arguments.holdout, arguments.seed)
    if not len(held_out):
        raise UserError(
            "Expected a class with at least two images, so that one can be held out. "
            f"Received: {len(labels)} images of {len(class_names)} classes. Pass "
            "separate images with --validation, or hold none out with --holdout 0."
        )
    first, second = ((images.take(part), labels[part]) for part in (train, held_out))
    return first, second


def _callbacks(arguments: argparse.Namespace) -> list[keras.callbacks.Callback]:
    from elu_zoo.errors import UserError

    callbacks = []
    if arguments.tensorboard:
        import keras

        callbacks.append(keras.callbacks.TensorBoard(arguments.tensorboard))
    if arguments.callbacks:
        module, _, function = arguments.callbacks.partition(":")
        sys.path.insert(0, "")
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                "Expected --callbacks to be MODULE:FUNCTION, such as mine:callbacks. "
                f"Received: {arguments.callbacks} ({error})"
            ) from error
        callbacks += make()
    return callbacks


@contextlib.contextmanager
def _resumable(out: pathlib.Path) -> Iterator[list[int]]:
    """Ends a run at Ctrl-C or SIGTERM with one line; the list gets the exit code."""
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(128 + number)

    before = {}
    with contextlib.suppress(ValueError):  # Not in the main thread.
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    try:
        yield stopped
    except _Stopped as error:
        stopped.append(error.code)
        kept = (out / CHECKPOINT).exists()
        again = "resumes after the last complete epoch" if kept else "starts over"
        print(
            f"\nelu-zoo finetune: interrupted; the same command {again}",
            file=sys.stderr,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stopped(BaseException):
    """A signal to end the process, which `except Exception` does not catch."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
