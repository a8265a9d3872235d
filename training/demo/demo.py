"""The project's main job on sample images: load, predict, fine-tune, export, serve."""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from PIL import Image

import elu_zoo

IMAGES = pathlib.Path(__file__).resolve().parent / "images"

# What a server does: TensorFlow alone, the SavedModel, JPEG bytes.
SERVE = """
import pathlib, sys
import tensorflow as tf

folder, *files = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serve_bytes"]
answer = serve(image_bytes=tf.constant([pathlib.Path(f).read_bytes() for f in files]))
for file, names, scores in zip(files, answer["classes"], answer["probabilities"]):
    name, score = names.numpy()[0].decode(), float(scores[0])
    print(f"  {pathlib.Path(file).parent.name:<14}{name:<14}{score:6.1%}")
assert "elu_zoo" not in sys.modules
"""


def heading(number: int, text: str) -> None:
    """Prints the heading of a step.

    Args:
        number: Number of the step.
        text: What the step does.
    """
    print(f"\n{number}. {text}\n", flush=True)


def main() -> None:
    """Runs the demo."""
    keras.utils.set_random_seed(0)

    heading(1, 'ELUNet11(weights="cifar100"): top-5 in % of images it has not seen')
    model = elu_zoo.ELUNet11(weights="cifar100")
    files = sorted((IMAGES / "cifar100").glob("*.png"))
    batch = elu_zoo.preprocess_input([Image.open(file) for file in files], model)
    predictions = model.predict(batch, verbose=0)
    answer_lists = elu_zoo.decode_predictions(predictions, model=model)
    for file, names in zip(files, answer_lists, strict=True):
        answers = ", ".join(f"{name} {score * 100:.0f}" for _, name, score in names)
        print(f"  {file.stem:<12}{answers}")

    folder = IMAGES / "five_classes"
    class_names = sorted(path.name for path in folder.iterdir())
    classes = [sorted((folder / name).glob("*.jpg")) for name in class_names]
    train, held_out = ([f[:14] for f in classes], [f[14:] for f in classes])
    heading(2, f"Fine-tuning to {', '.join(class_names)}")
    x, y = load(train)
    validation = load(held_out)
    model = elu_zoo.ELUNet11(weights="cifar100", classes=class_names)
    history = elu_zoo.finetune(model, x, y, validation, class_names=class_names)
    before = history.start["val_accuracy"]
    after = model.evaluate(*validation, verbose=0, return_dict=True)["accuracy"]
    print(
        f"\n  {len(x)} images to learn from, {len(validation[0])} held out."
        f"\n  Held-out accuracy: {before:.1%} before, {after:.1%} after."
    )

    with tempfile.TemporaryDirectory() as temporary:
        exported = elu_zoo.export_saved_model(
            model, pathlib.Path(temporary) / "five_classes", class_names=class_names
        )
        heading(3, "A SavedModel, loaded by a process with TensorFlow only")
        print(f"  {'truth':<14}{'answer':<14} score", flush=True)
        served = subprocess.run(
            [
                sys.executable,
                "-c",
                SERVE,
                str(exported),
                *(str(f[0]) for f in held_out),
            ],
            cwd=temporary,
            capture_output=True,
            text=True,
        )
        # TensorFlow's messages about missing GPUs matter only after a failure.
        if served.returncode:
            sys.exit(served.stderr)
        print(served.stdout, end="")


def load(files: Sequence[Sequence[pathlib.Path]]) -> tuple[np.ndarray, np.ndarray]:
    """Loads image files.

    Args:
        files: One list of files per class.

    Returns:
        Images of shape `(n, height, width, 3)` and their labels, of shape `(n,)`.
    """
    images = [Image.open(file) for group in files for file in group]
    labels = np.repeat(np.arange(len(files)), [len(group) for group in files])
    return elu_zoo.preprocess_input(images, "elunet11.cifar100"), labels


if __name__ == "__main__":
    main()
