"""Published weights: the manifest, their names and their records."""

from __future__ import annotations

import difflib
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from elu_zoo import _hub
from elu_zoo.errors import UserError
from elu_zoo.records import Record, record_of

if TYPE_CHECKING:
    import keras

_PACKAGE = pathlib.Path(__file__).parent


def list_weights(model: str | None = None) -> list[str]:
    """Lists the names of the published weights.

    Args:
        model: Optional name of a model, such as `"ELUNet11"`, to list only its weights.

    Returns:
        A sorted list of names `"<model>.<tag>"`. A model function takes the name or the
        tag as `weights`.

    Example:

    >>> "elunet11.imagenet" in list_weights("ELUNet11")
    False
    """
    names = sorted(manifest()["weights"])
    if model is None:
        return names
    return [name for name in names if _plain(name.split(".")[0]) == _plain(model)]


def find_weights(text: str, model: str | None = None) -> str:
    """Finds the published weights that a user means.

    Args:
        text: A name, a tag, or the name of a model, in any case: `"elunet11.cifar100"`,
            `"tiny_imagenet"`, `"ELUNet11"`. Only one published file may match.
        model: Optional name of the model that the weights must belong to.

    Returns:
        A name as in `list_weights()`.

    Raises:
        UserError: If no or several published weights match. The message suggests the
            closest name.

    Example:

    >>> find_weights("CIFAR100", model="ELUNet11")
    'elunet11.cifar100'
    """
    names, matching = list_weights(model), matching_weights(text, model)
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(f"Expected one name of {matching}. Received: {text!r}")
    raise UserError(
        f"Expected the name of published weights, one of {names}. Received: {text!r}"
        + did_you_mean(text, names)
    )


def did_you_mean(text: str, names: list[str]) -> str:
    """Writes the end of an error message that suggests the closest name.

    Args:
        text: What the user wrote.
        names: The valid names. Either part of a name `"<model>.<tag>"` may be close.

    Returns:
        A string such as `". Did you mean elunet11.cifar100?"`, or an empty string.

    Example:

    >>> did_you_mean("elunet11.cifar10", ["elunet11.cifar100"])
    '. Did you mean elunet11.cifar100?'
    """
    candidates: dict[str, str] = {}
    for name in names:
        for part in (*name.split("."), name):
            candidates[_plain(part)] = name
    near = difflib.get_close_matches(_plain(text), candidates, n=1, cutoff=0.7)
    return f". Did you mean {candidates[near[0]]}?" if near else ""


def matching_weights(text: str, model: str | None = None) -> list[str]:
    """Lists the published weights that a user may mean.

    Args:
        text: As in `find_weights`.
        model: As in `find_weights`.

    Returns:
        A list of names, empty if none match.

    Example:

    >>> matching_weights("cifar100")
    ['elunet11.cifar100', 'elunet18.cifar100']
    """
    wanted, names = _plain(text), list_weights(model)
    exact = [name for name in names if _plain(name) == wanted]
    return exact or [n for n in names if wanted in map(_plain, n.split(".", 1))]


def get_record(model: keras.Model | str) -> Record:
    """Returns the record of a model or of published weights.

    Args:
        model: A model of `elu_zoo`, a name as in `list_weights()`, or an address on the
            Hugging Face Hub.

    Returns:
        A `Record`.

    Raises:
        UserError: If no such weights are published, or the model has no record.
        OSError: If the Hub cannot be reached or has no such record.

    Example:

    >>> get_record("elunet11.cifar100").class_names[:2]
    ('apple', 'aquarium_fish')
    """
    if isinstance(model, str):
        if _hub.is_address(model):
            return _hub.find_record(model)
        name = find_weights(model)
        return Record.from_dict(manifest()["weights"][name] | {"name": name})
    record = record_of(model)
    if record is None:
        raise UserError(
            "Expected a model of elu_zoo, or the name of published weights, one of "
            f"{list_weights()}. Received: {model!r}, which has no record."
        )
    return record


def manifest() -> dict[str, Any]:
    """Reads the manifest of `ELU_ZOO_MANIFEST` or of the package.

    Returns:
        Its content: `weights` holds the records by name, and `base_url` is the URL of
        the folder in which the files are published.

    Raises:
        OSError: If the file does not exist.
        UserError: If the file is not a manifest.

    Example:

    >>> "elunet11.cifar100" in manifest()["weights"]
    True
    """
    override = os.environ.get("ELU_ZOO_MANIFEST")
    places = [pathlib.Path(override)] if override else _manifests()
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"Expected a manifest of the weights in one of {[*map(str, places)]}. "
            + ("Correct ELU_ZOO_MANIFEST." if override else "Reinstall elu_zoo.")
        )
    try:
        # Windows editors may start a file with a byte-order mark.
        content = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(content["weights"], dict):
            raise TypeError("its 'weights' is not an object")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected {path} to be a manifest of weights, but it is not: {error}"
        ) from error
    return content


def folders() -> list[pathlib.Path]:
    """Lists the folders in which the package, installed or a checkout, keeps weights.

    Returns:
        One or two paths.

    Example:

    >>> all(folder.name == "pretrained" for folder in folders())
    True
    """
    checkout = _PACKAGE.parent
    # A different package installed next to this one may have a folder of this name.
    in_checkout = (checkout / "setup.py").is_file()
    return [_PACKAGE / "pretrained"] + [checkout / "pretrained"] * in_checkout


def _manifests() -> list[pathlib.Path]:
    return [folder / "manifest.json" for folder in folders()]


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "").replace("-", "")
