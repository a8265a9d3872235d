"""Distillation: the answers of a trained network become part of the targets."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from elu_zoo import weights
from elu_zoo.errors import UserError
from elu_zoo.files import replacing
from elu_zoo.models import load
from training.data.memory import MemoryDataset
from training.data.protocol import Examples

# File in a run's folder that keeps the teacher's answers.
ANSWERS = "teacher-*.npy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A published network whose answers become part of the targets.

    The target of an image is `(1 - share) * label + share * answer`. The answer is the
    mean of the teacher's probabilities for the image and for its mirror image; it is
    computed once, and does not depend on the augmentation. Source: Hinton, Vinyals &
    Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2, with fixed
    answers and a temperature of 1.

    Attributes:
        weights: Name of its weights. It was trained on the same classes; where a run
            holds images out, the teacher must not have seen them either, or the run's
            error on them comes out too low.
        share: Share of its answers in the targets, above 0 and at most 1.

    Raises:
        UserError: If an attribute has an invalid value.

    Example:

    >>> Teacher(weights="elunet18.cifar100", share=0.5).share
    0.5
    """

    weights: str
    share: float

    def __post_init__(self) -> None:
        weights.get_record(self.weights)
        if not 0 < self.share <= 1:
            raise UserError(
                "Expected a share of the teacher above 0 and at most 1. "
                f"Received: share={self.share!r}"
            )

    def settings(self) -> dict[str, Any]:
        """Returns what to keep with a run: the attributes, and the weights' file."""
        return dataclasses.asdict(self) | {
            "file": weights.get_record(self.weights).file
        }


def distilled(
    dataset: Examples, teacher: Teacher, folder: str | pathlib.Path, keep: bool = True
) -> MemoryDataset:
    """Gives a data set the targets that a teacher contributes to.

    Args:
        dataset: The examples to train on.
        teacher: The teacher.
        folder: Folder of the run, which may have the teacher's answers.
        keep: Whether to write them to it if it does not; of several workers, one does.

    Returns:
        The examples with `targets`, float32 of shape `(examples, classes)`.

    Raises:
        UserError: If the images are not in memory, the classes are not the teacher's
            own, or the folder has answers for other images.
    """
    if not isinstance(dataset, MemoryDataset):
        raise UserError(
            "Expected a data set in memory, such as cifar100, for a recipe with a "
            f"teacher. Received: a {type(dataset).__name__}"
        )
    digest = weights.get_record(teacher.weights).sha256[:8]
    file = pathlib.Path(folder) / ANSWERS.replace("*", digest)
    if file.is_file():
        answers = np.load(file, allow_pickle=False)
    else:
        answers = _answers(dataset, teacher)
        if keep:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as part, part.open("wb") as stream:
                np.save(stream, answers, allow_pickle=False)
    if answers.shape != (len(dataset), len(dataset.class_names)):
        raise UserError(
            f"Expected answers for {len(dataset)} images of {len(dataset.class_names)} "
            f"classes in {file}. Received: an array of shape {answers.shape}. Use a "
            "different folder for --out."
        )
    labels = np.eye(len(dataset.class_names), dtype="float32")[dataset.labels]
    targets = (1 - teacher.share) * labels + teacher.share * answers
    return dataclasses.replace(dataset, targets=targets.astype("float32"))


def _answers(dataset: MemoryDataset, teacher: Teacher) -> np.ndarray:
    """The teacher's probabilities, float32 of shape `(examples, classes)`."""
    model = load(teacher.weights)
    if weights.get_record(model).class_names != dataset.class_names:
        raise UserError(
            f"Expected a teacher of the {len(dataset.class_names)} classes of the data "
            f"set. Received: {teacher.weights}, of other classes"
        )
    mirrored = dataclasses.replace(dataset, images=dataset.images[:, :, ::-1])
    return (dataset.predict(model) + mirrored.predict(model)) / 2
