"""JSON-plain descriptions of objects, equal for objects that compute the same."""

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Depth to which `describe` looks into objects within objects.
DEPTH = 10


def describe(value: Any, depth: int = DEPTH) -> Any:
    """Describes an object by its class or function and the values that it holds.

    Args:
        value: Any object.
        depth: Depth to which to look into objects within it.

    Returns:
        A JSON-plain description, equal for objects that compute the same.

    Example:

    >>> from training.data.augmentation import random_crop
    >>> from training.engine.schedules import WarmupLinear
    >>> describe(WarmupLinear(0.1, steps=10))
    {'class': 'WarmupLinear', 'peak': 0.1, 'steps': 10, 'warmup': 0.2}
    >>> describe(random_crop(4)) == describe(random_crop(4))
    True
    >>> describe(random_crop(4)) == describe(random_crop(3))
    False
    """
    inner = functools.partial(describe, depth=depth - 1)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape), "sha256": _digest(value.tobytes())}
    if depth == 0:
        return _name(value)
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [inner(item) for item in value]
    if inspect.isclass(value) or inspect.isbuiltin(value):
        return _name(value)
    if isinstance(value, functools.partial):
        described = {"function": _name(value.func)}
        values = {"args": value.args, **value.keywords}
    elif inspect.isfunction(value):
        described, values = {"function": _name(value)}, _values_of_function(value)
    else:
        described, values = {"class": _name(type(value))}, _values_of_object(value)
    return described | (inner(values) if depth > 1 else {})


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return name.split(".<locals>")[0]


def _values_of_function(function: Callable[..., Any]) -> dict[str, Any]:
    """The values that a function captured where it was made, and its defaults."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return defaults | dict(inspect.getclosurevars(function).nonlocals)


def _values_of_object(value: Any) -> dict[str, Any]:
    with contextlib.suppress(Exception):
        # Keras numbers the names of its objects.
        return {k: v for k, v in value.get_config().items() if k != "name"}
    return {k: v for k, v in getattr(value, "__dict__", {}).items() if k[:1] != "_"}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
