"""Data sets in memory, as training uses them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from elu_zoo import datasets
from elu_zoo.errors import UserError

if TYPE_CHECKING:
    import keras
    from typing_extensions import Self

    from training.data.batch import Batch
    from training.data.stream import Stream


@dataclasses.dataclass(frozen=True)
class MemoryDataset(datasets.Dataset):
    """A split in memory that fulfils `training.data.protocol.Examples`.

    Attributes:
        targets: What to train on instead of the labels: float32 probabilities of shape
            `(examples, classes)`, or `None`.

    Example:

    >>> data = MemoryDataset(np.zeros((4, 8, 8, 3), "uint8"), np.arange(4), ("a",) * 4)
    >>> len(data[:2]), data.shape
    (2, (8, 8, 3))
    """

    targets: np.ndarray | None = None

    def __getitem__(self, index: Any) -> Self:
        part = super().__getitem__(index)
        if self.targets is None:
            return part
        return dataclasses.replace(part, targets=self.targets[index])

    @classmethod
    def of(cls, dataset: datasets.Dataset) -> MemoryDataset:
        """Converts a data set of `elu_zoo.datasets`, without copying its arrays.

        Args:
            dataset: The data set.

        Returns:
            The same examples.
        """
        return cls(dataset.images, dataset.labels, dataset.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of the images."""
        return self.images.shape[1:]

    def stream(
        self,
        *arguments: Any,
        on_corrupt: str = "skip",
        decoder: str = "simplejpeg",
        service: str | None = None,
    ) -> Stream:
        """See `Examples.stream`; the options of decoding have no effect.

        Raises:
            UserError: If a service is given, which could only decode images on disk.
        """
        from training.data.stream import Stream

        if service:
            raise UserError(
                "Expected a data set on disk for a tf.data service. Received: "
                f"service={service!r} for a data set in memory"
            )
        return Stream(self, *arguments)

    def sample(self, size: int, count: int = 2000) -> np.ndarray:
        """See `Examples.sample`."""
        return self.images

    def evaluation_batches(
        self, size: int, worker: int = 0, workers: int = 1, rows: int = 250
    ) -> Iterator[Batch]:
        """See `Examples.evaluation_batches`."""
        from training.data.batch import evaluation_batch

        for start in range(0, len(self), rows * workers):
            numbers = start + worker * rows + np.arange(rows)
            images = self.images[np.minimum(numbers, len(self) - 1)]
            yield evaluation_batch(self, numbers, images)

    def evaluate(self, model: keras.Model) -> dict[str, Any]:
        """See `Examples.evaluate`; the images are resized as a whole."""
        from elu_zoo import evaluation
        from elu_zoo.images import image_side

        images = self.resized(image_side(model)).images
        return evaluation.evaluate(model, images, self.labels, self.class_names)

    def predict(self, model: keras.Model) -> np.ndarray:
        """See `Examples.predict`."""
        from elu_zoo.images import image_side

        images = self.resized(image_side(model)).images
        return model.predict(images, batch_size=250, verbose=0)

    def preprocessing(self, side: int) -> dict[str, Any]:
        """See `Examples.preprocessing`."""
        return {"resize": side, "crop": side, "interpolation": "bilinear"}
