"""Prepares a data set on disk once, before training.

    python -m training.prepare imagenet --manual-dir D --data-dir T

D holds the official ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.
T/imagenet-256 receives TFRecord shards of the images, resized to 256×256 pixels as in
the paper, and an index. They are smaller than the originals and twice as fast to read.
With `--resize 0`, T/imagenet receives the original JPEG files. The command can be
stopped at any time; given again, it resumes and writes the same files.

`cifar10`, `cifar100` and `mnist` are prepared by TensorFlow Datasets, which takes the
official archives from D or downloads them.
"""

import concurrent.futures
import contextlib
import io
import logging
import os
import pathlib
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from elu_zoo.errors import UserError
from elu_zoo.images import is_upright, read_image
from training.commands import parse, parser
from training.data.decoding import RATIOS, decode_jpeg, sides_of
from training.data.records import RecordDataset, write_index, write_shard
from training.data.sources import CATALOGUE, IMAGENET

ARCHIVES, IMAGES = IMAGENET.archives, IMAGENET.examples
# Share of the images that can certainly be decoded.
ENOUGH = 0.99
VALIDATION_SHARD = 1000

# The images of a shard: `(file name, label, place in the archive)`.
Group = list[tuple[str, int, tarfile.TarInfo]]

# Not __name__, which is "__main__" when this runs as a command.
logger = logging.getLogger("training.prepare")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
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
        choices=list(ARCHIVES),
        default=list(ARCHIVES),
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
        help="side of the stored square images; 0 keeps the files (default: 256)",
    )
    arguments = parse(options, argv)
    try:
        folders = arguments.manual_dir, arguments.data_dir
        if arguments.dataset != "imagenet":
            prepare_tfds(arguments.dataset, *folders)
            return
        for split in arguments.splits:
            prepare_imagenet(*folders, split, arguments.allow_missing, arguments.resize)
    except (OSError, UserError) as error:
        sys.exit(f"training.prepare: {error}")


def prepare_tfds(
    name: str, manual_dir: str | pathlib.Path, data_dir: str | pathlib.Path
) -> None:
    """Prepares a data set by TensorFlow Datasets.

    Args:
        name: Name of the data set there.
        manual_dir: Folder of the official archives, if there are any.
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


def prepare_imagenet(
    manual_dir: str | pathlib.Path,
    data_dir: str | pathlib.Path,
    split: str,
    allow_missing: bool = False,
    resize: int = 256,
) -> None:
    """Makes the shards and the index of a split of ImageNet 2012.

    Args:
        manual_dir: Folder of the official archives.
        data_dir: Folder that receives `imagenet-256/`, or `imagenet/` for the original
            files.
        split: `"train"` or `"validation"`.
        allow_missing: Whether an archive may lack classes or images.
        resize: Side in pixels of the square images to store; 0 for the original files.

    Raises:
        FileNotFoundError: If the archive is missing.
        UserError: If it is not the whole official archive, or `resize` is negative.
        OSError: If there is not enough space.
    """
    if resize < 0:
        raise UserError(
            f"Expected resize to be a side in pixels, or 0. Received: {resize}"
        )
    archive = pathlib.Path(manual_dir) / ARCHIVES[split]
    folder = pathlib.Path(data_dir) / (f"imagenet-{resize}" if resize else "imagenet")
    # If the index or a shard is missing, there is work to do.
    with contextlib.suppress(FileNotFoundError):
        count = len(RecordDataset(folder, split))
        if count < ENOUGH * IMAGES[split] and not allow_missing:
            raise UserError(
                f"Expected nearly all of {IMAGES[split]:,} images in {folder}. "
                f"Received: {count:,}, from only a part of {archive.name}. Remove "
                f"{folder}/{split}*, or give --allow-missing."
            )
        print(f"{split}: {count:,} images are in {folder} already")
        return
    if not archive.is_file():
        raise FileNotFoundError(
            f"Expected the archive {archive}, which is missing. Get it from "
            "https://image-net.org/download-images"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Half-written files of the other split may belong to a running process.
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


def rgb_jpeg(data: bytes) -> bytes:
    """Converts an image file to a grayscale or RGB JPEG, which training can read.

    Args:
        data: Content of the file.

    Returns:
        The same bytes; a converted file if it is CMYK, not a JPEG, a kind of JPEG that
        training cannot read, or not upright by its EXIF data, which training ignores.

    Raises:
        UserError: If the file cannot be decoded to its end.
    """
    try:
        if any(sides_of(data)) and is_upright(data):
            # This reads the whole file but computes few pixels.
            decode_jpeg(data, RATIOS[-1])
            return data
        converted = io.BytesIO()
        read_image(data).save(converted, "JPEG", quality=100, subsampling=0)
        return converted.getvalue()
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"Expected a whole image. {error}") from error


def resized(data: bytes, side: int) -> bytes:
    """Resizes an image file to a square.

    It does the same as `elu_zoo.images.resize` with `mode="squash"`, but rounds the
    values and stores a JPEG file.

    Args:
        data: Content of the file.
        side: Side of the square in pixels.

    Returns:
        Content of a JPEG file.
    """
    from PIL import Image

    image = read_image(data).resize((side, side), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def _lines(name: str) -> list[str]:
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path(f"datasets/imagenet2012/{name}")
    return pathlib.Path(path).read_text().split()


def _opened(archive: pathlib.Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:")
    except tarfile.ReadError as error:
        raise UserError(_cut_short(archive, error)) from error


def _members(tar: tarfile.TarFile, archive: pathlib.Path) -> list[tarfile.TarInfo]:
    """The archive's files, sorted by name; fails if the archive is cut short."""
    try:
        members = [member for member in tar.getmembers() if member.isfile()]
    except tarfile.ReadError as error:
        raise UserError(_cut_short(archive, error)) from error
    end = max((m.offset_data + m.size for m in members), default=0)
    size = archive.stat().st_size
    if size < end:
        raise UserError(_cut_short(archive, f"{size:,} of at least {end:,} bytes"))
    return sorted(members, key=lambda member: member.name)


def _cut_short(archive: object, why: object) -> str:
    return f"Expected all of {archive}. Received: {why}. Copy or download it again."


def _classes(
    tar: tarfile.TarFile,
    members: Sequence[tarfile.TarInfo],
    classes: Sequence[str],
    archive: pathlib.Path,
) -> list[Group]:
    """The images of each class; the archive holds an archive for each class."""
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


def _parts(
    members: Sequence[tarfile.TarInfo], classes: Sequence[str], archive: pathlib.Path
) -> list[Group]:
    """The validation images in groups of equal size."""
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


def _check_count(
    groups: Sequence[Group], split: str, archive: pathlib.Path, allow_missing: bool
) -> None:
    count = sum(map(len, groups))
    if count != IMAGES[split] and not allow_missing:
        raise UserError(
            f"Expected {IMAGES[split]:,} images in {archive}. Received: {count:,}. Get "
            "the whole archive, or give --allow-missing."
        )


def _bytes(group: Group) -> int:
    return sum(member.size for _, _, member in group)


def _announce(
    groups: Sequence[Group],
    shards: Sequence[pathlib.Path],
    split: str,
    folder: pathlib.Path,
    resize: int,
) -> None:
    todo = [g for g, s in zip(groups, shards, strict=True) if not s.exists()]
    size, free = sum(map(_bytes, todo)), shutil.disk_usage(folder).free
    # Resized images are smaller, but by how much is not known before.
    about = "at most " if resize else ""
    logger.info(
        "%s: %s images, %s%s bytes to write to %s in %d of %d shards",
        split,
        f"{sum(map(len, todo)):,}",
        about,
        f"{size:,}",
        folder,
        len(todo),
        len(shards),
    )
    if free < size and not resize:
        raise OSError(
            f"Expected {size:,} free bytes for the shards in {folder}. Received: "
            f"{free:,}. Free some, or choose a different --data-dir."
        )


def _write_shards(
    tar: tarfile.TarFile,
    groups: Sequence[Group],
    shards: Sequence[pathlib.Path],
    split: str,
    resize: int,
) -> None:
    total = sum(map(_bytes, groups))
    converted: list[str] = []
    with (
        tqdm(total=total, desc=split, unit="B", unit_scale=True) as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for group, shard in zip(groups, shards, strict=True):
            if not shard.exists():
                write_shard(shard, _examples(tar, group, pool, converted, resize))
            bar.update(_bytes(group))
    if converted:
        logger.info(
            "%s: %d images were CMYK, not JPEG or not upright and were converted: %s",
            split,
            len(converted),
            ", ".join(sorted(converted)),
        )


def _examples(
    tar: tarfile.TarFile,
    group: Group,
    pool: concurrent.futures.Executor,
    converted: list[str],
    side: int,
) -> Iterator[tuple[bytes, int, str]]:
    """Records of the images that can be decoded, in order, made by several threads."""

    def convert(data: bytes) -> tuple[bytes | None, bool]:
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


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.fileobj
    assert file is not None  # Open for reading.
    file.seek(member.offset_data)
    return file.read(member.size)


def _finish(
    folder: pathlib.Path,
    split: str,
    shards: Sequence[pathlib.Path],
    classes: Sequence[str],
    expected: Sequence[str],
) -> None:
    size = sum(shard.stat().st_size for shard in shards)
    with tqdm(total=size, desc=f"{split} index", unit="B", unit_scale=True) as bar:
        written = write_index(folder, split, shards, classes, bar.update)
    left_out = sorted(set(expected) - set(written))
    print(f"{split}: {len(written):,} images in {len(shards)} shards in {folder}")
    if left_out:
        logger.warning(
            "%s: %d images cannot be decoded and were left out: %s",
            split,
            len(left_out),
            ", ".join(left_out),
        )


if __name__ == "__main__":
    main()
