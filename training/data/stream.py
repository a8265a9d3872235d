"""The training batches as a pure function of seed and step."""

import concurrent.futures
import functools

import numpy as np

from training.data.augmentation import Batch


class Stream:
    """Batches of an in-memory data set.

    Args:
        images: uint8 array of shape `(examples, height, width, channels)`.
        labels: Integer array of shape `(examples,)`.
        classes: Number of classes.
        batch_size: Examples a batch.
        augmentation: Functions of `training.data.augmentation`.
        seed: Integer.

    Raises:
        ValueError: If there are fewer examples than a batch has.
    """

    def __init__(self, images, labels, classes, batch_size, augmentation=(), seed=0):
        if len(images) < batch_size:
            raise ValueError(
                f"Expected at least one batch of {batch_size} training images. "
                f"Received: {len(images)} images"
            )
        self.images, self.labels, self.classes = images, labels, classes
        self.batch_size, self.augmentation, self.seed = batch_size, augmentation, seed
        self.steps_per_epoch = len(images) // batch_size
        self._order = functools.lru_cache(maxsize=2)(self._order)

    def _order(self, epoch):
        return np.random.default_rng([self.seed, 0, epoch]).permutation(
            len(self.images)
        )

    def batch(self, step):
        """The batch of a step, whatever was asked for before.

        Args:
            step: Integer from 0, counted over all epochs.

        Returns:
            A `Batch`.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        indices = self._order(epoch)[start : start + self.batch_size]
        batch = Batch(
            images=self.images[indices],
            targets=np.eye(self.classes, dtype="float32")[self.labels[indices]],
            indices=indices,
            epoch=epoch,
            rng=np.random.default_rng([self.seed, 1, step]),
        )
        for augment in self.augmentation:
            batch = augment(batch)
        return batch

    def batches(self, start, stop, ahead=4):
        """Batches of the steps from `start` to `stop`, made ahead in a thread.

        Args:
            start: First step.
            stop: Step after the last.
            ahead: Number of batches to make ahead.

        Yields:
            A `Batch` a step.
        """
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pending = [
                pool.submit(self.batch, step)
                for step in range(start, min(start + ahead, stop))
            ]
            for step in range(start, stop):
                yield pending.pop(0).result()
                if step + ahead < stop:
                    pending.append(pool.submit(self.batch, step + ahead))
