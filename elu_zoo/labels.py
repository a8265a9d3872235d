"""Labels: checked with their images, named, weighted and split."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from elu_zoo._names import check_class_names
from elu_zoo.errors import UserError
from elu_zoo.records import record_of

if TYPE_CHECKING:
    import keras

    from elu_zoo.image_files import ImageFiles


def class_names_for(
    model: keras.Model, class_names: Sequence[str] | None
) -> list[str] | None:
    """Checks class names against a model's outputs.

    Args:
        model: Keras model with one output of shape `(n, classes)`.
        class_names: One name per output; default those of the model's record.

    Returns:
        The names, or `None` if none are given and the record has none that fit.

    Raises:
        UserError: If the names are not one per output, or not all different.

    Example:

    >>> import elu_zoo
    >>> class_names_for(elu_zoo.MNISTClassifier(classes=2), ["even", "odd"])
    ['even', 'odd']
    """
    classes = model.output_shape[-1]
    if class_names is None:
        record = record_of(model)
        names = list(record.class_names) if record else []
        return names if len(names) == classes else None
    names = [str(name) for name in class_names]
    if len(names) != classes or len(set(names)) != classes:
        raise UserError(
            f"Expected {classes} different class names, one per output of the model. "
            f"Received: class_names={names}"
        )
    check_class_names(names)
    return names


def checked_data(
    model: keras.Model,
    images: np.ndarray | ImageFiles,
    labels: npt.ArrayLike,
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray | ImageFiles, np.ndarray]:
    """Checks that images and labels fit a model.

    Args:
        model: Keras model.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255, or
            `ImageFiles`.
        labels: Array of shape `(n,)`: class numbers, or names from `class_names`.
        class_names: Optional names of the classes.

    Returns:
        The images, not copied, and the labels as an integer array.

    Raises:
        UserError: If they do not fit each other or the model.

    Example:

    >>> import elu_zoo
    >>> model, images = elu_zoo.MNISTClassifier(classes=2), np.zeros((3, 28, 28, 1))
    >>> checked_data(model, images, ["odd", "odd", "even"], ["even", "odd"])[1]
    array([1, 1, 0])
    """
    images = images if hasattr(images, "shape") else np.asarray(images)
    labels, classes = np.asarray(labels), model.output_shape[-1]
    if labels.shape != (len(images),) or not len(images):
        raise UserError(
            "Expected one label per image, and at least one image. Received: "
            f"{len(images)} images, labels of shape {labels.shape}"
        )
    _check_images(model, images)
    if labels.dtype.kind in "UO":
        labels = _numbers_of(labels, class_names)
    if labels.dtype.kind not in "iuf" or np.any(labels != labels.astype(int)):
        raise UserError(
            "Expected labels to be class numbers, or names from class_names. Received: "
            f"labels of {labels.dtype}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"Expected labels from 0 to {classes - 1}, the model's classes. "
            f"Received: {labels.min()} to {labels.max()}"
        )
    return images, labels.astype(int)


def _check_images(model: keras.Model, images: np.ndarray | ImageFiles) -> None:
    shape = model.input_shape[1:]
    fits = len(images.shape) == len(shape) + 1 and all(
        side in (None, received)
        for side, received in zip(shape, images.shape[1:], strict=True)
    )
    if not fits or images.dtype.kind not in "uif":
        raise UserError(
            f"Expected images as an array of shape (n, {', '.join(map(str, shape))}), "
            f"values from 0 to 255. Received: shape {tuple(images.shape)} of "
            f"{images.dtype}"
        )
    if images.dtype == "uint8":
        return
    parts = [images[i : i + 1000] for i in range(0, len(images), 1000)]
    low = min(float(part.min()) for part in parts)
    high = max(float(part.max()) for part in parts)
    if not (low >= 0 and high <= 255):
        raise UserError(
            f"Expected images with values from 0 to 255. Received: {low:g} to {high:g}"
        )
    if images.dtype.kind == "f" and 0 < high <= 1:
        raise UserError(
            f"Expected images with values from 0 to 255. Received: {low:g} to "
            f"{high:g}. Multiply by 255 if 1 stands for white."
        )


def _numbers_of(labels: np.ndarray, class_names: Sequence[str] | None) -> np.ndarray:
    found = sorted({str(label) for label in labels})
    if class_names is None:
        raise UserError(
            "Expected class_names, in the order of the model's outputs, when labels "
            f"are names. Received: labels {found[:5]}, class_names=None"
        )
    numbers_by_name = {name: number for number, name in enumerate(class_names)}
    if unknown := [name for name in found if name not in numbers_by_name]:
        raise UserError(
            f"Expected labels from class_names={list(class_names)[:5]} ... Received: "
            f"{unknown[:5]}"
        )
    return np.array([numbers_by_name[str(label)] for label in labels])


def class_weights(
    class_weight: Mapping[int | str, float] | Literal["balanced"] | None,
    labels: np.ndarray,
    names: list[str] | None,
    classes: int,
) -> dict[int, float] | None:
    """Turns the argument `class_weight` of `elu_zoo.finetune` into Keras's.

    Args:
        class_weight: Factors by class number or name, `"balanced"`, or `None`.
        labels: Integer array of shape `(n,)`.
        names: Names of the classes in order, or `None`.
        classes: Number of classes.

    Returns:
        A dict from class numbers to factors, or `None`.

    Raises:
        UserError: If a key is not a class, or a factor is negative.

    Example:

    >>> class_weights({"dog": 3.0}, np.array([0, 1]), ["cat", "dog"], classes=2)
    {0: 1.0, 1: 3.0}
    """
    if class_weight is None:
        return None
    if class_weight == "balanced":
        counts = np.bincount(labels, minlength=classes)
        return {
            number: len(labels) / (np.count_nonzero(counts) * max(int(count), 1))
            for number, count in enumerate(counts)
        }
    numbers_by_name: dict[Any, int] = {name: n for n, name in enumerate(names or ())}
    weights = dict.fromkeys(range(classes), 1.0)
    for key, factor in dict(class_weight).items():
        number: Any = numbers_by_name.get(key, key)
        if number not in weights or not factor >= 0:
            raise UserError(
                "Expected class_weight to be 'balanced', or factors of 0 or more, by "
                "class number or by name from class_names. Received: "
                f"{key!r}: {factor!r}"
            )
        weights[number] = float(factor)
    return weights


def split_by_class(
    labels: np.ndarray, share: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples at random, holding out the same share of every class.

    Args:
        labels: Integer array of shape `(n,)`.
        share: Share of each class to hold out, between 0 and 1. At least one example
            per class is held out, but never its only one: a warning has the numbers of
            the classes with a single example.
        seed: Seed of the split.

    Returns:
        Two sorted arrays of indices: the examples to train on, and those held out.

    Raises:
        UserError: If `share` is not between 0 and 1.

    Example:

    >>> split_by_class(np.array([0, 0, 1, 1]), 0.5)[1].shape
    (2,)
    """
    if not 0 < share < 1:
        raise UserError(f"Expected a share between 0 and 1. Received: share={share!r}")
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    single: list[int] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) == 1:
            single.append(int(label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.extend(members[:count])
    if single:
        warnings.warn(
            f"Classes with only one image, which is trained on: {single[:10]}. No "
            "image is held out to measure how well they are learned.",
            stacklevel=2,
        )
    held_out = np.sort(np.array(chosen, int))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
