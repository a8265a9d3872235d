"""The manifest's records of published weights."""

import json
import os
import pathlib

_PACKAGE = pathlib.Path(__file__).parent


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
    names = sorted(manifest()["weights"])
    if model is None:
        return names
    return [name for name in names if _lowered(name.split(".")[0]) == _lowered(model)]


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
    weights = manifest()["weights"]
    if name not in weights:
        raise ValueError(
            f"Expected the name of published weights, one of {sorted(weights)}. "
            f"Received: {name!r}"
        )
    return {"name": name} | weights[name]


def manifest():
    override = os.environ.get("ELU_ZOO_MANIFEST")
    if override:
        return json.loads(pathlib.Path(override).read_text())
    for folder in folders():
        if (folder / "manifest.json").is_file():
            return json.loads((folder / "manifest.json").read_text())
    raise FileNotFoundError(
        "Expected a manifest of the weights in one of "
        f"{[str(folder) for folder in folders()]}. Install elu_zoo again."
    )


def folders():
    """Where the package keeps weights, installed or in a checkout."""
    return [_PACKAGE / "pretrained", _PACKAGE.parent / "pretrained"]


def _lowered(model):
    return str(model).lower().replace("_", "")
