"""Prepares a data set on disk once, before training.

    python -m training.prepare imagenet --manual-dir D --data-dir T

D holds the official ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.
T/imagenet-256 receives TFRecord shards of the images resized to 256×256 pixels, as in
the paper, and an index: smaller than the originals, and twice as fast to read. With
`--resize 0`, T/imagenet receives the same JPEG files. Stop it as you like and give the
same command again: it goes on, and the files are the same.

`cifar10`, `cifar100` and `mnist` are prepared by TensorFlow Datasets, which takes the
official archives from D or downloads them.
"""

import concurrent.futures
import contextlib
import io
import os
import pathlib
import shutil
import sys
import tarfile

from tqdm import tqdm

from elu_zoo.errors import UserError
from training.commands import parse, parser
from training.data.decoding import RATIOS, decode_jpeg, sides_of
from training.data.records import RecordDataset, write_index, write_shard
from training.data.sources import CATALOGUE, IMAGENET

ARCHIVES, IMAGES = IMAGENET.archives, IMAGENET.examples
# Share of them that can be decoded for certain.
ENOUGH = 0.99
VALIDATION_SHARD = 1000


def main(argv=None):
    """Runs the command."""
    options = parser("training.prepare", __doc__)
    options.add_argument(
        "dataset",
        choices=["imagenet", *(name for name, x in CATALOGUE.items() if x.tfds)],
    )
    options.add_argument("--manual-dir", required=True, help="folder of the archives")
    options.add_argument("--data-dir", required=True, help="folder to prepare them in")
    options.add_argument(
        "--splits",
        nargs="+",
        choices=list(IMAGENET.archives),
        default=list(IMAGENET.archives),
    )
    options.add_argument(
        "--allow-missing",
        action="store_true",
        help="accept archives that lack classes or images",
    )
    options.add_argument(
        "--resize",
        type=int,
        default=256,
        metavar="SIDE",
        help="of the square images to store; 0: the files as they are (default: 256)",
    )
    arguments = parse(options, argv)
    try:
        if arguments.dataset != "imagenet":
            return prepare_tfds(
                arguments.dataset, arguments.manual_dir, arguments.data_dir
            )
        for split in arguments.splits:
            prepare_imagenet(
                arguments.manual_dir,
                arguments.data_dir,
                split,
                arguments.allow_missing,
                arguments.resize,
            )
    except (OSError, UserError) as error:
        sys.exit(f"training.prepare: {error}")


def prepare_tfds(name, manual_dir, data_dir):
    """Has TensorFlow Datasets prepare a data set.

    Args:
        name: Its name there.
        manual_dir: Folder with the official archives, if there are any.
        data_dir: Folder to prepare it in.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir, try_download_gcs=False
        )
    )
    print(f"{name}: {builder.data_path}")


def prepare_imagenet(manual_dir, data_dir, split, allow_missing=False, resize=256):
    """Makes the shards and the index of a split of ImageNet 2012.

    Args:
        manual_dir: Folder with the official archives.
        data_dir: Folder that receives `imagenet-256/`, or `imagenet/` for the files as
            they are.
        split: `"train"` or `"validation"`.
        allow_missing: Whether an archive may lack classes or images.
        resize: Side in pixels of the square images to store; 0 for the files as they
            are.

    Raises:
        FileNotFoundError: If the archive is not there.
        UserError: If it is not the official archive, or not all of it, or `resize` is
            negative.
        OSError: If there is too little space.
    """
    if resize < 0:
        raise UserError(
            f"Expected resize to be a side in pixels, or 0. Received: {resize}"
        )
    archive = pathlib.Path(manual_dir) / ARCHIVES[split]
    folder = pathlib.Path(data_dir) / (f"imagenet-{resize}" if resize else "imagenet")
    # Without the index, or a shard of it, there is work to do.
    with contextlib.suppress(FileNotFoundError):
        count = len(RecordDataset(folder, split))
        if count < ENOUGH * IMAGES[split] and not allow_missing:
            raise UserError(
                f"Expected nearly all of {IMAGES[split]:,} images in {folder}. "
                f"Received: {count:,}, of only a part of {archive.name}. Remove "
                f"{folder}/{split}*, or give --allow-missing."
            )
        return print(f"{split}: {count:,} images are in {folder} already")
    if not archive.is_file():
        raise FileNotFoundError(
            f"Expected the archive {archive}. It is not there; get it from "
            "https://image-net.org/download-images"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Those of the other split may be another process's.
    for half_written in folder.glob(f".part.*.{split}[-.]*"):
        half_written.unlink()
    classes = _lines("labels.txt")
    with _opened(archive) as tar:
        members = _members(tar, archive)
        if split == "train":
            groups = _classes(tar, members, classes, archive)
        else:
            groups = _parts(members, classes, archive)
        _check_count(groups, split, archive, allow_missing)
        shards = [
            folder / f"{split}-{i:05}-of-{len(groups):05}.tfrecord"
            for i in range(len(groups))
        ]
        _announce(groups, shards, split, folder, resize)
        _write_shards(tar, groups, shards, split, resize)
    expected = [name for group in groups for name, _, _ in group]
    _finish(folder, split, shards, classes, expected)


def rgb_jpeg(data):
    """An image file as JPEG of grey or RGB, as training reads it.

    Args:
        data: Bytes of the file.

    Returns:
        Its own bytes, or those of a conversion if it is in CMYK, in another format, or
        a kind of JPEG that training does not read.

    Raises:
        UserError: If it cannot be decoded to its end.
    """
    from PIL import Image

    try:
        if any(sides_of(data)):
            # Reads the whole file, but computes few pixels of it.
            decode_jpeg(data, RATIOS[-1])
            return data
        converted = io.BytesIO()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.save(converted, "JPEG", quality=100, subsampling=0)
        return converted.getvalue()
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"Expected a whole image. {error}") from error


def resized(data, side):
    """An image file resized to a square.

    As `elu_zoo.images.resize` with `mode="squash"`, but rounded, and stored as a JPEG
    file. Orientation in EXIF data is left out, as where ImageNet's files are read.

    Args:
        data: Bytes of the file.
        side: Side in pixels.

    Returns:
        Bytes of a JPEG file.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = image.resize((side, side), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def _lines(name):
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path(f"datasets/imagenet2012/{name}")
    return pathlib.Path(path).read_text().split()


def _opened(archive):
    try:
        return tarfile.open(archive, "r:")
    except tarfile.ReadError as error:
        raise UserError(_cut_short(archive, error)) from error


def _members(tar, archive):
    """Members in the order of their names; fails if the file ends before they do."""
    try:
        members = [member for member in tar.getmembers() if member.isfile()]
    except tarfile.ReadError as error:
        raise UserError(_cut_short(archive, error)) from error
    end = max((m.offset_data + m.size for m in members), default=0)
    size = archive.stat().st_size
    if size < end:
        raise UserError(_cut_short(archive, f"{size:,} of at least {end:,} bytes"))
    return sorted(members, key=lambda member: member.name)


def _cut_short(archive, why):
    return f"Expected all of {archive}. Received: {why}. Copy or download it again."


def _classes(tar, members, classes, archive):
    """Images of each class's archive in the archive: `(name, label, member)`."""
    labels = {f"{wnid}.tar": label for label, wnid in enumerate(classes)}
    strangers = [m.name for m in members if m.name not in labels]
    if strangers or not members:
        raise UserError(
            f"Expected {archive} to hold n01440764.tar and the like. Received: "
            f"{strangers[:3]}"
        )
    groups = []
    for member in tqdm(members, "Looking through", unit=" classes", leave=False):
        try:
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                images = [image for image in inner.getmembers() if image.isfile()]
        except tarfile.ReadError as error:
            raise UserError(_cut_short(f"{member.name} in {archive}", error)) from error
        for image in images:
            image.offset_data += member.offset_data
        groups.append([(i.name, labels[member.name], i) for i in images])
    return groups


def _parts(members, classes, archive):
    """Validation images in groups of equal size: `(name, label, member)`."""
    truth = _lines("validation_labels.txt")
    labels = {
        f"ILSVRC2012_val_{number:08}.JPEG": classes.index(wnid)
        for number, wnid in enumerate(truth, 1)
    }
    images = [(pathlib.PurePosixPath(m.name).name, m) for m in members]
    strangers = [name for name, _ in images if name not in labels]
    if strangers or not images:
        raise UserError(
            f"Expected {archive} to hold ILSVRC2012_val_00000001.JPEG and the like. "
            f"Received: {strangers[:3]}"
        )
    rows = [(name, labels[name], member) for name, member in images]
    starts = range(0, len(rows), VALIDATION_SHARD)
    return [rows[start : start + VALIDATION_SHARD] for start in starts]


def _check_count(groups, split, archive, allow_missing):
    count = sum(map(len, groups))
    if count != IMAGES[split] and not allow_missing:
        raise UserError(
            f"Expected {IMAGES[split]:,} images in {archive}. Received: {count:,}. Get "
            "the whole archive, or give --allow-missing."
        )


def _bytes(group):
    return sum(member.size for _, _, member in group)


def _announce(groups, shards, split, folder, resize):
    todo = [g for g, s in zip(groups, shards, strict=True) if not s.exists()]
    size, free = sum(map(_bytes, todo)), shutil.disk_usage(folder).free
    # Resized images are smaller, by how much shows only when they are made.
    about = "at most " if resize else ""
    print(
        f"{split}: {sum(map(len, todo)):,} images, {about}{size:,} bytes to write to "
        f"{folder} "
        f"in {len(todo)} of {len(shards)} shards"
    )
    if free < size and not resize:
        raise OSError(
            f"Expected {size:,} free bytes for the shards in {folder}. Received: "
            f"{free:,}. Free some, or choose another --data-dir."
        )


def _write_shards(tar, groups, shards, split, resize):
    total, converted = sum(map(_bytes, groups)), []
    with (
        tqdm(total=total, desc=split, unit="B", unit_scale=True) as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for group, shard in zip(groups, shards, strict=True):
            if not shard.exists():
                write_shard(shard, _examples(tar, group, pool, converted, resize))
            bar.update(_bytes(group))
    if converted:
        print(
            f"{split}: {len(converted)} images were CMYK or no JPEG files and are now "
            f"RGB: {', '.join(sorted(converted))}"
        )


def _examples(tar, group, pool, converted, side):
    """Records of the images that can be decoded, made by several threads in order."""

    def convert(data):
        try:
            image = rgb_jpeg(data)
        except ValueError:
            return None, False
        return resized(image, side) if side else image, image is not data

    for start in range(0, len(group), 64):
        part = group[start : start + 64]
        images = pool.map(convert, [_read(tar, member) for _, _, member in part])
        for (name, label, _), (image, changed) in zip(part, images, strict=True):
            if changed:
                converted.append(name)
            if image is not None:
                yield image, label, name


def _read(tar, member):
    tar.fileobj.seek(member.offset_data)
    return tar.fileobj.read(member.size)


def _finish(folder, split, shards, classes, expected):
    size = sum(shard.stat().st_size for shard in shards)
    with tqdm(total=size, desc=f"{split} index", unit="B", unit_scale=True) as bar:
        written = write_index(folder, split, shards, classes, bar.update)
    left_out = sorted(set(expected) - set(written))
    print(f"{split}: {len(written):,} images in {len(shards)} shards in {folder}")
    if left_out:
        print(
            f"{split}: {len(left_out)} images cannot be decoded and were left out: "
            + ", ".join(left_out)
        )


if __name__ == "__main__":
    main()
