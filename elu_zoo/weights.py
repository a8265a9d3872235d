"""Pretrained weights: the manifest, finding and verifying files, reading and writing.

Settings are environment variables:

- `ELU_ZOO_MIRROR`: base URLs or folders, separated by spaces or commas, tried in order
  before the record's own URLs.
- `ELU_ZOO_OFFLINE`: with `1` no connection is ever opened.
- `ELU_ZOO_MANIFEST`: a manifest to use in place of the package's.
- `KERAS_HOME`: the cache is its folder `elu_zoo`.
"""

import difflib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import sys
import urllib.error
import urllib.request

import numpy as np

from elu_zoo.files import replacing

TIMEOUT = 30
"""Seconds without a byte after which a download counts as stalled."""

_CHUNK = 1 << 20
_PACKAGE = pathlib.Path(__file__).parent
_verified = set()


def list_weights(model=None):
    """Names of the published weights.

    Args:
        model: Optional name of a model, such as `"ELUNet11"`.

    Returns:
        A sorted list of names `"<model>.<tag>"`; the model functions take the tag or
        the name as `weights`.

    Example:

    >>> "elunet11.imagenet" in list_weights("ELUNet11")
    False
    """
    names = sorted(_manifest()["weights"])
    if model is None:
        return names
    return [name for name in names if name.split(".")[0] == str(model).lower()]


def get_record(name):
    """The manifest's record of published weights.

    Args:
        name: Name as in `list_weights()`.

    Returns:
        A dict: file, SHA-256, size, arguments of the model, preprocessing, class names,
        data and terms, recipe, measured metrics.

    Raises:
        ValueError: If no such weights are published.
    """
    weights = _manifest()["weights"]
    if name not in weights:
        near = difflib.get_close_matches(str(name), weights, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected the name of published weights, one of {sorted(weights)}. "
            f"Received: {name!r}.{hint}"
        )
    return {"name": name} | weights[name]


def resolve(model, weights):
    """What a model function's argument `weights` stands for.

    Args:
        model: Key of the model, such as `"elunet11"`.
        weights: `None`, a tag or name of published weights, or the path of a file.

    Returns:
        `(record, path)`, each `None` where there is none.

    Raises:
        ValueError: If the weights are neither published nor a file.
        OSError: If published weights cannot be had.
    """
    if weights is None:
        return None, None
    text = os.fspath(weights)
    name = text if text.startswith(f"{model}.") else f"{model}.{text}"
    if name in _manifest()["weights"]:
        return get_record(name), fetch(name)
    path = pathlib.Path(text).expanduser()
    if path.is_file():
        return None, path
    if path.suffix or len(path.parts) > 1:
        raise ValueError(
            "Expected weights to be None, a tag of published weights or the path of a "
            f"`.weights.h5` file. There is no such file. Received: weights={text!r}; "
            f"published for this model: {list_weights(model)}"
        )
    raise ValueError(
        f"No weights {name!r} are published yet. Published for this model: "
        f"{list_weights(model)}; in all: {list_weights()}. To make them, in a checkout: "
        f"`python -m training.train training/recipes/{model}_{text}.py --data DIR --out "
        f"RUN`, then `python -m training.publish RUN --name {name} --data DIR`. "
        f"Received: weights={text!r}"
    )


def fetch(name):
    """The local file of published weights, verified; downloaded if need be.

    Looks in the cache, in the installed package or the checkout, in the mirrors, then
    at the place of publication. Processes that ask at once wait for one download.

    Args:
        name: Name as in `list_weights()`.

    Returns:
        The `pathlib.Path` of a file with the record's SHA-256.

    Raises:
        ValueError: If no such weights are published.
        OSError: If they cannot be had; the error lists all that was tried.
    """
    record = get_record(name)
    cached = _cache() / record["file"]
    tried = []
    for path in (cached, *(folder / record["file"] for folder in _folders())):
        if not path.is_file():
            tried.append(f"{path}: not there")
        elif _is_verified(path, record):
            return path
        else:
            tried.append(f"{path}: its SHA-256 is another")
    sources = _sources(record)
    if not sources:
        tried.append("no place of publication is set, and no mirror (ELU_ZOO_MIRROR)")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        import filelock

        with filelock.FileLock(cached.with_name(cached.name + ".lock")):
            if cached.is_file() and _is_verified(cached, record):
                return cached
            for source in sources:
                try:
                    _obtain(source, cached, record)
                    return cached
                except (OSError, http.client.HTTPException) as error:
                    tried.append(f"{source}: {error}")
    except OSError as error:
        tried.append(f"{cached.parent}: {error}")
    raise OSError(
        f"Expected to find the weights {name!r}, file {record['file']} with SHA-256 "
        f"{record['sha256']}. Tried:\n  " + "\n  ".join(tried)
    )


def _obtain(source, target, record):
    """Copies or downloads to `target`, which is only ever replaced by a good file."""
    part = target.with_name(target.name + ".part")
    if not _is_url(source):
        shutil.copyfile(source, part)
    elif os.environ.get("ELU_ZOO_OFFLINE") == "1":
        raise OSError("not tried, ELU_ZOO_OFFLINE is 1")
    else:
        _download(source, part, record["bytes"])
    if part.stat().st_size < record["bytes"] and _is_url(source):
        # Kept: the next try goes on from here.
        raise OSError(f"ended after {part.stat().st_size} of {record['bytes']} bytes")
    if _sha256(part) != record["sha256"]:
        part.unlink()
        raise OSError("the file there has another SHA-256")
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    _is_verified(target, record)


def _download(url, part, size):
    from tqdm import tqdm

    have = part.stat().st_size if part.is_file() else 0
    if have >= size:
        have = 0
    request = urllib.request.Request(url, headers={"User-Agent": "elu-zoo"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if have and not _continues(response, have, size):
            have = 0
        progress = tqdm(
            total=size,
            initial=have,
            unit="B",
            unit_scale=True,
            desc=url.rsplit("/", 1)[-1],
            file=sys.stderr,
            disable=None,
        )
        with progress, part.open("r+b" if have else "wb") as file:
            file.seek(have)
            while have < size + 1:
                # read1 returns what has come, so a stall loses nothing.
                chunk = response.read1(min(_CHUNK, size + 1 - have))
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                progress.update(len(chunk))


def _continues(response, have, size):
    """Whether the server sends the rest of the file, as asked, and not all of it."""
    wanted = f"bytes {have}-{size - 1}/{size}"
    return response.status == 206 and response.headers.get("Content-Range") == wanted


def _sources(record):
    mirrors = [m for m in re.split(r"[\s,]+", os.environ.get("ELU_ZOO_MIRROR", "")) if m]
    base = _manifest().get("base_url")
    bases = mirrors + ([base] if base else [])
    places = [
        f"{b.rstrip('/')}/{record['file']}"
        if _is_url(b)
        else str(pathlib.Path(b).expanduser() / record["file"])
        for b in bases
    ]
    places[len(mirrors) : len(mirrors)] = record["urls"]
    return places


def _is_url(source):
    return source.startswith(("http://", "https://"))


def _cache():
    import keras

    home = os.environ.get("KERAS_HOME") or keras.config.keras_home()
    return pathlib.Path(home) / "elu_zoo"


def _folders():
    """Where the package keeps weights, installed or in a checkout."""
    return [_PACKAGE / "pretrained", _PACKAGE.parent / "pretrained"]


def _manifest():
    override = os.environ.get("ELU_ZOO_MANIFEST")
    paths = [pathlib.Path(override)] if override else []
    paths = paths or [folder / "manifest.json" for folder in _folders()]
    for path in paths:
        if path.is_file():
            return json.loads(path.read_text())
    raise FileNotFoundError(
        f"Expected the manifest of the weights at {' or '.join(map(str, paths))}. "
        "Reinstall elu_zoo."
    )


def _is_verified(path, record):
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size, record["sha256"])
    if key not in _verified:
        if status.st_size != record["bytes"] or _sha256(path) != record["sha256"]:
            return False
        _verified.add(key)
    return True


def _sha256(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def load_weights(model, path, skip=()):
    """Assigns a `.weights.h5` file to a model of this package.

    Layers are matched by their names, which do not depend on the model's `name`. All of
    the model's variables have to be in the file, and nothing else; otherwise nothing is
    assigned. Only the states of dropout are passed over on both sides.

    Args:
        model: Keras model of this package.
        path: Path of a file written by `save_weights` or Keras's `save_weights`.
        skip: Beginnings of names of layers to leave as they are.

    Raises:
        ValueError: If the file does not fit the model.
    """
    skip = tuple(skip)
    stored = {
        name: arrays for name, arrays in _read(path).items() if not name.startswith(skip)
    } if skip else _read(path)
    wanted = {
        layer.name: layer.weights
        for layer in model.layers
        if _has_weights(layer) and not (skip and layer.name.startswith(skip))
    }
    problems = [f"{name}: not in the file" for name in wanted if name not in stored]
    problems += [f"{name}: not in the model" for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        shapes = [tuple(variable.shape) for variable in wanted[name]]
        found = [array.shape for array in stored[name]]
        if shapes != found:
            problems.append(f"{name}: shapes {found} in the file, {shapes} in the model")
    if problems:
        raise ValueError(
            f"Expected {path} to hold the weights of {model.name}. "
            f"{len(problems)} layers differ: " + "; ".join(sorted(problems)[:5]) + ". "
            "Build the model with the arguments (classes, width, ...) that the file was "
            "made with."
        )
    for name, variables in wanted.items():
        for variable, array in zip(variables, stored[name], strict=True):
            variable.assign(array)


def save_weights(model, path):
    """Writes a model's weights, rounded to bfloat16 and compressed.

    The values are stored as float32 whose low 16 bits are 0, which halves the file;
    Keras's `load_weights` reads it too.

    Args:
        model: Keras model of this package.
        path: Path of the `.weights.h5` file to write or replace.

    Raises:
        ValueError: If the path does not end in `.weights.h5`.
    """
    import h5py

    path = pathlib.Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"Expected a path that ends in .weights.h5. Received: {path}")
    with replacing(path) as part:
        model.save_weights(part)
        with h5py.File(part, "r") as file:
            groups = {
                name: (dict(group.attrs), {k: v[()] for k, v in group.items()})
                for name, group in _variable_groups(file)
            }
        with h5py.File(part, "w", track_order=True) as file:
            for name, (attributes, arrays) in groups.items():
                group = file.create_group(name)
                group.attrs.update(attributes)
                for key, array in arrays.items():
                    group.create_dataset(
                        key,
                        data=round_to_bfloat16(array),
                        track_times=False,
                        **({"compression": 9, "shuffle": True} if array.ndim else {}),
                    )


def round_to_bfloat16(array):
    """Rounds float32 values to the nearest bfloat16, ties to even.

    Args:
        array: Array of any shape.

    Returns:
        A float32 array; integers come back as they are.

    Example:

    >>> round_to_bfloat16(np.float32([1.0, 1.003, 3.14159265]))
    array([1.      , 1.      , 3.140625], dtype=float32)
    """
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    bits = array.astype("float32").view("uint32")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(array), rounded.view("float32"), array)


def _variable_groups(file):
    """The groups of a Keras weights file that hold a layer's own variables."""
    found = []

    def visit(name, item):
        if name.startswith("layers/") and name.endswith("/vars"):
            found.append((name, item))

    file.visititems(visit)
    return found


def _read(path):
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return {
                str(group.attrs.get("name", name)): [
                    group[key][()] for key in sorted(group, key=int)
                ]
                for name, group in _variable_groups(file)
                if len(group) and "seed_generator" not in name
            }
    except OSError as error:
        raise ValueError(
            f"Expected {path} to be a `.weights.h5` file. It cannot be read: {error}"
        ) from error


def _has_weights(layer):
    return bool(layer.weights) and not all(
        "seed_generator" in variable.path for variable in layer.weights
    )
