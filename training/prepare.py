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
import logging
import os
import pathlib
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from elu_zoo.errors import UserError
from training.commands import parse, parser
from training.data import archives
from training.data.archives import Group
from training.data.records import RecordDataset, write_index, write_shard
from training.data.sources import CATALOGUE, IMAGENET
from training.data.stored_images import resized, rgb_jpeg

ARCHIVES, IMAGES = IMAGENET.archives, IMAGENET.examples
# Share of the images that can certainly be decoded.
ENOUGH = 0.99

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
        choices=[0, 256],
        default=256,
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
    """Prepares a data set with TensorFlow Datasets.

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
    classes = archives.class_ids()
    with archives.opened(archive) as tar:
        groups = archives.groups_of(tar, archive, split, classes)
        _check_count(groups, split, archive, allow_missing)
        shards = [
            folder / f"{split}-{i:05}-of-{len(groups):05}.tfrecord"
            for i in range(len(groups))
        ]
        _announce(groups, shards, split, folder, resize)
        _write_shards(tar, groups, shards, split, resize)
    expected = [name for group in groups for name, _, _ in group]
    _finish(folder, split, shards, classes, expected)


def _check_count(
    groups: Sequence[Group], split: str, archive: pathlib.Path, allow_missing: bool
) -> None:
    count = sum(map(len, groups))
    if count != IMAGES[split] and not allow_missing:
        raise UserError(
            f"Expected {IMAGES[split]:,} images in {archive}. Received: {count:,}. Get "
            "the whole archive, or give --allow-missing."
        )


def _announce(
    groups: Sequence[Group],
    shards: Sequence[pathlib.Path],
    split: str,
    folder: pathlib.Path,
    resize: int,
) -> None:
    todo = [g for g, s in zip(groups, shards, strict=True) if not s.exists()]
    size, free = sum(map(archives.size_of, todo)), shutil.disk_usage(folder).free
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
    total = sum(map(archives.size_of, groups))
    converted: list[str] = []
    with (
        tqdm(total=total, desc=split, unit="B", unit_scale=True) as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for group, shard in zip(groups, shards, strict=True):
            if not shard.exists():
                write_shard(shard, _examples(tar, group, pool, converted, resize))
            bar.update(archives.size_of(group))
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
        images = pool.map(
            convert, [archives.read(tar, member) for _, _, member in part]
        )
        for (name, label, _), (image, changed) in zip(part, images, strict=True):
            if changed:
                converted.append(name)
            if image is not None:
                yield image, label, name


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
