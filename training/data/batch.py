"""A batch of training images on its way to the model."""

import collections
import concurrent.futures
import dataclasses

import numpy as np

from elu_zoo.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of a global batch that one worker computes.

    Attributes:
        images: Array of shape `(rows, height, width, channels)`, values 0 to 255; uint8
            until an augmentation makes it float32. `None` if the images of the data set
            are on the device: the step then gathers them and their targets there.
        targets: float32 array of shape `(rows, classes)`, or `None`, likewise.
        weights: float32 array of shape `(rows,)`: 1, or 0 for an image that could not
            be decoded and must not be trained on.
        indices: Position of each example in the data set.
        image_size: Side in pixels to train at; `None` for evaluation.
        draws: What the augmentations that are still to be applied have drawn, a dict of
            arrays each; see `training.data.augmentation`.
    """

    images: np.ndarray | None
    targets: np.ndarray | None
    weights: np.ndarray
    indices: np.ndarray
    image_size: int | None = None
    draws: tuple[dict[str, np.ndarray], ...] = ()

    def replace(self, **changes) -> "Batch":
        """A batch with other values in some attributes."""
        return dataclasses.replace(self, **changes)


def worker_rows(batch_size, worker, workers):
    """The rows of every global batch that a worker computes.

    Args:
        batch_size: Examples of a global batch.
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


def one_hot(dataset, numbers):
    """Targets of the examples with these numbers, float32 `(numbers, classes)`."""
    return np.eye(len(dataset.class_names), dtype="float32")[dataset.labels[numbers]]


def evaluation_batch(dataset, numbers, images, good=True):
    """A batch of examples in their order, filled up behind the last one.

    Args:
        dataset: Data set with `labels` and `class_names`.
        numbers: Positions of the examples; those behind the end stand for none.
        images: Their images, of any content where there is no example.
        good: Whether each image could be decoded.

    Returns:
        A `Batch`. Where there is no example the image is all zeros, the weight 0 and
        the index -1.
    """
    present = numbers < len(dataset)
    return Batch(
        images=np.where(present[:, None, None, None], images, np.uint8(0)),
        targets=one_hot(dataset, np.minimum(numbers, len(dataset) - 1)),
        weights=(good & present).astype("float32"),
        indices=np.where(present, numbers, -1),
    )


def made_ahead(make, items, threads=1, ahead=4):
    """Makes batches ahead of their use, in threads.

    Args:
        make: Function of an item.
        items: Iterable.
        threads: Number of threads.
        ahead: Number of results to have ready or in the making.

    Yields:
        `make(item)` of each item, in order.
    """
    pending = collections.deque()
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
