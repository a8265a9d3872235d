"""What training and evaluation ask of a data set, be it in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import keras
    from typing_extensions import Self

    from training.data.batch import Batch
    from training.data.stream import Stream


class Examples(Protocol):
    """A split of a data set, or some of its examples."""

    @property
    def labels(self) -> np.ndarray:
        """int64 array of shape `(examples,)`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """`(height, width, channels)` of the images; `None` where sizes differ."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: Any) -> Self:
        """Returns the examples that an index of NumPy chooses."""

    def with_classes(self, class_names: Sequence[str]) -> Self:
        """Renumbers the labels by the classes of a model.

        Args:
            class_names: The classes of the model, in its order; they must include all
                classes of the data set.

        Raises:
            UserError: If a class is missing from `class_names`.
        """

    def stream(
        self,
        batch_size: int,
        augmentation: Sequence[Any] = (),
        image_sizes: Mapping[int, int] | None = None,
        seed: int = 0,
        worker: int = 0,
        workers: int = 1,
        /,
        *,
        on_corrupt: str = "skip",
        decoder: str = "simplejpeg",
        service: str | None = None,
    ) -> Stream:
        """Returns the training batches of a worker.

        Args:
            batch_size: Examples per global batch.
            augmentation: Augmentations of `training.data.augmentation`.
            image_sizes: Side of the training images in pixels, by the first epoch that
                has it.
            seed: Seed of the order and the augmentation.
            worker: Number of the worker, from 0.
            workers: Number of workers.
            on_corrupt: What to do with images on disk that cannot be decoded: `"skip"`
                or `"fail"`.
            decoder: Decoder of images on disk: `"simplejpeg"` or `"tensorflow"`.
            service: Address of a tf.data service that decodes images on disk.

        Returns:
            The batches.

        Raises:
            UserError: If the arguments do not fit the data set.
        """

    def sample(self, size: int, count: int = 2000) -> np.ndarray:
        """Returns images to compute statistics from.

        Args:
            size: Side in pixels of images on disk.
            count: Number of images read from disk; all images in memory are returned.

        Returns:
            uint8 array of shape `(n, height, width, channels)`.
        """

    def evaluation_batches(
        self, size: int, worker: int = 0, workers: int = 1, rows: int = 250
    ) -> Iterator[Batch]:
        """Yields a worker's share of all examples, each example to one worker only.

        Args:
            size: Side in pixels of images on disk.
            worker: Number of the worker, from 0.
            workers: Number of workers. Each gets the same number of batches.
            rows: Images per batch of a worker.

        Yields:
            Batches of `rows` images; missing images are zeros with weight 0.
        """

    def evaluate(self, model: keras.Model) -> dict[str, Any]:
        """Evaluates a model on all examples, at the image size that it is best at.

        Args:
            model: Keras model that gives probabilities of shape `(n, classes)`, or an
                autoencoder.

        Returns:
            The metrics of `elu_zoo.evaluation.evaluate`.
        """

    def predict(self, model: keras.Model) -> np.ndarray:
        """Computes the outputs of a model for all examples, as `evaluate` does.

        Args:
            model: Keras model with one output of shape `(n, outputs)`.

        Returns:
            The outputs, in the order of the examples.
        """

    def preprocessing(self, side: int) -> dict[str, Any]:
        """Returns how `evaluate` turns a picture into the square that a model takes.

        Args:
            side: Side of the square in pixels.

        Returns:
            Fields of an `elu_zoo.records.Preprocessing`.
        """
