"""Downloads pretrained weights to the cache or to a folder.

Each file's SHA-256 is verified. On a machine without a network, set ELU_ZOO_MIRROR to a
folder that holds the files.

examples:
  elu-zoo fetch elunet11.cifar100
  elu-zoo fetch --all --to weights
"""

import argparse
import pathlib
import shutil

from elu_zoo.cli.common import add_model_argument, known_model
from elu_zoo.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    add_model_argument(
        parser, "names", nargs="*", metavar="NAME", help="names of weights to download"
    )
    parser.add_argument(
        "--all", action="store_true", help="download all published weights"
    )
    parser.add_argument(
        "--to", metavar="DIR", help="folder for the files (default: the cache)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from elu_zoo._fetching import fetch
    from elu_zoo.files import replacing
    from elu_zoo.weights import list_weights

    if bool(arguments.names) == arguments.all:
        raise UserError(
            "Expected either names of weights or --all. Received: "
            + ("both" if arguments.all else "neither")
        )
    names = list_weights() if arguments.all else map(known_model, arguments.names)
    for name in list(names):
        path = fetch(name)
        if arguments.to:
            folder = pathlib.Path(arguments.to)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / path.name) as part:
                shutil.copyfile(path, part)
            path = folder / path.name
        print(f"{name}: {path}")
