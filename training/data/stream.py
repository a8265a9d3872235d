"""The training batches as a pure function of seed and step."""

import functools

import numpy as np

from training.data.batch import Batch, made_ahead, one_hot, worker_rows
from training.engine.recipe import phase_at


class Stream:
    """Batches of a data set, or of one worker's share of it.

    Each epoch has another order; the last, smaller batch of an epoch is left out.

    Args:
        dataset: `elu_zoo.datasets.Dataset` of images of one size.
        batch_size: Examples of a global batch.
        augmentation: Functions of `training.data.augmentation`.
        image_sizes: Side of the training images by the first epoch that has it; that of
            the data set before and without.
        seed: Integer.
        worker: Number of this worker, from 0.
        workers: Number of workers; each gets as many rows of every global batch.

    Raises:
        ValueError: If there are fewer examples than a batch has, or the batch cannot be
            shared evenly.
    """

    def __init__(
        self,
        dataset,
        batch_size,
        augmentation=(),
        image_sizes=None,
        seed=0,
        worker=0,
        workers=1,
    ):
        if len(dataset) < batch_size:
            raise ValueError(
                f"Expected at least one batch of {batch_size} training images. "
                f"Received: {len(dataset)} images"
            )
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed
        self.batch_size, self.image_sizes = batch_size, dict(image_sizes or {})
        if 0 not in self.image_sizes:
            self.image_sizes[0] = dataset.image_size
        self.rows = worker_rows(batch_size, worker, workers)
        self.steps_per_epoch = len(dataset) // batch_size
        self._order = functools.lru_cache(maxsize=2)(self._order)

    def _order(self, epoch):
        return np.random.default_rng([self.seed, 0, epoch]).permutation(
            len(self.dataset)
        )

    def image_size(self, epoch):
        """Side in pixels of the training images of an epoch."""
        return phase_at(self.image_sizes, epoch)

    def batch(self, step):
        """The batch of a step, whatever was asked for before.

        Args:
            step: Integer from 0, counted over all epochs.

        Returns:
            A `Batch`.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        numbers = self._order(epoch)[start : start + self.batch_size][self.rows]
        weights = np.ones(len(numbers), "float32")
        return self._augmented(step, numbers, self.dataset.images[numbers], weights)

    def _augmented(self, step, numbers, images, weights):
        epoch = step // self.steps_per_epoch
        batch = Batch(
            images=images,
            targets=one_hot(self.dataset, numbers),
            weights=weights,
            indices=numbers,
            epoch=epoch,
            image_size=self.image_size(epoch),
            rng=np.random.default_rng([self.seed, 1, step]),
            rows=self.rows,
            global_size=self.batch_size,
        )
        for augment in self.augmentation:
            batch = augment(batch)
        return batch

    def batches(self, start, stop):
        """Batches of the steps from `start` to `stop`, made ahead in a thread.

        Args:
            start: First step.
            stop: Step after the last.

        Yields:
            A `Batch` a step.
        """
        yield from made_ahead(self.batch, range(start, stop))
