"""The official archives of ImageNet 2012: which images they hold, and where."""

import pathlib
import tarfile
from collections.abc import Sequence

from tqdm import tqdm

from elu_zoo.errors import UserError

# Images in a shard of the validation split; a shard of the other one is a class.
VALIDATION_SHARD = 1000

# The images of a shard: `(file name, label, place in the archive)`.
Group = list[tuple[str, int, tarfile.TarInfo]]


def class_ids() -> list[str]:
    """Returns the WordNet IDs of the classes, in the order of their numbers."""
    return _lines("labels.txt")


def opened(archive: pathlib.Path) -> tarfile.TarFile:
    """Opens an archive.

    Args:
        archive: Path of the archive.

    Returns:
        The open archive, a context manager.

    Raises:
        UserError: If it is cut short.
    """
    try:
        return tarfile.open(archive, "r:")
    except tarfile.ReadError as error:
        raise UserError(_cut_short(archive, error)) from error


def groups_of(
    tar: tarfile.TarFile, archive: pathlib.Path, split: str, classes: Sequence[str]
) -> list[Group]:
    """Lists the images of an archive by shard.

    Args:
        tar: Result of `opened`.
        archive: Its path.
        split: `"train"` or `"validation"`.
        classes: Result of `class_ids`.

    Returns:
        The images of each shard.

    Raises:
        UserError: If the archive is cut short, or holds anything else.
    """
    members = _members(tar, archive)
    if split == "train":
        return _by_class(tar, members, classes, archive)
    return _in_parts(members, classes, archive)


def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Reads an image file.

    Args:
        tar: Result of `opened`.
        member: Its place, from `groups_of`.

    Returns:
        The content of the file.
    """
    file = tar.fileobj
    assert file is not None  # Open for reading.
    file.seek(member.offset_data)
    return file.read(member.size)


def size_of(group: Group) -> int:
    """Returns the total size of the files of a shard in bytes."""
    return sum(member.size for _, _, member in group)


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


def _by_class(
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
    for member in tqdm(members, "Scanning", unit=" classes", leave=False):
        try:
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                images = [image for image in inner.getmembers() if image.isfile()]
        except tarfile.ReadError as error:
            raise UserError(_cut_short(f"{member.name} in {archive}", error)) from error
        for image in images:
            image.offset_data += member.offset_data
        groups.append([(i.name, labels[member.name], i) for i in images])
    return groups


def _in_parts(
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


def _lines(name: str) -> list[str]:
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path(f"datasets/imagenet2012/{name}")
    return pathlib.Path(path).read_text().split()


def _cut_short(archive: object, why: object) -> str:
    return f"Expected all of {archive}. Received: {why}. Copy or download it again."
