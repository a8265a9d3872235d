"""Training and evaluation batches from JPEG files on disk.

A batch is a pure function of seed and step: the record numbers by a shuffle that needs
no memory, the files, the crops of them by `training.data.decoding`.
"""

import os

import numpy as np

from elu_zoo.errors import UserError
from training.data.batch import evaluation_batch, made_ahead, worker_rows
from training.data.crops import Crop, ResizedRandomCrop, evaluation_crop
from training.data.decoding import decode, decode_ops
from training.data.stream import Stream

# Batches that may arrive from a tf.data service before one that is still awaited.
MAX_EARLY = 64

# Batches decoded at a time.
THREADS = min(32, os.cpu_count() or 1)


class EncodedStream(Stream):
    """Batches of a `RecordDataset`, or of one worker's share of it.

    Each epoch has another order; the last, smaller batch of an epoch is left out. An
    image that is damaged, or no JPEG file of grey or RGB, is all zeros and has weight
    0.

    Args:
        dataset: `training.data.records.RecordDataset`.
        batch_size: Examples of a global batch.
        augmentation: Functions of `training.data.augmentation`. The first may be a crop
            of `training.data.crops`; default is the paper's, `ResizedRandomCrop(256)`.
        image_sizes: Side of the training images by the first epoch that has it, such as
            `{0: 160, 60: 224}`; an integer if it never changes.
        seed: Integer.
        worker: Number of this worker, from 0.
        workers: Number of workers; each gets as many rows of every global batch.
        on_corrupt: `"skip"` gives images that cannot be decoded weight 0; `"fail"`
            raises an error that names them.
        decoder: `"simplejpeg"` (the faster), or `"tensorflow"`, which decodes nothing
            but the crop: see `training.data.decoding`.
        service: Address of a tf.data service, such as `"grpc://host:5050"`, that is to
            do the work, by the decoder `"tensorflow"`.

    Raises:
        UserError: If there are fewer examples than a batch has, the batch cannot be
            shared evenly, or an argument has no such value.
    """

    def __init__(
        self,
        dataset,
        batch_size,
        augmentation=(),
        image_sizes=224,
        seed=0,
        worker=0,
        workers=1,
        on_corrupt="skip",
        decoder="simplejpeg",
        service=None,
    ):
        augmentation = list(augmentation)
        own_crop = augmentation and isinstance(augmentation[0], Crop)
        self.crop = augmentation.pop(0) if own_crop else ResizedRandomCrop(256)
        if isinstance(image_sizes, int):
            image_sizes = {0: image_sizes}
        if 0 not in image_sizes:
            raise UserError(
                "Expected image_sizes to have a size for epoch 0, since images on disk "
                f"have no size in common. Received: image_sizes={image_sizes}"
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
        self._drawn = _on_cpu(self._draw)

    def drawn(self, step):
        """What the compiled step takes, whatever was asked for before."""
        return self._finish(self._decoder(step))

    @property
    def resident(self):
        """None of the images is kept on the device."""
        return None

    def batches(self, start, stop):
        """What the compiled step takes from `start` to `stop`, made ahead in threads.

        Args:
            start: First step.
            stop: Step after the last.

        Yields:
            A `Batch` a step.

        Raises:
            ValueError: With `on_corrupt="fail"`, if an image cannot be decoded.
            RuntimeError: If the tf.data service loses a batch.
        """
        steps = range(start, stop)
        if not self.service:
            yield from made_ahead(self.drawn, steps, THREADS, ahead=THREADS + 2)
            return
        served = self._served(start, stop)
        yield from made_ahead(lambda _: self._finish(next(served)), steps)

    def _served(self, start, stop):
        """What a decoder gives, from the tf.data service."""
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

    def _decode(self, step):
        """The numbers of a step's examples and their images."""
        numbers, draws, size = self._drawn(step)
        files = [self.dataset.image(number) for number in numbers]
        images, good = decode(files, self.crop, draws, int(size), fast=True)
        return {"step": step, "numbers": numbers, "images": images, "good": good}

    def _decode_ops(self, step):
        """`_decode` by ops of TensorFlow."""
        numbers, draws, size = self._draw(step)
        files = self.dataset.read_ops(numbers)
        images, good = decode_ops(files, self.crop, draws, size, fast=True)
        return {"step": step, "numbers": numbers, "images": images, "good": good}

    def _draw(self, step):
        """Numbers of a step's examples, random values for their crops, side."""
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

    def _finish(self, decoded):
        step, numbers = int(decoded["step"]), decoded["numbers"]
        if self.on_corrupt == "fail":
            _check_good(self.dataset, numbers, decoded["good"])
        images, weights = decoded["images"], decoded["good"].astype("float32")
        # Draws for the rows of other workers are not used.
        everyone = np.zeros(self.batch_size, int)
        everyone[self.rows] = numbers
        return self._assemble(step, everyone, images, weights, images.shape)


def eval_batches(
    dataset,
    batch_size,
    image_size=224,
    crop=None,
    worker=0,
    workers=1,
    on_corrupt="fail",
):
    """All examples of a split once, in their order.

    Args:
        dataset: `training.data.records.RecordDataset`.
        batch_size: Examples of a global batch.
        image_size: Side in pixels.
        crop: Crop of `training.data.crops`; default is the paper's, `CenterCrop(256)`,
            or of the same share of the image at another size.
        worker: Number of this worker, from 0. Every worker gets as many batches.
        workers: Number of workers.
        on_corrupt: As for `EncodedStream`.

    Yields:
        A `Batch`. What the last one lacks is filled with weight 0 and index -1.

    Raises:
        UserError: With `on_corrupt="fail"`, if an image cannot be decoded.
    """
    crop = crop or evaluation_crop(image_size)
    crop.check(image_size)
    _check_policy(on_corrupt)
    rows = worker_rows(batch_size, worker, workers)
    last = len(dataset) - 1
    draws = np.zeros((rows.stop - rows.start, crop.draws), "float32")

    def batch(start):
        numbers = np.arange(start + rows.start, start + rows.stop)
        files = [dataset.image(number) for number in np.minimum(numbers, last)]
        images, good = decode(files, crop, draws, image_size)
        if on_corrupt == "fail":
            present = numbers <= last
            _check_good(dataset, numbers[present], good[present])
        return evaluation_batch(dataset, numbers, images, good)

    starts = range(0, len(dataset), batch_size)
    yield from made_ahead(batch, starts, THREADS, ahead=THREADS + 2)


def _on_cpu(function):
    """Compiles a function of an integer that returns arrays, for any thread to call."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((), tf.int64)], autograph=False)
    def compiled(number):
        with tf.device("CPU:0"):
            return function(number)

    def call(number):
        with tf.device("CPU:0"):
            results = compiled(tf.constant(number, tf.int64))
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), results)

    return call


def in_order(items, start, stop, key):
    """Yields the items of `start` to `stop` in order, however they arrive.

    Args:
        items: Iterable of one item a number, near their order.
        start: First number.
        stop: Number after the last.
        key: Gives the number of an item.

    Yields:
        The items.

    Raises:
        RuntimeError: If an item does not come.
    """
    early, items = {}, iter(items)
    for number in range(start, stop):
        while number not in early:
            item = next(items, None)
            if item is None or len(early) == MAX_EARLY:
                raise RuntimeError(
                    f"Expected the batch of step {number}. It did not come: a worker "
                    "of the tf.data service was lost with it. Start the command again; "
                    "it goes on from the last checkpoint."
                )
            early[int(key(item))] = item
        yield early.pop(number)


def _check_policy(on_corrupt):
    if on_corrupt not in ("skip", "fail"):
        raise UserError(
            f"Expected on_corrupt to be 'skip' or 'fail'. Received: {on_corrupt!r}"
        )
    return on_corrupt


def _check_good(dataset, numbers, good):
    bad = numbers[~good]
    if len(bad):
        names = ", ".join(f"{dataset.file_name(n)} (record {n})" for n in bad[:5])
        raise UserError(
            f"Expected JPEG images of grey or RGB. Received {len(bad)} in one batch "
            f"that cannot be decoded: {names}. Replace them and prepare the data "
            "again, or leave such images out of the training with on_corrupt='skip'."
        )
