"""Encoded images on disk: TFRecord shards, and an index to read any image by number.

A split consists of `<folder>/<split>-00000-of-00064.tfrecord` and so on, which every
TFRecord reader can read, and `<folder>/<split>.index.npz`. The features of a record are
those of TensorFlow Datasets: `image` (the JPEG file), `label` and `file_name`.
"""

from __future__ import annotations

import copy
import pathlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from elu_zoo.datasets import class_numbers
from elu_zoo.errors import UserError
from elu_zoo.files import replacing

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from typing_extensions import Self

    from training.data.batch import Batch
    from training.data.encoded import EncodedStream

# A record's length and its checksum precede the data; the data's checksum follows.
HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")
FRAME = HEAD.size + TAIL.size


def write_shard(path: pathlib.Path, examples: Iterable[tuple[bytes, int, str]]) -> None:
    """Writes a shard atomically.

    Args:
        path: Path of the file.
        examples: `(image, label, file_name)` of each example: the JPEG file's content,
            the number of its class and the file's name.
    """
    import tensorflow as tf

    def feature(value: bytes | int) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    with replacing(path) as part, tf.io.TFRecordWriter(str(part)) as writer:
        for image, label, file_name in examples:
            features = {
                "image": feature(image),
                "label": feature(int(label)),
                "file_name": feature(file_name.encode()),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString(deterministic=True))


def write_index(
    folder: str | pathlib.Path,
    split: str,
    shards: Sequence[pathlib.Path],
    class_names: Sequence[str],
    progress: Callable[[int], Any] | None = None,
) -> list[str]:
    """Reads shards from beginning to end and writes the index of a split.

    Args:
        folder: Folder of the index.
        split: Name of the split.
        shards: Paths of the shards, in or below the folder.
        class_names: Name of each class.
        progress: Called with the number of bytes of each shard once it has been read.

    Returns:
        The file names of the records.

    Raises:
        UserError: If a shard is damaged.
    """
    import tensorflow as tf

    folder = pathlib.Path(folder)
    rows, file_names = [], []
    for number, shard in enumerate(shards):
        offset = 0
        try:
            for length, label, file_name in _records(shard):
                rows.append((number, offset, label))
                file_names.append(file_name)
                offset += length + FRAME
        except tf.errors.DataLossError as error:
            raise UserError(
                f"Expected {shard} to be a whole shard. It is damaged "
                f"({error.message}); remove it and prepare the data again."
            ) from error
        if progress:
            progress(offset)
    columns = np.array(rows, np.int64).reshape(-1, 3)
    with replacing(_index(folder, split)) as part, part.open("wb") as file:
        np.savez(
            file,
            shard=columns[:, 0].astype(np.int32),
            offset=columns[:, 1],
            label=columns[:, 2].astype(np.int32),
            shards=[pathlib.Path(s).relative_to(folder).as_posix() for s in shards],
            class_names=list(class_names),
        )
    return file_names


def _records(shard: pathlib.Path) -> Iterator[tuple[int, int, str]]:
    import tensorflow as tf

    for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        yield (
            len(record),
            features["label"].int64_list.value[0],
            features["file_name"].bytes_list.value[0].decode(),
        )


def _index(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / f"{split}.index.npz"


class RecordDataset:
    """A split on disk that fulfils `training.data.protocol.Examples`.

    Args:
        folder: Folder of the index and the shards.
        split: Name of the split.

    Attributes:
        labels: int64 array of shape `(examples,)`.
        class_names: One name per class.
        shape: `(None, None, 3)`, since each image has its own size.

    Raises:
        FileNotFoundError: If the index or a shard is missing.
    """

    shape: tuple[None, None, int] = (None, None, 3)

    def __init__(self, folder: str | pathlib.Path, split: str) -> None:
        folder = pathlib.Path(folder)
        file = _index(folder, split)
        if not file.is_file():
            raise FileNotFoundError(
                f"Expected prepared shards with the index {file}, which is missing. "
                "Run `python -m training.prepare`; docs/imagenet.md says how."
            )
        with np.load(file, allow_pickle=False) as index:
            self.labels = index["label"].astype(np.int64)
            self.class_names = tuple(str(name) for name in index["class_names"])
            self._shard, self._offset = index["shard"], index["offset"]
            self._paths = [str(folder / name) for name in index["shards"]]
        missing = [path for path in self._paths if not pathlib.Path(path).is_file()]
        if missing:
            raise FileNotFoundError(
                f"Expected the {len(self._paths)} shards that {file} lists. "
                f"{len(missing)} are missing, the first is {missing[0]}. Run "
                "`python -m training.prepare` again."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Self:
        """Returns the examples that an index of NumPy chooses."""
        part = copy.copy(self)
        part.labels = self.labels[index]
        part._shard, part._offset = self._shard[index], self._offset[index]
        return part

    def with_classes(self, class_names: Sequence[str]) -> Self:
        """See `Examples.with_classes`."""
        numbers = class_numbers(self.class_names, class_names)
        part = copy.copy(self)
        part.labels, part.class_names = numbers[self.labels], tuple(class_names)
        return part

    def stream(self, *arguments: Any, **options: Any) -> EncodedStream:
        """See `Examples.stream`."""
        from training.data.encoded import EncodedStream

        return EncodedStream(self, *arguments, **options)

    def sample(self, size: int, count: int = 2000) -> np.ndarray:
        """See `Examples.sample`; the images are spread evenly over the data set."""
        from training.data.encoded import eval_batches

        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)
        batches = eval_batches(self[chosen], 250, size, on_corrupt="skip")
        good = (np.asarray(batch.images)[batch.weights > 0] for batch in batches)
        return np.concatenate(list(good))

    def evaluation_batches(
        self, size: int, worker: int = 0, workers: int = 1, rows: int = 250
    ) -> Iterator[Batch]:
        """See `Examples.evaluation_batches`; the images are center crops."""
        from training.data.encoded import eval_batches

        return eval_batches(self, rows * workers, size, worker=worker, workers=workers)

    def evaluate(self, model: keras.Model) -> dict[str, Any]:
        """See `Examples.evaluate`; the images are center crops."""
        from elu_zoo import evaluation, predictions

        probabilities = predictions.probabilities(self.predict(model), model)
        return evaluation.measure(probabilities, self.labels, self.class_names)

    def predict(self, model: keras.Model) -> np.ndarray:
        """See `Examples.predict`."""
        from elu_zoo.images import image_side

        outputs = [
            np.asarray(model.predict_on_batch(batch.images))[batch.indices >= 0]
            for batch in self.evaluation_batches(image_side(model))
        ]
        return np.concatenate(outputs)

    def preprocessing(self, side: int) -> dict[str, Any]:
        """See `Examples.preprocessing`."""
        from training.data.crops import evaluation_crop

        return evaluation_crop(side).preprocessing(side)

    def image(self, number: int) -> bytes:
        """Reads the JPEG file of an example.

        Args:
            number: Position of the example.

        Returns:
            The content of the file.

        Raises:
            UserError: If the shard is damaged.
            FileNotFoundError: If the shard is missing.
        """
        return self._features(number)["image"].bytes_list.value[0]

    def file_name(self, number: int) -> str:
        """Reads the name of an example's image file.

        Args:
            number: Position of the example.

        Returns:
            The name.
        """
        return self._features(number)["file_name"].bytes_list.value[0].decode()

    def _features(self, number: int) -> Mapping[str, Any]:
        import tensorflow as tf

        path = self._paths[self._shard[number]]
        with open(path, "rb") as file:
            file.seek(self._offset[number])
            head = file.read(HEAD.size)
            data = _checked_data(head, file)
        if data is None:
            raise UserError(
                f"Expected {path} to be a whole shard. Its record at byte "
                f"{self._offset[number]} is damaged; remove the shard and run "
                "`python -m training.prepare` again."
            )
        return tf.train.Example.FromString(data).features.feature

    def read_ops(self, numbers: tf.Tensor) -> tf.Tensor:
        """Reads JPEG files with TensorFlow ops, which a tf.data service can run.

        Args:
            numbers: Integer tensor of shape `(n,)`, n > 0: positions of the examples.

        Returns:
            A string tensor of shape `(n,)`: contents of the files.
        """
        import tensorflow as tf

        def record(path: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
            # A TFRecordDataset that begins at a position of the file.
            records = tf.raw_ops.TFRecordDatasetV2(
                filenames=[path],
                compression_type="",
                buffer_size=0,
                byte_offsets=[offset],
            )
            record = tf.TensorSpec((), tf.string)
            return tf.data.experimental.from_variant(records, record).take(1)

        paths = tf.gather(self._paths, tf.gather(self._shard, numbers))
        places = (paths, tf.gather(self._offset, numbers))
        records = tf.data.Dataset.from_tensor_slices(places).flat_map(record)
        return tf.io.parse_example(
            records.batch(tf.size(numbers, tf.int64)).get_single_element(),
            {"image": tf.io.FixedLenFeature([], tf.string)},
        )["image"]


def _checked_data(head: bytes, file: BinaryIO) -> bytes | None:
    """The data of a record after its head, or `None` if a checksum is wrong."""
    if len(head) < HEAD.size:
        return None
    length, checksum = HEAD.unpack(head)
    if checksum != _masked_crc(head[:8]):
        return None
    data, tail = file.read(length), file.read(TAIL.size)
    whole = len(tail) == TAIL.size and TAIL.unpack(tail) == (_masked_crc(data),)
    return data if whole else None


def _masked_crc(data: bytes) -> int:
    """The checksum of the TFRecord format."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
