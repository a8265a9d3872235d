import numpy as np
import pytest

from training.data.records import RecordDataset, write_index, write_shard


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return [(rng.bytes(5 + 40 * i), i % 3, f"n{i}.JPEG") for i in range(17)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("records")
    shards = [folder / f"train-{i:05}-of-00003.tfrecord" for i in range(3)]
    for i, shard in enumerate(shards):
        write_shard(shard, examples[6 * i : 6 * i + 6])
    names = write_index(folder, "train", shards, ["ant", "bee", "cat"])
    assert names == [name for _, _, name in examples]
    return folder


def test_any_record_by_its_number(folder, examples):
    dataset = RecordDataset(folder, "train")
    assert len(dataset) == 17
    assert dataset.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(dataset.labels, np.arange(17) % 3)
    for number in (16, 0, 5, 6, 11, 12):
        image, label, name = examples[number]
        assert dataset.image(number) == image
        assert list(dataset.read_ops([number, 3]).numpy()) == [image, examples[3][0]]
        assert dataset.labels[number] == label
        assert dataset.file_name(number) == name


def test_inside_a_pipeline(folder, examples):
    import tensorflow as tf

    dataset = RecordDataset(folder, "train")
    order = np.random.default_rng(1).permutation(17)
    images = tf.data.Dataset.from_tensor_slices(order).map(
        lambda number: dataset.read_ops(number[None])[0], num_parallel_calls=2
    )
    assert list(images.as_numpy_iterator()) == [examples[i][0] for i in order]


def test_shards_are_plain_tfrecords(folder, examples):
    import tensorflow as tf

    files = sorted(str(path) for path in folder.glob("*.tfrecord"))
    raw = list(tf.data.TFRecordDataset(files).as_numpy_iterator())
    labels = [
        tf.train.Example.FromString(r).features.feature["label"].int64_list.value[0]
        for r in raw
    ]
    assert labels == [label for _, label, _ in examples]


def test_what_is_missing_is_said(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="training.prepare"):
        RecordDataset(tmp_path, "train")
    index = folder / "train.index.npz"
    (tmp_path / index.name).write_bytes(index.read_bytes())
    with pytest.raises(FileNotFoundError, match="3 are missing"):
        RecordDataset(tmp_path, "train")


def test_a_damaged_shard_is_noticed(tmp_path, examples):
    shard = tmp_path / "train-00000-of-00001.tfrecord"
    write_shard(shard, examples)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="train-00000-of-00001.tfrecord.* damaged"):
        write_index(tmp_path, "train", [shard], ["ant"])
    assert not (tmp_path / "train.index.npz").exists()


@pytest.mark.parametrize("place", [3, 9, 40, -2])
def test_damage_that_comes_later_is_noticed(tmp_path, place):
    """In the length of a record, the checksum of that, the data, their checksum."""
    shard = tmp_path / "train-00000-of-00001.tfrecord"
    write_shard(shard, [(bytes(99), 0, "zeros.JPEG")])
    write_index(tmp_path, "train", [shard], ["ant"])
    dataset = RecordDataset(tmp_path, "train")
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="train-00000-of-00001.tfrecord.* damaged"):
        dataset.image(0)
    shard.write_bytes(data[:place])
    with pytest.raises(ValueError, match="at byte 0 is damaged"):
        dataset.image(0)
