"""Training and evaluation batches from JPEG files on disk, decoded by TensorFlow.

A batch is a pure function of seed and step, computed by one TensorFlow graph: the
record numbers by a shuffle that needs no memory, the bytes, the window that the crop
takes, the decoding of that window alone, the resizing.
"""

import functools
import os

import numpy as np

from training.data.batch import Batch, made_ahead, one_hot, worker_rows
from training.data.crops import CenterCrop, Crop, ResizedRandomCrop

# Batches that may arrive from a tf.data service before one that is still awaited.
MAX_EARLY = 64

# Batches decoded at a time. In the deterministic mode tf.data's parallel map would be
# serial, since it takes reading files for random.
THREADS = min(32, os.cpu_count() or 1)

# Pixels across the blocks that a JPEG file is made of, at most.
BLOCK = 16

# Ways to decode. The exact one, of evaluation, gives what Pillow and an export of this
# package give; the fast one, of training, is off by a few of 255.
FAST, EXACT = "INTEGER_FAST", "INTEGER_ACCURATE"

# Of the sizes that a JPEG file can be decoded at.
RATIOS = (1, 2, 4, 8)


class EncodedStream:
    """Batches of a `RecordDataset`, or of one worker's share of it.

    Each epoch has another order; the last, smaller batch of an epoch is left out. An
    image that cannot be decoded, is cut short, or is no JPEG file of grey or RGB, is
    all zeros and has weight 0.

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
        service: Address of a tf.data service, such as `"grpc://host:5050"`, that is to
            do the work.

    Raises:
        ValueError: If there are fewer examples than a batch has, the batch cannot be
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
        service=None,
    ):
        if len(dataset) < batch_size:
            raise ValueError(
                f"Expected at least one batch of {batch_size} training images. "
                f"Received: {len(dataset)} images"
            )
        augmentation = list(augmentation)
        own_crop = augmentation and isinstance(augmentation[0], Crop)
        self.crop = augmentation.pop(0) if own_crop else ResizedRandomCrop(256)
        if isinstance(image_sizes, int):
            image_sizes = {0: image_sizes}
        self.image_sizes = dict(sorted(image_sizes.items()))
        if 0 not in self.image_sizes:
            raise ValueError(
                "Expected image_sizes to have a size for epoch 0, since images on disk "
                f"have no size in common. Received: image_sizes={image_sizes}"
            )
        for size in self.image_sizes.values():
            self.crop.check(size)
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed
        self.batch_size, self.service = batch_size, service
        self.rows = worker_rows(batch_size, worker, workers)
        self.steps_per_epoch = len(dataset) // batch_size
        self.on_corrupt = _check_policy(on_corrupt)

    def image_size(self, epoch):
        """Side in pixels of the training images of an epoch."""
        return self.image_sizes[max(e for e in self.image_sizes if e <= epoch)]

    def batch(self, step):
        """The batch of a step, whatever was asked for before: see `batches`."""
        return self._finish(self._decode(step))

    def batches(self, start, stop):
        """Batches of the steps from `start` to `stop`, made ahead in threads.

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
            yield from made_ahead(self.batch, steps, THREADS, ahead=THREADS + 2)
            return
        served = self._served(start, stop)
        yield from made_ahead(lambda _: self._finish(next(served)), steps)

    def _served(self, start, stop):
        """What `_decode` gives, from the tf.data service."""
        import tensorflow as tf

        service = tf.data.experimental.service
        steps = tf.data.Dataset.range(start, stop).map(
            self._decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        steps = steps.apply(
            service.distribute(service.ShardingPolicy.DYNAMIC, self.service)
        )
        arrived = steps.prefetch(2).as_numpy_iterator()
        return in_order(arrived, start, stop, key=lambda x: x["step"])

    @functools.cached_property
    def _decode(self):
        return _on_cpu(self._decoded)

    def _decoded(self, step):
        """The part of a batch that is computed in TensorFlow."""
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
        size = tf.gather(sizes, first - 1)
        images, good = decode_all(self.dataset, numbers, self.crop, draws, size)
        return {"step": step, "numbers": numbers, "images": images, "good": good}

    def _finish(self, decoded):
        step, numbers = int(decoded["step"]), decoded["numbers"]
        if self.on_corrupt == "fail":
            _check_good(self.dataset, numbers, decoded["good"])
        epoch = step // self.steps_per_epoch
        batch = Batch(
            images=decoded["images"],
            targets=one_hot(self.dataset, numbers),
            weights=decoded["good"].astype("float32"),
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
        crop: Crop of `training.data.crops`; default is the paper's, `CenterCrop(256)`.
        worker: Number of this worker, from 0. Every worker gets as many batches.
        workers: Number of workers.
        on_corrupt: As for `EncodedStream`.

    Yields:
        A `Batch`. What the last one lacks is filled with weight 0 and index -1.

    Raises:
        ValueError: With `on_corrupt="fail"`, if an image cannot be decoded.
    """
    import tensorflow as tf

    crop = crop or CenterCrop(256)
    crop.check(image_size)
    _check_policy(on_corrupt)
    rows = worker_rows(batch_size, worker, workers)
    last = len(dataset) - 1

    @_on_cpu
    def decode(start):
        numbers = start + tf.range(rows.start, rows.stop, dtype=tf.int64)
        draws = tf.zeros((rows.stop - rows.start, crop.draws))
        present = tf.minimum(numbers, last)
        decoded = decode_all(dataset, present, crop, draws, image_size, EXACT)
        return numbers, *decoded

    def batch(start):
        numbers, images, good = decode(start)
        present = numbers <= last
        if on_corrupt == "fail":
            _check_good(dataset, numbers[present], good[present])
        return Batch(
            images=np.where(present[:, None, None, None], images, np.uint8(0)),
            targets=one_hot(dataset, np.minimum(numbers, last)),
            weights=(good & present).astype("float32"),
            indices=np.where(present, numbers, -1),
            epoch=0,
            image_size=image_size,
            rng=np.random.default_rng(0),
            rows=rows,
            global_size=batch_size,
        )

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


def decode_all(dataset, numbers, crop, draws, size, method=FAST):
    """Crops of the images with these numbers, by ops of a `tf.data` pipeline.

    Only the window that a crop takes is decoded. If it is at least twice as large as
    the crop, it is decoded at 1/2, 1/4 or 1/8 of its size, which is faster and smoother
    than to resize all of it.

    Args:
        dataset: `RecordDataset`.
        numbers: int64 tensor of shape `(rows,)`.
        crop: Crop of `training.data.crops`.
        draws: float32 tensor of shape `(rows, crop.draws)`.
        size: Side in pixels, integer or scalar int32 tensor.
        method: `FAST` or `EXACT`.

    Returns:
        Tensors of shape `(rows, size, size, 3)`, uint8, and `(rows,)`, bool: whether
        the file is a whole JPEG of grey or RGB. If not, its image is all zeros.
    """
    import tensorflow as tf

    rows = tf.size(numbers, tf.int64)
    files = dataset.read(numbers)["image"]
    shapes, complete = _headers(files, rows)
    windows = _windows(crop, draws, shapes, size)
    halvings = sum(
        tf.cast(tf.reduce_min(windows[:, 2:], -1) >= ratio * size, tf.int32)
        for ratio in RATIOS[1:]
    )
    same = tf.reduce_all(windows[:, 2:] == size, -1)
    decode_window = functools.partial(_decode_window, method=method)
    ways = [(complete & same, functools.partial(decode_window, ratio=1))]
    for i, ratio in enumerate(RATIOS):
        decode = functools.partial(decode_window, ratio=ratio, size=size)
        ways.append((complete & ~same & (halvings == i), decode))
    # Decoding a window does not notice that a file ends too early below it.
    decode_whole = functools.partial(_decode_whole, size=size, method=method)
    ways.append((~complete, decode_whole))
    rgb_or_grey = (shapes[:, 2] == 1) | (shapes[:, 2] == 3)
    # One more image, of zeros, for the places of those that cannot be decoded.
    spare = tf.data.Dataset.from_tensors((rows, tf.zeros((size, size, 3), tf.uint8)))
    images = None
    for which, decode in ways:
        chosen = tf.where(which & rgb_or_grey)[:, 0]
        some = (
            tf.data.Dataset.from_tensor_slices(
                (chosen, tf.gather(files, chosen), tf.gather(windows, chosen))
            )
            .map(lambda row, file, window, decode=decode: (row, decode(file, window)))
            .ignore_errors(log_warning=False)
        )
        images = images.concatenate(some) if images else some
    places, images = images.concatenate(spare).batch(rows + 1).get_single_element()
    last = tf.size(places) - 1
    order = tf.tensor_scatter_nd_update(
        tf.fill([rows + 1], last), places[:, None], tf.range(last + 1)
    )[:rows]
    good = order < last
    # Without a copy if all could be decoded and none was overtaken.
    in_place = tf.reduce_all(good & (order == tf.range(tf.size(order))))
    images = tf.cond(in_place, lambda: images[:-1], lambda: tf.gather(images, order))
    return tf.ensure_shape(images, (None, None, None, 3)), good


def _headers(files, rows):
    """Shapes of JPEG files, zeros for others, and whether they end as they should."""
    import tensorflow as tf

    known = (
        tf.data.Dataset.from_tensor_slices((tf.range(rows), files))
        .map(
            lambda row, file: (
                row,
                tf.io.extract_jpeg_shape(file),
                tf.strings.substr(file, -2, 2) == b"\xff\xd9",
            )
        )
        .ignore_errors(log_warning=False)
    )
    spare = tf.data.Dataset.from_tensors((rows, tf.zeros([3], tf.int32), False))
    places, shapes, complete = (
        known.concatenate(spare).batch(rows + 1).get_single_element()
    )
    shapes = tf.scatter_nd(places[:, None], shapes, tf.stack([rows + 1, 3]))
    complete = tf.scatter_nd(places[:, None], complete, [rows + 1])
    return shapes[:rows], complete[:rows]


def _windows(crop, draws, shapes, size):
    import tensorflow as tf
    import tensorflow.experimental.numpy as tnp

    sides = tf.cast(shapes, tf.float32)
    windows = crop.windows(
        tf.transpose(draws), sides[:, 0], sides[:, 1], tf.cast(size, tf.float32), tnp
    )
    return tf.cast(tf.stack(windows, -1), tf.int32)


def _decode_window(file, window, ratio, method, size=None):
    import tensorflow as tf

    start = (window[:2] + ratio // 2) // ratio
    end = (window[:2] + window[2:] + ratio // 2) // ratio
    # The decoder is faster if a window begins where a block of pixels does.
    first = start - [0, start[1] % BLOCK]
    part = tf.concat([first, end - first], 0)
    image = tf.io.decode_and_crop_jpeg(
        file, part, channels=3, ratio=ratio, dct_method=method
    )
    image = image[:, (start - first)[1] :]
    return image if size is None else _resize(image, size)


def _decode_whole(file, window, size, method):
    import tensorflow as tf

    begin, part = tf.pad(window[:2], [[0, 1]]), tf.concat([window[2:], [3]], 0)
    image = tf.io.decode_jpeg(file, channels=3, dct_method=method)
    return _resize(tf.slice(image, begin, part), size)


def _resize(image, size):
    import tensorflow as tf

    # Resizing floats is faster than resizing bytes.
    image = tf.image.resize(tf.cast(image, tf.float32), (size, size))
    return tf.cast(image + 0.5, tf.uint8)


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
        raise ValueError(
            f"Expected on_corrupt to be 'skip' or 'fail'. Received: {on_corrupt!r}"
        )
    return on_corrupt


def _check_good(dataset, numbers, good):
    bad = numbers[~good]
    if len(bad):
        names = ", ".join(f"{dataset.file_name(n)} (record {n})" for n in bad[:5])
        raise ValueError(
            f"Expected JPEG images of grey or RGB. Received {len(bad)} in one batch "
            f"that cannot be decoded: {names}. Replace them and prepare the data "
            "again, or leave such images out of the training with on_corrupt='skip'."
        )
