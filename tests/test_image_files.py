"""Images that stay in their files."""

import numpy as np
import pytest
from made_up import write_class_folders
from PIL import Image

import elu_zoo
from elu_zoo.errors import UserError
from elu_zoo.image_files import Batches, ImageFiles, open_image_folder


@pytest.mark.parametrize("cache_bytes", [0, 5 * 32 * 32 * 3, 2**20])
def test_they_are_the_images_that_are_loaded(tmp_path, cache_bytes):
    write_class_folders(tmp_path, count=4)
    (tmp_path / "red/bad.jpg").write_text("no image")
    with pytest.warns(UserWarning, match="bad.jpg"):
        images, labels, names = elu_zoo.load_image_folder(tmp_path)
        files, numbers, file_names = open_image_folder(tmp_path)
    files = ImageFiles(files.paths, 32, cache_bytes=cache_bytes)
    assert names == file_names and files.shape == images.shape
    np.testing.assert_array_equal(labels, numbers)
    for index in (slice(None), [5, 0], 3, slice(1, 7, 2), -1, [-2, 0], labels == 1):
        for _ in "twice":
            np.testing.assert_array_equal(files[index], images[index])
    assert files[[]].shape == (0, 32, 32, 3)
    np.testing.assert_array_equal(files.take(labels == 1)[:], images[labels == 1])
    taken = files.take([6, 1])
    np.testing.assert_array_equal(taken[:], images[[6, 1]])
    assert len(files._cache) == min(8, cache_bytes // (32 * 32 * 3))


def test_they_are_resized_as_for_prediction(tmp_path):
    write_class_folders(tmp_path, count=1)
    how = {"resize": 20, "crop": 16, "interpolation": "bicubic", "mode": "squash"}
    files, _, _ = open_image_folder(tmp_path, 16, preprocessing=how)
    image = Image.open(tmp_path / "red/0.jpg").resize((20, 20), Image.BICUBIC)
    expected = np.asarray(image, float)[2:18, 2:18]
    # Pillow rounds after each of its two passes.
    np.testing.assert_allclose(files.take([1])[0], expected, atol=2)


def test_training_decodes_a_batch_at_a_time(tmp_path, monkeypatch):
    write_class_folders(tmp_path, count=10)
    files, labels, _ = open_image_folder(tmp_path)
    files, sizes = ImageFiles(files.paths, 32, cache_bytes=0), []
    get = ImageFiles.__getitem__

    def spy(self, index):
        images = get(self, index)
        sizes.append(len(images))
        return images

    monkeypatch.setattr(ImageFiles, "__getitem__", spy)
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    history = elu_zoo.finetune(
        model, files, labels, (files, labels), epochs=(1, 0), batch_size=4, verbose=0
    )
    assert np.isfinite(history["val_loss"]).all()
    assert max(sizes) == 4 and sum(sizes) >= 3 * 20


def test_labels_are_those_of_the_class_names(tmp_path):
    write_class_folders(tmp_path, count=1)
    names = ["blue", "red", "green"]
    _, labels, class_names = open_image_folder(tmp_path, class_names=names)
    assert class_names == names and list(labels) == [2, 1]
    with pytest.raises(UserError, match="red"):
        open_image_folder(tmp_path, class_names=["blue", "green"])
    (tmp_path / "red/0.jpg").unlink()
    with pytest.raises(UserError, match="two folders"), pytest.warns(UserWarning):
        open_image_folder(tmp_path)


def test_augmentation_needs_a_seed():
    with pytest.raises(UserError, match="seed=None, augment=True"):
        Batches(np.zeros((2, 8, 8, 3)), np.zeros(2, int), 2, augment=True)
