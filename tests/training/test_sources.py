"""The catalogue of data sets; Tiny ImageNet's decoded images are kept, not trusted."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import elu_zoo
import elu_zoo.records
from elu_zoo import datasets
from elu_zoo.errors import UserError
from training.data import sources
from training.data.records import RecordDataset


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    images = root / "train/n01/images"
    images.mkdir(parents=True)
    (root / "wnids.txt").write_text("n01\n")
    (root / "words.txt").write_text("n01\tgold fish, carp\n")
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (8, 8, 3), "uint8")
        Image.fromarray(pixels).save(images / f"{name}.JPEG")
    Image.new("L", (8, 8), 90).save(images / "d.JPEG")
    return tmp_path


def load(folder):
    return sources.load("tiny_imagenet", "train", folder)


def test_decoded_once_as_by_pillow(folder, monkeypatch):
    files = sorted(folder.glob("*/train/n01/images/*.JPEG"))
    expected = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
    first = load(folder)
    np.testing.assert_array_equal(first.images, expected)
    assert first.class_names == ("gold_fish",) and first.labels.tolist() == [0] * 4
    monkeypatch.setattr(datasets, "read_images", None)
    np.testing.assert_array_equal(load(folder).images, expected)


@pytest.mark.parametrize("change", ["damage", "new image", "read-only"])
def test_decoded_again_where_the_kept_images_will_not_do(folder, change, monkeypatch):
    before = load(folder).images
    (cache,) = (folder / "tiny-imagenet-200").glob(".decoded*")
    if change == "damage":
        data = bytearray(cache.read_bytes())
        data[-300] ^= 1
        cache.write_bytes(data)
    elif change == "new image":
        image = folder / "tiny-imagenet-200/train/n01/images/e.JPEG"
        Image.new("RGB", (8, 8)).save(image)
    else:
        cache.unlink()
        monkeypatch.setattr(sources.np, "savez", _refused)
    after = load(folder).images
    assert len(after) == 4 + (change == "new image")
    np.testing.assert_array_equal(after[:4], before)
    assert not list(folder.glob("*/.part.*"))


def _refused(*arguments, **options):
    raise PermissionError


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("imagenet", "train", "imagenet2012.*Received: 'imagenet'"),
        ("imagenet2012", "val", "'train' or 'test'. Received: 'val'"),
    ],
)
def test_no_such_data_set_or_split(tmp_path, name, split, message):
    with pytest.raises(UserError, match=message):
        sources.load(name, split, tmp_path)


def test_images_on_disk_are_evaluated_with_the_temperature_of_the_model():
    given = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])

    class OnDisk(RecordDataset):
        def __init__(self):
            self.labels, self.class_names = np.array([0, 1, 1]), ("cat", "dog")

        def predict(self, model):
            return given

    model = elu_zoo.MNISTClassifier(width=0.02, classes=2)
    record = dataclasses.replace(elu_zoo.get_record(model), temperature=2.0)
    elu_zoo.records.attach_record(model, record)
    roots = np.sqrt(given)
    expected = (roots / roots.sum(-1, keepdims=True))[[0, 1, 2], [0, 1, 1]]
    metrics = OnDisk().evaluate(model)
    assert metrics["loss"] == pytest.approx(-np.log(expected).mean())
    assert metrics["error"] == pytest.approx(1 / 3)
