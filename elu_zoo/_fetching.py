"""Finding, verifying and downloading weights files.

Settings are environment variables:

- `ELU_ZOO_MIRROR`: base URLs (`https:`, `http:`, `file:`) or folders, one per line,
  tried in order before the record's own URLs.
- `ELU_ZOO_OFFLINE`: `1` forbids every connection.
- `ELU_ZOO_MANIFEST`: a manifest that replaces the package's.
- `KERAS_HOME`: the cache is its folder `elu_zoo`; by default `~/.keras/elu_zoo`.
"""

import hashlib
import http.client
import os
import pathlib
import sys
import urllib.parse
import urllib.request

from elu_zoo import _hub
from elu_zoo.architectures import find_architecture
from elu_zoo.errors import UserError
from elu_zoo.files import replacing
from elu_zoo.records import Record
from elu_zoo.weights import (
    did_you_mean,
    find_weights,
    folders,
    get_record,
    list_weights,
    manifest,
    matching_weights,
)

TIMEOUT = 30
"""Seconds without a byte after which a download counts as stalled."""

_CHUNK = 1 << 20
_verified: set[tuple[str, int, int, str]] = set()


def resolve(
    model: str, weights: str | os.PathLike[str] | None
) -> tuple[Record | None, pathlib.Path | None]:
    """Finds what a model function's argument `weights` stands for.

    Args:
        model: Key of the model, such as `"elunet11"`.
        weights: `None`, a tag or name of published weights, an address on the Hub, or
            the path of a file.

    Returns:
        `(record, path)`, each `None` where there is none.

    Raises:
        UserError: If the weights are neither published nor a file.
        OSError: If published weights cannot be found or downloaded.
    """
    if weights is None:
        return None, None
    if not isinstance(weights, str | os.PathLike):
        raise UserError(
            "Expected weights to be None, a tag of published weights or the path of a "
            f"`.weights.h5` file. Received: weights={weights!r}"
        )
    text = os.fspath(weights)
    published = list_weights(model)
    if _hub.is_address(text):
        return _on_hub(text, model)
    if matching_weights(text, model):
        record = get_record(find_weights(text, model))
        return record, fetch(record.name)
    path = pathlib.Path(text).expanduser()
    if path.is_file():
        return None, path
    if path.suffix == ".h5" or len(path.parts) > 1:
        raise UserError(f"Expected an existing file. Received: weights={text!r}")
    if text in list_weights():
        raise UserError(
            f"Expected weights of this model, one of {published}. Received: "
            f"weights={text!r}, which belong to a different model"
        )
    raise UserError(
        f"No weights {text!r} have been published for this model. Published for it: "
        f"{published}; for all models: {list_weights()}. To make your own, write a "
        "recipe like those in training/recipes of a checkout, then run `python -m "
        "training.train RECIPE --data DIR --out RUN` and `python -m training.publish "
        f"RUN --name {model}.{text} --data DIR`. Received: weights={text!r}"
        + did_you_mean(text, published)
    )


def _on_hub(address: str, model: str) -> tuple[Record, pathlib.Path]:
    record = get_record(address)
    found = find_architecture(record.model)
    if not found or found[0] != model:
        raise UserError(
            f"Expected weights of {model}. Received: weights={address!r}, which belong "
            f"to {record.model!r}"
        )
    return record, _hub.fetch(record, _verify)


def fetch(name: str) -> pathlib.Path:
    """Finds the file of published weights and verifies it; downloads it if needed.

    Searches the cache, the installed package or the checkout, the mirrors, and the URLs
    of publication, in this order. Concurrent processes share one download.

    Args:
        name: Name as in `list_weights()`, or an address on the Hub.

    Returns:
        The `pathlib.Path` of a file with the record's SHA-256.

    Raises:
        UserError: If no such weights are published.
        OSError: If no source has the file. The message lists every source tried.
    """
    record = get_record(name)
    if _hub.is_address(name):
        return _hub.fetch(record, _verify)
    cached = cache_folder() / record.file
    places = [cached, *(folder / record.file for folder in folders())]
    sources = _sources(record)
    tried = []
    for place in places + sources:
        try:
            if isinstance(place, pathlib.Path):
                _verify(place, record)
                return place
            return _download_once(place, cached, record)
        except (OSError, ValueError, http.client.HTTPException) as error:
            tried.append(f"{place}: {error}")
    if not sources:
        tried.append("no URL: neither the manifest nor ELU_ZOO_MIRROR has one")
    elsewhere = "" if record.packaged else " It is too large for the installed package."
    raise OSError(
        f"Expected to find the weights {name!r}: file {record.file} of "
        f"{record.bytes} bytes with SHA-256 {record.sha256}.{elsewhere} Run "
        f"`elu-zoo fetch {name}` where a URL or folder that has it can be reached "
        "(ELU_ZOO_MIRROR takes more, one per line), or put the file in one of these "
        "places. Tried:" + "".join(f"\n  {line}" for line in tried)
    )


def _sources(record: Record) -> list[str | pathlib.Path]:
    """Further places of the file: strings are URLs, paths are local."""
    lines = os.environ.get("ELU_ZOO_MIRROR", "").splitlines()
    mirrors = [_join(line.strip(), record.file) for line in lines if line.strip()]
    base_url = manifest().get("base_url")
    published = [_join(base_url, record.file)] if base_url else []
    return mirrors + list(record.urls) + published


def _join(base: str, file: str) -> str | pathlib.Path:
    parts = urllib.parse.urlsplit(base)
    if parts.scheme in ("http", "https"):
        return f"{base.rstrip('/')}/{file}"
    if parts.scheme == "file":
        return pathlib.Path(urllib.request.url2pathname(parts.path)) / file
    return pathlib.Path(base).expanduser() / file


def _download_once(url: str, target: pathlib.Path, record: Record) -> pathlib.Path:
    """Downloads the file unless another process has done so in the meantime."""
    import filelock

    if os.environ.get("ELU_ZOO_OFFLINE", "0") not in ("", "0"):
        raise OSError("not tried, because ELU_ZOO_OFFLINE is set")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            locked = filelock.FileLock(f"{target}.lock").acquire()
        except NotImplementedError:
            # Some network file systems have no locks; a lock file stands in.
            locked = filelock.SoftFileLock(f"{target}.lock").acquire()
    except OSError as error:
        raise OSError(
            f"not tried, because the cache cannot be written to ({error}); set "
            "KERAS_HOME to a different folder"
        ) from error
    with locked:
        try:
            _verify(target, record)
        except OSError:
            _download(url, target, record)
    return target


def _download(url: str, target: pathlib.Path, record: Record) -> None:
    """Replaces `target` with the file at `url` if that is the right one."""
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "elu-zoo"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT) as response,
        replacing(target) as part,
    ):
        length = response.headers.get("Content-Length")
        if length not in (None, str(record.bytes)):
            raise OSError(f"the file there has {length} bytes, not {record.bytes}")
        progress = tqdm(
            total=record.bytes,
            unit="B",
            unit_scale=True,
            desc=url.rsplit("/", 1)[-1],
            file=sys.stderr,
            disable=None,
        )
        with progress, part.open("wb") as file:
            # Without a length, a server could send bytes without end.
            while chunk := response.read(min(_CHUNK, record.bytes - file.tell())):
                progress.update(file.write(chunk))
        _verify(part, record)


def cache_folder() -> pathlib.Path:
    """Returns the folder in which downloaded weights are kept.

    Returns:
        A path; the folder may not exist.
    """
    home = os.environ.get("KERAS_HOME") or pathlib.Path("~/.keras").expanduser()
    return pathlib.Path(home) / "elu_zoo"


def _verify(path: pathlib.Path, record: Record) -> None:
    """Raises an `OSError` unless the file has the record's SHA-256."""
    if not path.is_file():
        raise OSError("not there")
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size, record.sha256)
    if key in _verified:
        return
    if status.st_size != record.bytes:
        raise OSError(f"has {status.st_size} bytes, not {record.bytes}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != record.sha256:
        raise OSError(f"has a different SHA-256, {digest.hexdigest()}")
    _verified.add(key)
