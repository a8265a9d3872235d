"""Keeps test images that networks classify rightly, wrongly and with doubt.

    python -m training.demo.gallery --data DIR [NAME ...]

They are drawn at random, always in the same order, so that nobody has chosen what the
gallery of the site shows. The images and their answers go to `docs/results/gallery`.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.commands import parse, parser, positive

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "docs/results/gallery"
# An answer less probable than this is in doubt.
SURE = 0.5


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    options = parser("training.demo.gallery", __doc__)
    options.add_argument("names", nargs="*", help="published weights (default: all)")
    options.add_argument("--data", required=True, help="folder of the data sets")
    options.add_argument("--count", type=positive, default=8, help="images per kind")
    options.add_argument("--out", type=pathlib.Path, default=OUT)
    arguments = parse(options, argv)

    from elu_zoo.weights import get_record, list_weights

    try:
        for name in arguments.names or list_weights():
            if get_record(name).class_names:
                write(name, arguments.data, arguments.count, arguments.out / name)
    except (ValueError, OSError) as error:
        sys.exit(f"training.demo.gallery: {error}")


def write(name: str, data: str | pathlib.Path, count: int, out: pathlib.Path) -> None:
    """Writes the images of one network and `answers.json`; replaces the folder.

    Args:
        name: Name of published weights.
        data: Folder of the data sets.
        count: Number of images of each kind.
        out: Folder to write.
    """
    from PIL import Image

    import elu_zoo
    from elu_zoo import datasets
    from elu_zoo.files import replacing
    from elu_zoo.predictions import probabilities

    record = elu_zoo.get_record(name)
    test = datasets.load(record.dataset["name"], "test", data)
    test = test.with_classes(record.class_names)
    assert record.preprocessing  # Weights that give classes have it.
    model = elu_zoo.load(name)
    resized = test.resized(record.preprocessing.crop)
    outputs = model.predict(resized.images, batch_size=250, verbose=0)
    answers = elu_zoo.decode_predictions(outputs, top=3, model=model)
    kinds = sort(probabilities(outputs, model), test.labels)

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shown: dict[str, Any] = {}
    for kind, numbers in kinds.items():
        drawn = np.random.default_rng(0).permutation(numbers)[:count]
        shown[kind] = {"share": round(len(numbers) / len(test), 4), "images": []}
        for number in map(int, np.sort(drawn)):
            file = f"{number}.jpg"
            Image.fromarray(test.images[number].squeeze()).save(
                out / file, quality=90, subsampling=0
            )
            best = [(label, round(share, 3)) for _, label, share in answers[number]]
            true = record.class_names[test.labels[number]]
            shown[kind]["images"].append({"file": file, "true": true, "answers": best})
    facts = {"weights": record.file, "n": len(test), "sure": SURE, "kinds": shown}
    with replacing(out / "answers.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def sort(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Sorts images by what became of them.

    Args:
        probabilities: Array of shape `(n, classes)`.
        labels: Integer array of shape `(n,)`.

    Returns:
        The numbers of the images that are `right`, `wrong` or `unsure`.

    Example:

    >>> outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.3]])
    >>> kinds = sort(outputs, np.zeros(3, int))
    >>> {kind: numbers.tolist() for kind, numbers in kinds.items()}
    {'right': [0], 'wrong': [1], 'unsure': [2]}
    """
    sure = probabilities.max(-1) >= SURE
    right = probabilities.argmax(-1) == labels
    kinds = {"right": sure & right, "wrong": sure & ~right, "unsure": ~sure}
    return {kind: np.flatnonzero(chosen) for kind, chosen in kinds.items()}


if __name__ == "__main__":
    main()
