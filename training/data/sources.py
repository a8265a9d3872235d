"""Data sets by name, in memory or on disk, and what training needs of either."""

import contextlib
import pathlib
import zipfile
import zlib

import numpy as np

from elu_zoo import datasets, evaluation
from elu_zoo.errors import UserError
from elu_zoo.files import replacing
from training.data.batch import evaluation_batch
from training.data.encoded import EncodedStream, eval_batches
from training.data.phases import counted_from_start
from training.data.records import RecordDataset
from training.data.stream import Stream

# Data sets on disk: the folder that training.prepare makes.
RECORDS = {"imagenet2012": "imagenet", "imagenet2012_256": "imagenet-256"}
SPLITS = {"train": "train", "test": "validation"}


def load(name, split, data_dir, class_names=None):
    """Opens a split of a data set.

    Args:
        name: `"imagenet2012"`, `"imagenet2012_256"` with its images resized to 256×256,
            or a name of `elu_zoo.datasets.load`.
        split: `"train"` or `"test"`.
        data_dir: Folder of the data sets.
        class_names: The classes that it must have.

    Returns:
        An `elu_zoo.datasets.Dataset` or a `training.data.records.RecordDataset`.

    Raises:
        UserError: If there is no such data set or split, or its classes are others.
        FileNotFoundError: If the files are not there.
    """
    if name == "tiny_imagenet" and split in SPLITS:
        dataset = _tiny_imagenet(pathlib.Path(data_dir), split)
    elif name not in RECORDS:
        dataset = datasets.load(name, split, data_dir)
    elif split in SPLITS:
        dataset = RecordDataset(pathlib.Path(data_dir) / RECORDS[name], SPLITS[split])
    else:
        raise UserError(
            f"Expected the split to be one of {list(SPLITS)}. Received: {split!r}"
        )
    if class_names is not None and list(dataset.class_names) != list(class_names):
        raise UserError(
            f"Expected the {len(class_names)} classes that the network was trained on. "
            f"Received: the {len(dataset.class_names)} of {data_dir}, which are others "
            "or in another order"
        )
    return dataset


def _tiny_imagenet(data_dir, split):
    """Tiny ImageNet, its decoded images kept beside the data where that can be."""
    files, labels, names = datasets.tiny_imagenet_files(data_dir, split)
    # A folder's time changes with its files.
    folders = {str(f.parent): f.parent.stat().st_mtime_ns for f in files[::20]}
    known = zlib.crc32("\n".join(map(str, (*files, folders))).encode())
    root = next(p for p in files[0].parents if (p / "wnids.txt").is_file())
    cache = root / f".decoded-{split}-{known:08x}.npz"
    images = _decoded(cache)
    if images is None:
        images = datasets.read_images(files)
        # A folder that one may not write to is no reason to stop.
        with contextlib.suppress(OSError), replacing(cache) as part:
            np.savez(part, images=images)
    return datasets.Dataset(images, labels, names)


def _decoded(cache):
    """The images in the file, or `None` if it is not there or damaged."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            return file["images"]  # Its checksum is compared.
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def on_disk(dataset):
    """Whether a data set is read while training."""
    return isinstance(dataset, RecordDataset)


def make_stream(dataset, recipe, placement, **options):
    """The training batches of a worker.

    Args:
        dataset: Result of `load`.
        recipe: `Recipe`.
        placement: `training.engine.strategy.Placement`.
        **options: `on_corrupt`, `decoder` and `service` of an `EncodedStream`.

    Returns:
        A `Stream` or an `EncodedStream`.

    Raises:
        UserError: If there is a service, but the data set is in memory.
    """
    arguments = (
        dataset,
        recipe.batch_size,
        recipe.augmentation,
        counted_from_start(recipe.image_sizes, recipe.epochs),
        recipe.seed,
        placement.worker,
        placement.workers,
    )
    if on_disk(dataset):
        return EncodedStream(*arguments, **options)
    if service := options.get("service"):
        raise UserError(
            "Expected a data set on disk for a tf.data service. Received: "
            f"service={service!r} for {recipe.dataset}, which is in memory"
        )
    return Stream(*arguments)


def image_shape(dataset, image_sizes=None):
    """Shape of the images for evaluation, `(height, width, channels)`.

    Args:
        dataset: Result of `load`.
        image_sizes: The recipe's; the largest is that of images on disk, which have no
            size of their own.
    """
    if on_disk(dataset):
        return (max(image_sizes.values()),) * 2 + (3,)
    return (dataset.image_size, dataset.image_size, dataset.channels)


def sample_images(dataset, size, count=2000):
    """Images to learn statistics from: all in memory, or some evenly spread on disk."""
    if not on_disk(dataset):
        return dataset.images
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    batches = list(eval_batches(dataset[chosen], 250, size, on_corrupt="skip"))
    good = np.concatenate([batch.weights for batch in batches]) > 0
    return np.concatenate([batch.images for batch in batches])[good]


def evaluation_batches(dataset, size, worker=0, workers=1, rows=250):
    """A worker's share of all examples, each in one batch of one worker.

    Args:
        dataset: Result of `load`.
        size: Side in pixels of images on disk.
        worker: Number of this worker, from 0.
        workers: Number of workers. All have as many batches.
        rows: Images a worker at a time.

    Yields:
        A `Batch`, filled up with images of weight 0.
    """
    if on_disk(dataset):
        yield from eval_batches(
            dataset, rows * workers, size, worker=worker, workers=workers
        )
        return
    for start in range(0, len(dataset), rows * workers):
        numbers = start + worker * rows + np.arange(rows)
        images = dataset.images[np.minimum(numbers, len(dataset) - 1)]
        yield evaluation_batch(dataset, numbers, images)


def evaluate(model, dataset):
    """Figures of a model of probabilities, see `elu_zoo.evaluation.evaluate`.

    The images are resized to the size that the model takes.
    """
    if not on_disk(dataset):
        dataset = dataset.resized(model.input_shape[1])
        return evaluation.evaluate(
            model, dataset.images, dataset.labels, dataset.class_names
        )
    probabilities = [
        np.asarray(model.predict_on_batch(batch.images))[batch.indices >= 0]
        for batch in eval_batches(dataset, 250, model.input_shape[1])
    ]
    return evaluation.measure(
        np.concatenate(probabilities), dataset.labels, dataset.class_names
    )
