import os
import tracemalloc
import warnings

import pytest
from made_up import write_class_folders

from elu_zoo.errors import UserError
from elu_zoo.image_folders import find_images, load_image_folder


def test_load_image_folder(tmp_path):
    write_class_folders(tmp_path, count=3)
    (tmp_path / "green/bad.jpg").write_bytes(b"no image")
    (tmp_path / "green/notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    for junk in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "green/@eaDir"):
        write_class_folders(tmp_path / junk, classes=("red",), count=1)
        (tmp_path / junk / "red/0.jpg").rename(tmp_path / junk / "0.jpg")
    for junk in ("Thumbs.db", "._0.jpg", "desktop.ini"):
        (tmp_path / "green" / junk).write_bytes(b"")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images, labels, names = load_image_folder(tmp_path, size=32)
    messages = [str(warning.message) for warning in caught]
    for message, path in zip(messages, ("notes.txt", "bad.jpg", "empty"), strict=True):
        assert ": 1 left out. " in message and message.endswith(path)
    assert names == ["green", "red"]
    assert images.shape == (6, 32, 32, 3) and images.dtype == "uint8"
    assert list(labels) == [0, 0, 0, 1, 1, 1]
    assert (images[:3, ..., 1].mean((1, 2)) > 150).all()
    assert (images[3:, ..., 0].mean((1, 2)) > 100).all()
    found = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)]
    assert found == sorted(
        ["green/bad.jpg"] + [f"{name}/{i}.jpg" for name in names for i in range(3)]
    )


@pytest.mark.parametrize("classes", [["x", "red", "green", "y"], ["green", "red"]])
def test_labels_count_in_the_classes_of_the_model(tmp_path, classes):
    write_class_folders(tmp_path, count=2)
    _, labels, names = load_image_folder(tmp_path, 8, class_names=classes)
    assert names == classes
    assert [classes[label] for label in labels] == ["green"] * 2 + ["red"] * 2
    with pytest.raises(UserError, match="2 classes red, blue. Received: green in"):
        load_image_folder(tmp_path, 8, class_names=["red", "blue"])


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_image_folder(tmp_path / "nowhere")
    write_class_folders(tmp_path, classes=("red",))
    with pytest.raises(UserError, match=r"\['red'\]"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"tab\t"])
def test_names_of_classes_are_one_line_of_text(tmp_path, name):
    write_class_folders(tmp_path, count=1)
    os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(UserError, match="one line of UTF-8 text") as caught:
        load_image_folder(tmp_path)
    assert str(caught.value).encode().isascii() and "\n" not in str(caught.value)


def test_names_of_classes_in_any_script(tmp_path):
    names = ["Käse", "می\u200cخواهم", "猫"]
    write_class_folders(tmp_path, names, count=1)
    assert load_image_folder(tmp_path)[2] == sorted(names)


def test_a_folder_needs_little_more_memory_than_its_images(tmp_path):
    write_class_folders(tmp_path, count=30, size=200)
    load_image_folder(tmp_path, 8)
    tracemalloc.start()
    images, _, _ = load_image_folder(tmp_path, 180)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * images.nbytes + 3e6
