"""A batch of training images on its way to the model."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from elu_zoo.errors import UserError

if TYPE_CHECKING:
    from training.data.protocol import Examples

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of a global batch that one worker computes.

    Attributes:
        images: Array of shape `(rows, height, width, channels)`, values 0 to 255; uint8
            until an augmentation makes it float32. `None` if the images of the data set
            are on the device, where the step gathers them and their targets.
        targets: float32 array of shape `(rows, classes)`, or `None`, likewise.
        weights: float32 array of shape `(rows,)`: 1, or 0 for an image that could not
            be decoded and must not be trained on.
        indices: int64 array of shape `(rows,)`: position of each example in the data
            set, -1 for a filler.
        image_size: Side in pixels to train at; `None` for evaluation.
        draws: Random values of the augmentations still to be applied, a dict of arrays
            for each; see `training.data.augmentation`.
    """

    images: np.ndarray | None
    targets: np.ndarray | None
    weights: np.ndarray
    indices: np.ndarray
    image_size: int | None = None
    draws: tuple[dict[str, np.ndarray], ...] = ()

    def replace(self, **changes: Any) -> Batch:
        """Returns a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


def worker_rows(batch_size: int, worker: int, workers: int) -> slice:
    """Returns the rows of every global batch that a worker computes.

    Args:
        batch_size: Number of examples in a global batch.
        worker: Number of the worker, from 0.
        workers: Number of workers.

    Returns:
        A slice.

    Raises:
        UserError: If the workers cannot share the batch evenly.
    """
    if batch_size % workers:
        raise UserError(
            "Expected a global batch that the workers can share evenly. Received: "
            f"batch_size={batch_size}, workers={workers}"
        )
    rows = batch_size // workers
    return slice(worker * rows, (worker + 1) * rows)


def targets_of(dataset: Examples, numbers: np.ndarray) -> np.ndarray:
    """Returns the targets of some examples: the data set's own, or the labels.

    Args:
        dataset: Data set.
        numbers: Integer array of shape `(n,)`: positions of the examples.

    Returns:
        A float32 array of shape `(n, classes)`.
    """
    targets = getattr(dataset, "targets", None)
    if targets is not None:
        return targets[numbers]
    return np.eye(len(dataset.class_names), dtype="float32")[dataset.labels[numbers]]


def evaluation_batch(
    dataset: Examples,
    numbers: np.ndarray,
    images: np.ndarray,
    good: np.ndarray | bool = True,
) -> Batch:
    """Makes a batch of examples in order, with fillers after the last one.

    Args:
        dataset: Data set.
        numbers: Integer array of shape `(rows,)`: positions of the examples. Those
            beyond the end of the data set become fillers.
        images: uint8 array of shape `(rows, height, width, channels)`; the content of
            fillers does not matter.
        good: Whether each image could be decoded, a bool array of shape `(rows,)`.

    Returns:
        A `Batch`. The image of a filler is all zeros, its weight 0 and its index -1.
    """
    present = numbers < len(dataset)
    return Batch(
        images=np.where(present[:, None, None, None], images, np.uint8(0)),
        targets=targets_of(dataset, np.minimum(numbers, len(dataset) - 1)),
        weights=(good & present).astype("float32"),
        indices=np.where(present, numbers, -1),
    )


def made_ahead(
    make: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int = 1,
    ahead: int = 4,
) -> Iterator[Result]:
    """Makes batches ahead of their use, in threads.

    Args:
        make: Makes the batch of an item.
        items: The items, in order.
        threads: Number of threads.
        ahead: Number of results that are ready or being made at any time.

    Yields:
        `make(item)` for each item, in order.
    """
    pending: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(pending) == ahead:
                    yield pending.popleft().result()
                pending.append(pool.submit(make, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
