"""Weights on the Hugging Face Hub: `hf://owner/name[@revision]`.

A repository there holds a record, `record.json`, the weights file that it names, and a
card. `python -m training.publish --to-hub` fills one. huggingface_hub downloads and
keeps the files; it reads `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable

from elu_zoo._names import check_class_names
from elu_zoo.errors import UserError
from elu_zoo.records import Record

RECORD = "record.json"
SCHEME = "hf://"

_ADDRESS = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


def is_address(text: object) -> bool:
    """Tells whether a text names weights on the Hub."""
    return isinstance(text, str) and text.startswith(SCHEME)


def find_record(address: str) -> Record:
    """Downloads the record of weights on the Hub.

    Args:
        address: `"hf://owner/name"`, or `"hf://owner/name@revision"` for a branch, a
            tag or a commit.

    Returns:
        A `Record`, whose name is the address with the commit as the revision.

    Raises:
        UserError: If the address or the record is invalid, or huggingface_hub is not
            installed.
        OSError: If the Hub cannot be reached or has no such record.
    """
    repository, revision = split(address)
    path = _download(repository, revision, RECORD)
    try:
        record = Record.from_dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"Expected {RECORD} of {address} to be a record of weights, but it is not: "
            f"{error}"
        ) from error
    if not re.fullmatch(r"\w[\w.-]*\.weights\.h5", record.file):
        raise UserError(
            f"Expected {RECORD} of {address} to name a file in the same folder that "
            f"ends in .weights.h5. Received: {record.file!r}"
        )
    check_class_names(record.class_names)
    # The cache names the folder of a snapshot after its commit.
    commit = path.parent.name
    return dataclasses.replace(record, name=f"{SCHEME}{repository}@{commit}")


def fetch(
    record: Record, verify: Callable[[pathlib.Path, Record], None]
) -> pathlib.Path:
    """Downloads the weights file of a record on the Hub, unless the cache has it.

    Args:
        record: A result of `find_record`.
        verify: Raises an `OSError` unless the file is that of the record.

    Returns:
        Path of the file in the cache.

    Raises:
        OSError: If the file cannot be downloaded, or is not that of the record.
    """
    download = functools.partial(_download, *split(record.name), record.file)
    path = download()
    try:
        verify(path, record)
    except OSError:
        path = download(force_download=True)
        try:
            verify(path, record)
        except OSError as error:
            raise OSError(
                f"Expected {record.file} of {record.name} to be the file of its "
                f"record, but it {error}"
            ) from error
    return path


def split(address: str) -> tuple[str, str | None]:
    """Splits an address into repository and revision."""
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise UserError(
            f"Expected an address hf://owner/name or hf://owner/name@revision. "
            f"Received: {address!r}"
        )
    return match[1], match[2]


def _download(
    repository: str, revision: str | None, file: str, force_download: bool = False
) -> pathlib.Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            "Expected huggingface_hub to be installed: pip install 'elu-zoo[hub]'. "
            f"Received: {SCHEME}{repository}"
        ) from error
    offline = os.environ.get("ELU_ZOO_OFFLINE", "0") not in ("", "0")
    try:
        return pathlib.Path(
            hf_hub_download(
                repository,
                file,
                revision=revision,
                library_name="elu_zoo",
                force_download=force_download and not offline,
                local_files_only=offline,
            )
        )
    # Errors of its own and of its HTTP library share no class.
    except Exception as error:
        at = f"@{revision}" if revision else ""
        raise OSError(
            f"Expected to find {file} at {SCHEME}{repository}{at}, in the cache or on "
            f"the Hub: {str(error).strip()}"
        ) from error
