"""A batch of training images on its way to the model."""

import collections
import concurrent.futures
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of a global batch that one worker computes.

    Attributes:
        images: Array of shape `(rows, height, width, channels)`, values 0 to 255; uint8
            until an augmentation makes it float32.
        targets: float32 array of shape `(rows, classes)`.
        weights: float32 array of shape `(rows,)`: 1, or 0 for an image that could not
            be decoded and must not be trained on.
        indices: Position of each example in the data set.
        epoch: Number of the epoch, from 0. This and the rest are for augmentation;
            batches for evaluation have none of it.
        image_size: Side in pixels to train at.
        rng: `numpy.random.Generator`, seeded by the run's seed and the step.
        rows: Slice of the global batch that this is.
        global_size: Examples of the global batch.
    """

    images: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    indices: np.ndarray
    epoch: int | None = None
    image_size: int | None = None
    rng: np.random.Generator | None = None
    rows: slice | None = None
    global_size: int | None = None

    def draw(self, function):
        """Random values for these rows, the same however many workers there are.

        Args:
            function: Called with `rng` and the number of examples of the global batch;
                returns an array with one row an example.

        Returns:
            The rows of that array that belong to this batch.
        """
        return function(self.rng, self.global_size)[self.rows]

    def replace(self, **changes):
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
        ValueError: If the workers cannot share the batch evenly.
    """
    if batch_size % workers:
        raise ValueError(
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
