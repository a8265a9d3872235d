"""Shows what is installed, the backend's devices, and which weights are present.

The exit code is 1 if anything that the package needs is missing.

examples:
  elu-zoo doctor
"""

import argparse
import importlib.metadata
import os
import pathlib
import platform

from elu_zoo.cli.common import print_table, start_backend
from elu_zoo.errors import UserError

NEEDED = (
    *("filelock", "h5py", "keras", "matplotlib", "ml-dtypes", "numpy", "pillow"),
    *("tqdm", "wrapt"),
)
"""Packages that every installation needs."""

BACKENDS = ("tensorflow", "jax")
"""Keras backends, one of which is needed."""

OPTIONAL = {"pyarrow": "Parquet files", "ray": "predict --engine ray"}
"""Optional packages, and what needs them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: the subcommand takes no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns its exit code."""
    missing = _print_versions()
    missing += _print_backend()
    missing += _print_weights()
    print(f"\nMissing: {'; '.join(missing) or 'nothing'}")
    return 1 if missing else 0


def _print_versions() -> list[str]:
    rows = [("package", "version"), ("python", platform.python_version())]
    rows += [(name, _version(name)) for name in ("elu-zoo", *NEEDED, *BACKENDS)]
    rows += [(n, _version(n, f"not installed: {use}")) for n, use in OPTIONAL.items()]
    print_table(rows)
    return [name for name in NEEDED if not _version(name)]


def _version(name: str, otherwise: str = "") -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return otherwise


def _print_backend() -> list[str]:
    try:
        start_backend()
    except UserError as error:
        print(f"\nbackend: {error}")
        return ["a backend"]
    import keras

    devices = keras.distribution.list_devices()
    print(f"\nbackend: {keras.backend.backend()}, devices: {', '.join(devices)}")
    return []


def _print_weights() -> list[str]:
    from elu_zoo._fetching import cache_folder
    from elu_zoo.weights import list_weights

    found = {name: _find(name) for name in list_weights()}
    rows = [(name, path or "not on this machine") for name, path in found.items()]
    print(f"\ncache: {cache_folder()} (set KERAS_HOME to change it)\n")
    print_table([("weights", "file"), *rows])
    return [f"weights {name}" for name, path in found.items() if not path]


def _find(name: str) -> pathlib.Path | None:
    """The verified file of weights, if it is on this machine."""
    from elu_zoo._fetching import fetch

    before = os.environ.get("ELU_ZOO_OFFLINE")
    os.environ["ELU_ZOO_OFFLINE"] = "1"
    try:
        return fetch(name)
    except OSError:
        return None
    finally:
        os.environ.pop("ELU_ZOO_OFFLINE")
        if before is not None:
            os.environ["ELU_ZOO_OFFLINE"] = before
