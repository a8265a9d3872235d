"""Training and evaluation batches from JPEG files on disk.

A batch is a pure function of seed and step: a shuffle that needs no memory gives the
numbers of the records, and `training.data.decoding` the crops of their files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from elu_zoo.errors import UserError
from training.data.batch import Batch, evaluation_batch, made_ahead, worker_rows
from training.data.crops import Crop, ResizedRandomCrop, evaluation_crop
from training.data.decoding import decode, decode_ops
from training.data.stream import Stream

if TYPE_CHECKING:
    from training.data.records import RecordDataset

Item = TypeVar("Item")

# Batches that may arrive from a tf.data service before one that is still awaited.
MAX_EARLY = 64

# Batches decoded at the same time.
THREADS = min(32, os.cpu_count() or 1)


class EncodedStream(Stream):
    """Training batches of JPEG files on disk, or one worker's share of each.

    Each epoch has a different order; the last, smaller batch of an epoch is left out.
    An image that is damaged, or no grayscale or RGB JPEG, is all zeros and has weight
    0.

    Args:
        dataset: The examples.
        batch_size: Number of examples in a global batch.
        augmentation: Augmentations of `training.data.augmentation`. The first may be a
            crop of `training.data.crops`; the default is the paper's crop,
            `ResizedRandomCrop(256)`.
        image_sizes: Side of the training images in pixels by the first epoch that has
            it, such as `{0: 160, 60: 224}`; an integer if it never changes.
        seed: Seed of the order and the augmentation.
        worker: Number of this worker, from 0.
        workers: Number of workers, which share every global batch evenly.
        on_corrupt: `"skip"` gives images that cannot be decoded weight 0; `"fail"`
            raises an error that names them.
        decoder: `"simplejpeg"`, the faster one, or `"tensorflow"`, which decodes only
            the crop; see `training.data.decoding`.
        service: Address of a tf.data service, such as `"grpc://host:5050"`, that
            decodes the images, always by `"tensorflow"`.

    Raises:
        UserError: If there are fewer examples than `batch_size`, the batch cannot be
            shared evenly, or an argument has an invalid value.
    """

    def __init__(
        self,
        dataset: RecordDataset,
        batch_size: int,
        augmentation: Sequence[Any] = (),
        image_sizes: int | Mapping[int, int] | None = 224,
        seed: int = 0,
        worker: int = 0,
        workers: int = 1,
        on_corrupt: str = "skip",
        decoder: str = "simplejpeg",
        service: str | None = None,
    ) -> None:
        augmentation = list(augmentation)
        own_crop = augmentation and isinstance(augmentation[0], Crop)
        self.crop = augmentation.pop(0) if own_crop else ResizedRandomCrop(256)
        if isinstance(image_sizes, int):
            image_sizes = {0: image_sizes}
        image_sizes = image_sizes or {}
        if 0 not in image_sizes:
            raise UserError(
                "Expected image_sizes to have a size for epoch 0, since images on disk "
                f"differ in size. Received: image_sizes={image_sizes}"
            )
        for size in image_sizes.values():
            self.crop.check(size)
        super().__init__(
            dataset,
            batch_size,
            augmentation,
            dict(sorted(image_sizes.items())),
            seed,
            worker,
            workers,
        )
        self.service, self.on_corrupt = service, _check_policy(on_corrupt)
        decoders = {"simplejpeg": self._decode, "tensorflow": _on_cpu(self._decode_ops)}
        if decoder not in decoders:
            raise UserError(
                f"Expected decoder to be one of {list(decoders)}. Received: {decoder!r}"
            )
        self._decoder = decoders[decoder]
        self.decoder = "tensorflow" if service else decoder
        self._drawn = _on_cpu(self._draw)

    def drawn(self, step: int) -> Batch:
        """See `Stream.drawn`."""
        return self._finish(self._decoder(step))

    @property
    def resident(self) -> None:
        """`None`, since the images travel to the device with each batch."""
        return None

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Yields the input of each compiled step, made ahead in threads.

        Args:
            start: First step.
            stop: Step after the last.

        Yields:
            A `Batch` per step, see `Stream.drawn`.

        Raises:
            UserError: If an image cannot be decoded and `on_corrupt` is `"fail"`.
            RuntimeError: If the tf.data service loses a batch.
        """
        steps = range(start, stop)
        if not self.service:
            yield from made_ahead(self.drawn, steps, THREADS, ahead=THREADS + 2)
            return
        served = self._served(start, stop)
        yield from made_ahead(lambda _: self._finish(next(served)), steps)

    def _served(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Results of `_decode_ops`, from the tf.data service."""
        import tensorflow as tf

        service = tf.data.experimental.service
        steps = tf.data.Dataset.range(start, stop).map(
            self._decode_ops, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        steps = steps.apply(
            service.distribute(service.ShardingPolicy.DYNAMIC, self.service)
        )
        arrived = steps.prefetch(2).as_numpy_iterator()
        return in_order(arrived, start, stop, key=lambda x: x["step"])

    def _decode(self, step: int) -> dict[str, Any]:
        """The numbers of a step's examples and their images."""
        numbers, draws, size = self._drawn(step)
        files = [self.dataset.image(number) for number in numbers]
        images, good = decode(files, self.crop, draws, int(size), fast=True)
        return {"step": step, "numbers": numbers, "images": images, "good": good}

    def _decode_ops(self, step: Any) -> dict[str, Any]:
        """The same as `_decode`, with TensorFlow ops."""
        numbers, draws, size = self._draw(step)
        files = self.dataset.read_ops(numbers)
        images, good = decode_ops(files, self.crop, draws, size, fast=True)
        return {"step": step, "numbers": numbers, "images": images, "good": good}

    def _draw(self, step: Any) -> tuple[Any, Any, Any]:
        """Numbers of a step's examples, random values for their crops, and the side."""
        import tensorflow as tf

        epoch, position = step // self.steps_per_epoch, step % self.steps_per_epoch
        places = position * self.batch_size + tf.range(
            self.rows.start, self.rows.stop, dtype=tf.int64
        )
        numbers = tf.random.experimental.index_shuffle(
            places,
            tf.stack([tf.cast(self.seed, tf.int64), epoch]),
            len(self.dataset) - 1,
        )
        draws = tf.random.stateless_uniform(
            (self.batch_size, self.crop.draws),
            tf.stack([tf.cast(self.seed, tf.int64), step]),
            alg="philox",
        )[self.rows]
        firsts, sizes = zip(*self.image_sizes.items(), strict=True)
        first = tf.reduce_sum(tf.cast(epoch >= tf.constant(firsts, tf.int64), tf.int32))
        return numbers, draws, tf.gather(sizes, first - 1)

    def _finish(self, decoded: Mapping[str, Any]) -> Batch:
        step, numbers = int(decoded["step"]), decoded["numbers"]
        if self.on_corrupt == "fail":
            _check_good(self.dataset, numbers, decoded["good"])
        images, weights = decoded["images"], decoded["good"].astype("float32")
        # Draws for the rows of other workers are not used.
        everyone = np.zeros(self.batch_size, int)
        everyone[self.rows] = numbers
        return self._assemble(step, everyone, images, weights, images.shape)


def eval_batches(
    dataset: RecordDataset,
    batch_size: int,
    image_size: int = 224,
    crop: Crop | None = None,
    worker: int = 0,
    workers: int = 1,
    on_corrupt: str = "fail",
) -> Iterator[Batch]:
    """Yields all examples of a split once, in order.

    Args:
        dataset: The examples.
        batch_size: Number of examples in a global batch.
        image_size: Side of the images in pixels.
        crop: Crop of `training.data.crops`; the default is the paper's center crop,
            with the same share of the image at any size.
        worker: Number of this worker, from 0. Each gets the same number of batches.
        workers: Number of workers.
        on_corrupt: As for `EncodedStream`.

    Yields:
        A `Batch`; the last ones are filled up with weight 0 and index -1.

    Raises:
        UserError: If an image cannot be decoded and `on_corrupt` is `"fail"`.
    """
    crop = crop or evaluation_crop(image_size)
    crop.check(image_size)
    _check_policy(on_corrupt)
    rows = worker_rows(batch_size, worker, workers)
    last = len(dataset) - 1
    draws = np.zeros((rows.stop - rows.start, crop.draws), "float32")

    def batch(start: int) -> Batch:
        numbers = np.arange(start + rows.start, start + rows.stop)
        files = [dataset.image(number) for number in np.minimum(numbers, last)]
        images, good = decode(files, crop, draws, image_size)
        if on_corrupt == "fail":
            present = numbers <= last
            _check_good(dataset, numbers[present], good[present])
        return evaluation_batch(dataset, numbers, images, good)

    starts = range(0, len(dataset), batch_size)
    yield from made_ahead(batch, starts, THREADS, ahead=THREADS + 2)


def _on_cpu(function: Callable[[Any], Any]) -> Callable[[int], Any]:
    """Compiles a function from an integer to arrays, which any thread can call."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((), tf.int64)], autograph=False)
    def compiled(number: Any) -> Any:
        with tf.device("CPU:0"):
            return function(number)

    def call(number: int) -> Any:
        with tf.device("CPU:0"):
            results = compiled(tf.constant(number, tf.int64))
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), results)

    return call


def in_order(
    items: Iterable[Item], start: int, stop: int, key: Callable[[Item], Any]
) -> Iterator[Item]:
    """Yields items in the order of their numbers, whatever order they arrive in.

    Args:
        items: One item per number, roughly in order.
        start: First number.
        stop: Number after the last.
        key: Returns the number of an item.

    Yields:
        The items.

    Raises:
        RuntimeError: If an item does not arrive.
    """
    early: dict[int, Item] = {}
    arriving = iter(items)
    for number in range(start, stop):
        while number not in early:
            item = next(arriving, None)
            if item is None or len(early) == MAX_EARLY:
                raise RuntimeError(
                    f"Expected the batch of step {number}. It did not arrive: it was "
                    "lost with a worker of the tf.data service. Start the command "
                    "again; it resumes from the last checkpoint."
                )
            early[int(key(item))] = item
        yield early.pop(number)


def _check_policy(on_corrupt: str) -> str:
    if on_corrupt not in ("skip", "fail"):
        raise UserError(
            f"Expected on_corrupt to be 'skip' or 'fail'. Received: {on_corrupt!r}"
        )
    return on_corrupt


def _check_good(dataset: RecordDataset, numbers: np.ndarray, good: np.ndarray) -> None:
    bad = numbers[~good]
    if len(bad):
        names = ", ".join(f"{dataset.file_name(n)} (record {n})" for n in bad[:5])
        raise UserError(
            f"Expected grayscale or RGB JPEG images. Received {len(bad)} in one batch "
            f"that cannot be decoded: {names}. Replace them and prepare the data "
            "again, or leave such images out of training with on_corrupt='skip'."
        )
