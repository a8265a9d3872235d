"""The training batches as a pure function of seed and step."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from elu_zoo.errors import UserError
from training.data.augmentation import Context, augment_on_host, draw_all
from training.data.batch import Batch, made_ahead, targets_of, worker_rows
from training.data.phases import phase_at

if TYPE_CHECKING:
    from training.data.memory import MemoryDataset
    from training.data.records import RecordDataset


class Stream:
    """Training batches of a data set in memory, or one worker's share of each.

    Each epoch has a different order; the last, smaller batch of an epoch is left out.

    Args:
        dataset: The examples.
        batch_size: Number of examples in a global batch.
        augmentation: Augmentations of `training.data.augmentation`.
        image_sizes: Side of the training images in pixels by the first epoch that has
            it; before, images have the size of the data set.
        seed: Seed of the order and the augmentation.
        worker: Number of this worker, from 0.
        workers: Number of workers, which share every global batch evenly.

    Attributes:
        on_host: The augmentations up to the last that needs the host.
        on_device: The other augmentations, which the compiled step applies.
        resident: The images, uint8, and the labels, int32, or float32 targets to keep
            on the device; `None` if images travel with each batch.
        decoder: Decoder of the images, which determines their last bits; `None` if they
            are decoded already.

    Raises:
        UserError: If there are fewer examples than `batch_size`, or the batch cannot be
            shared evenly.
    """

    decoder: str | None = None

    def __init__(
        self,
        dataset: MemoryDataset | RecordDataset,
        batch_size: int,
        augmentation: Sequence[Any] = (),
        image_sizes: Mapping[int, int] | None = None,
        seed: int = 0,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        if len(dataset) < batch_size:
            raise UserError(
                f"Expected at least one batch of {batch_size} training images. "
                f"Received: {len(dataset)} images"
            )
        self.dataset = cast(Any, dataset)
        self.seed = seed
        self.batch_size, self.image_sizes = batch_size, dict(image_sizes or {})
        if 0 not in self.image_sizes:
            self.image_sizes[0] = self.dataset.image_size
        self.rows = worker_rows(batch_size, worker, workers)
        self.steps_per_epoch = len(dataset) // batch_size
        self.on_host, self.on_device = _split(tuple(augmentation))
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    @property
    def resident(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The images, and their labels or targets, to keep on the device, if any."""
        if self.on_host:
            return None
        targets = getattr(self.dataset, "targets", None)
        if targets is None:
            targets = self.dataset.labels.astype("int32")
        return self.dataset.images, targets

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(
            len(self.dataset)
        )

    def image_size(self, epoch: int) -> int:
        """Returns the side in pixels of the training images of an epoch."""
        return phase_at(self.image_sizes, epoch)

    def drawn(self, step: int) -> Batch:
        """Makes the input of the compiled step; it does not depend on earlier calls.

        Args:
            step: Number of the step, from 0, counted over all epochs.

        Returns:
            A `Batch`, without images if they are on the device.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        numbers = self._order(epoch)[start : start + self.batch_size]
        weights = np.ones(len(numbers), "float32")[self.rows]
        images = self.dataset.images[numbers[self.rows]] if self.on_host else None
        return self._assemble(step, numbers, images, weights, self.dataset.images.shape)

    def _assemble(
        self,
        step: int,
        numbers: np.ndarray,
        images: np.ndarray | None,
        weights: np.ndarray,
        shape: Sequence[int],
    ) -> Batch:
        epoch = step // self.steps_per_epoch
        size = self.image_size(epoch)
        _, height, width, channels = shape
        rng = np.random.default_rng([self.seed, 1, step])
        draws = draw_all(
            self.on_host + self.on_device,
            rng,
            self.batch_size,
            Context(epoch, numbers, (height, width, channels), size),
        )
        draws = [{key: x[self.rows] for key, x in one.items()} for one in draws]
        first, numbers, targets = len(self.on_host), numbers[self.rows], None
        if images is not None:
            targets = targets_of(self.dataset, numbers)
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

    def batch(self, step: int) -> Batch:
        """Makes the augmented images of a step on the CPU.

        Args:
            step: Number of the step, from 0, counted over all epochs.

        Returns:
            A `Batch` with images and without draws.
        """
        batch = self.drawn(step)
        images, targets, weights = batch.images, batch.targets, batch.weights
        if images is None:
            images = self.dataset.images[batch.indices]
            targets = targets_of(self.dataset, batch.indices)
        if self.on_device:
            images, targets, weights = augment_on_host(
                self.on_device, images, targets, weights, batch.draws, batch.image_size
            )
        return batch.replace(images=images, targets=targets, weights=weights, draws=())

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Yields the input of each compiled step, made ahead in a thread.

        Args:
            start: First step.
            stop: Step after the last.

        Yields:
            A `Batch` per step, see `drawn`.
        """
        yield from made_ahead(self.drawn, range(start, stop))


def _split(augmentation: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The augmentations up to the last that needs the host, and the others."""
    needs = [number for number, one in enumerate(augmentation, 1) if one.on_host]
    first = max(needs, default=0)
    return augmentation[:first], augmentation[first:]
