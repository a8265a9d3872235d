import io
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from made_up import encoded_images
from PIL import Image

from training.data import sources
from training.data.records import RecordDataset
from training.data.stored_images import rgb_jpeg
from training.prepare import prepare_imagenet

ROOT = pathlib.Path(__file__).parents[2]
# The first, the third and the last class.
CLASSES = {"n01440764": 0, "n01484850": 2, "n15075141": 999}
# The truth of the first validation images is public in TensorFlow Datasets.
VALIDATION = ["n01751748", "n09193705", "n02105855"]

# Kills itself before the rename that its argument counts.
KILLED = """
import os, signal, sys
from training import prepare
left, rename = int(sys.argv[1]), os.replace
def replace(*paths):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    rename(*paths)
os.replace = replace
prepare.main(sys.argv[2:])
"""


def encoded(seed, mode="RGB", format="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype="uint8")
    image = Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.convert(mode).save(file, format)
    return file.getvalue()


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def train_images():
    images = {
        wnid: {f"{wnid}_{i}.JPEG": encoded(10 * n + i) for i in range(5)}
        for n, wnid in enumerate(CLASSES)
    }
    images["n01484850"] |= {
        "n01484850_90.JPEG": encoded(90, "CMYK"),
        "n01484850_91.JPEG": encoded(91, format="PNG"),
        "n01484850_92.JPEG": encoded(92)[:-100],
        "n01484850_93.JPEG": b"",
    }
    return images


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as tar:
        for wnid, images in train_images().items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as class_tar:
                for name, data in images.items():
                    add(class_tar, name, data)
            add(tar, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in (3, 1, 2):
            add(tar, f"ILSVRC2012_val_{number:08}.JPEG", encoded(number))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, manual_dir):
    folder = tmp_path_factory.mktemp("prepared")
    for split in ("train", "validation"):
        prepare_imagenet(manual_dir, folder, split, allow_missing=True, resize=0)
    return folder


def test_train_shards_hold_the_files_as_they_are(prepared):
    dataset = RecordDataset(prepared / "imagenet", "train")
    assert len(dataset.class_names) == 1000
    files = {}
    for number, label in enumerate(dataset.labels):
        name = dataset.file_name(number)
        files[name] = dataset.image(number)
        assert label == CLASSES[name.split("_")[0]]
        assert dataset.class_names[label] == name.split("_")[0]
    assert len(files) == 17
    for images in train_images().values():
        for name, data in images.items():
            if not name.startswith("n01484850_9"):
                assert files[name] == data
    for name, mode, format in (
        ("n01484850_90.JPEG", "CMYK", "JPEG"),
        ("n01484850_91.JPEG", "RGB", "PNG"),
    ):
        image = Image.open(io.BytesIO(files[name]))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        before = Image.open(io.BytesIO(train_images()["n01484850"][name]))
        assert (before.format, before.mode) == (format, mode)
        difference = np.asarray(image, float) - np.asarray(before.convert("RGB"))
        assert np.abs(difference).mean() < 2


def test_validation_labels_are_those_of_the_numbers(prepared):
    dataset = RecordDataset(prepared / "imagenet", "validation")
    names = [dataset.file_name(i) for i in range(3)]
    assert names == [f"ILSVRC2012_val_{i:08}.JPEG" for i in (1, 2, 3)]
    assert [dataset.class_names[i] for i in dataset.labels] == VALIDATION


def test_what_was_done_is_said(manual_dir, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    prepare_imagenet(manual_dir, tmp_path, "train", allow_missing=True, resize=0)
    output = caplog.text
    size = sum(len(x) for images in train_images().values() for x in images.values())
    assert f"19 images, {size:,} bytes to write" in output
    assert "2 images were CMYK, not JPEG or not upright" in output
    assert "left out: n01484850_92.JPEG, n01484850_93.JPEG" in output
    assert "17 images in" in capsys.readouterr().out
    prepare_imagenet(manual_dir, tmp_path, "train", allow_missing=True, resize=0)
    assert "17 images are in" in capsys.readouterr().out


def test_a_shard_that_was_removed_is_made_again(manual_dir, prepared, tmp_path):
    folder = tmp_path / "imagenet"
    shutil.copytree(prepared / "imagenet", folder)
    shard = min(folder.glob("train-*"))
    shard.unlink()
    prepare_imagenet(manual_dir, tmp_path, "train", allow_missing=True, resize=0)
    assert shard.read_bytes() == (prepared / "imagenet" / shard.name).read_bytes()


def test_a_try_with_part_of_the_images_is_not_all_of_them(manual_dir, prepared):
    with pytest.raises(ValueError, match="Received: 17, from only a part"):
        prepare_imagenet(manual_dir, prepared, "train", resize=0)


def test_killed_and_started_again_it_gives_the_same_bytes(
    manual_dir, prepared, tmp_path
):
    arguments = ["imagenet", "--manual-dir", str(manual_dir), "--data-dir"]
    arguments += [str(tmp_path), "--allow-missing", "--resize", "0"]
    made = set()
    for renames in (1, 2):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(renames), *arguments],
            cwd=ROOT,
            capture_output=True,
        )
        assert killed.returncode == -9
        shards = {p: p.stat() for p in (tmp_path / "imagenet").glob("train-*")}
        assert len(shards) == len(made) + renames
        assert not list((tmp_path / "imagenet").glob("train.*"))
        assert list((tmp_path / "imagenet").glob(".part.*"))
        made = {(path, stat.st_ino) for path, stat in shards.items()}
    for split in ("train", "validation"):
        prepare_imagenet(manual_dir, tmp_path, split, allow_missing=True, resize=0)
    whole = {p.name: p.read_bytes() for p in (prepared / "imagenet").iterdir()}
    again = {p.name: p.read_bytes() for p in (tmp_path / "imagenet").iterdir()}
    assert again == whole
    assert all(path.stat().st_ino == inode for path, inode in made)


def test_archives_that_are_not_what_they_should_be(manual_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="image-net.org"):
        prepare_imagenet(tmp_path, tmp_path, "train")
    with pytest.raises(ValueError, match="Received: 3. Get the whole archive"):
        prepare_imagenet(manual_dir, tmp_path, "validation")
    archive = tmp_path / "ILSVRC2012_img_train.tar"
    whole = (manual_dir / archive.name).read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="Copy or download it again"):
        prepare_imagenet(tmp_path, tmp_path, "train", allow_missing=True)
    archive.write_bytes((manual_dir / "ILSVRC2012_img_val.tar").read_bytes())
    with pytest.raises(ValueError, match="n01440764.tar and the like"):
        prepare_imagenet(tmp_path, tmp_path, "train", allow_missing=True)
    for content in (b"", b"<html>log in</html>" * 99):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="Copy or download it again"):
            prepare_imagenet(tmp_path, tmp_path, "train", allow_missing=True)
    assert not list(tmp_path.glob("*/*.tfrecord"))
    with pytest.raises(ValueError, match="side in pixels, or 0. Received: -1"):
        prepare_imagenet(manual_dir, tmp_path, "train", resize=-1)


def test_what_another_process_is_writing_is_left_alone(manual_dir, tmp_path):
    (tmp_path / "imagenet").mkdir()
    own = tmp_path / "imagenet/.part.x.validation-00000-of-00001.tfrecord"
    other = tmp_path / "imagenet/.part.x.train-00000-of-00002.tfrecord"
    for file in (own, other):
        file.write_bytes(b"begun")
    prepare_imagenet(manual_dir, tmp_path, "validation", True, resize=0)
    assert not own.exists() and other.exists()


def test_a_full_disk_is_said_before_the_start(manual_dir, tmp_path, monkeypatch):
    from training import prepare

    usage = prepare.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="Received: 10"):
        prepare_imagenet(manual_dir, tmp_path, "train", allow_missing=True, resize=0)


def test_a_recipe_names_the_originals_or_those_of_256_pixels(manual_dir, tmp_path):
    for name, arguments, size in (
        ("imagenet2012", {"resize": 0}, (40, 30)),
        ("imagenet2012_256", {}, (256, 256)),
    ):
        prepare_imagenet(manual_dir, tmp_path, "validation", True, **arguments)
        dataset = sources.load(name, "test", tmp_path)
        file = dataset.image(0)
        assert Image.open(io.BytesIO(file)).size == size


def test_images_can_be_stored_resized(manual_dir, tmp_path):
    prepare_imagenet(manual_dir, tmp_path, "validation", True, resize=24)
    dataset = RecordDataset(tmp_path / "imagenet-24", "validation")
    for number in (1, 2, 3):
        got = Image.open(io.BytesIO(dataset.image(number - 1)))
        before = Image.open(io.BytesIO(encoded(number)))
        expected = before.resize((24, 24), Image.Resampling.BILINEAR)
        assert (got.format, got.mode, got.size) == ("JPEG", "RGB", (24, 24))
        assert np.abs(np.asarray(got, float) - np.asarray(expected)).mean() < 8


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_are_stored_upright(orientation):
    content, upright = encoded_images()[f"lossy rotated {orientation}.jpeg"]
    stored = Image.open(io.BytesIO(rgb_jpeg(content)))
    assert not stored.getexif() and stored.size == (60, 40)
    # JPEG files in different orientations differ by their losses.
    assert np.abs(np.asarray(stored, float) - upright).mean() < 5


def test_image_files_are_read_to_their_end():
    for mode in ("RGB", "L"):
        data = encoded(1, mode)
        assert rgb_jpeg(data) is data
    whole, png = encoded(1), encoded(1, format="PNG")
    cut_inside = whole[: len(whole) - 60] + whole[-2:]
    for broken in (b"", b"text", whole[:-20], cut_inside, png[:-60]):
        with pytest.raises(ValueError, match="whole image"):
            rgb_jpeg(broken)
