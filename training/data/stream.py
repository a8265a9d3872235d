"""The training batches as a pure function of seed and step."""

import functools

import numpy as np

from elu_zoo.errors import UserError
from training.data.augmentation import Context, augment_on_host, draw_all
from training.data.batch import Batch, made_ahead, one_hot, worker_rows
from training.data.phases import phase_at


class Stream:
    """Batches of a data set, or of one worker's share of it.

    Each epoch has another order; the last, smaller batch of an epoch is left out.

    Args:
        dataset: `elu_zoo.datasets.Dataset` of images of one size.
        batch_size: Examples of a global batch.
        augmentation: Augmentations of `training.data.augmentation`.
        image_sizes: Side of the training images by the first epoch that has it; that of
            the data set before and without.
        seed: Integer.
        worker: Number of this worker, from 0.
        workers: Number of workers; each gets as many rows of every global batch.

    Attributes:
        on_host: The augmentations up to the last that needs the host.
        on_device: The others, for the compiled step to apply.
        resident: The images and labels to keep on the device, uint8 and int32; `None`
            if images travel with each batch.

    Raises:
        UserError: If there are fewer examples than a batch has, or the batch cannot be
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
            raise UserError(
                f"Expected at least one batch of {batch_size} training images. "
                f"Received: {len(dataset)} images"
            )
        self.dataset, self.seed = dataset, seed
        self.batch_size, self.image_sizes = batch_size, dict(image_sizes or {})
        if 0 not in self.image_sizes:
            self.image_sizes[0] = dataset.image_size
        self.rows = worker_rows(batch_size, worker, workers)
        self.steps_per_epoch = len(dataset) // batch_size
        self.on_host, self.on_device = _split(tuple(augmentation))
        self._order = functools.lru_cache(maxsize=2)(self._order)

    @property
    def resident(self):
        if self.on_host:
            return None
        return self.dataset.images, self.dataset.labels.astype("int32")

    def _order(self, epoch):
        return np.random.default_rng([self.seed, 0, epoch]).permutation(
            len(self.dataset)
        )

    def image_size(self, epoch):
        """Side in pixels of the training images of an epoch."""
        return phase_at(self.image_sizes, epoch)

    def drawn(self, step):
        """What the compiled step takes, whatever was asked for before.

        Args:
            step: Integer from 0, counted over all epochs.

        Returns:
            A `Batch`, without images if they are on the device.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        numbers = self._order(epoch)[start : start + self.batch_size]
        weights = np.ones(len(numbers), "float32")[self.rows]
        images = self.dataset.images[numbers[self.rows]] if self.on_host else None
        return self._assemble(step, numbers, images, weights, self.dataset.images.shape)

    def _assemble(self, step, numbers, images, weights, shape):
        epoch = step // self.steps_per_epoch
        size = self.image_size(epoch)
        rng = np.random.default_rng([self.seed, 1, step])
        draws = draw_all(
            self.on_host + self.on_device,
            rng,
            self.batch_size,
            Context(epoch, numbers, tuple(shape[1:]), size),
        )
        draws = [{key: x[self.rows] for key, x in one.items()} for one in draws]
        first, numbers, targets = len(self.on_host), numbers[self.rows], None
        if images is not None:
            targets = one_hot(self.dataset, numbers)
            if self.on_host:
                images, targets, weights = augment_on_host(
                    self.on_host, images, targets, weights, draws[:first], size
                )
        return Batch(
            images=images,
            targets=targets,
            weights=weights,
            indices=numbers,
            image_size=size,
            draws=tuple(draws[first:]),
        )

    def batch(self, step):
        """The images of a step as the compiled step makes them, by the processor.

        Args:
            step: Integer from 0, counted over all epochs.

        Returns:
            A `Batch` with images and no draws.
        """
        batch = self.drawn(step)
        images, targets, weights = batch.images, batch.targets, batch.weights
        if images is None:
            images = self.dataset.images[batch.indices]
            targets = one_hot(self.dataset, batch.indices)
        if self.on_device:
            images, targets, weights = augment_on_host(
                self.on_device, images, targets, weights, batch.draws, batch.image_size
            )
        return batch.replace(images=images, targets=targets, weights=weights, draws=())

    def batches(self, start, stop):
        """What the compiled step takes from `start` to `stop`, made ahead in a thread.

        Args:
            start: First step.
            stop: Step after the last.

        Yields:
            A `Batch` a step, see `drawn`.
        """
        yield from made_ahead(self.drawn, range(start, stop))


def _split(augmentation):
    """The augmentations up to the last that needs the host, and the others."""
    needs = [number for number, one in enumerate(augmentation, 1) if one.on_host]
    first = max(needs, default=0)
    return augmentation[:first], augmentation[first:]
