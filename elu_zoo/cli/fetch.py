"""Fetches pretrained weights, to the cache or to a folder.

Each file is verified by its SHA-256. On a machine without a network, name the folder in
ELU_ZOO_MIRROR.

examples:
  elu-zoo fetch elunet11.cifar100
  elu-zoo fetch --all --to weights
"""

import pathlib
import shutil

from elu_zoo.cli.common import add_model_argument, known_model
from elu_zoo.errors import UserError


def add_arguments(parser):
    add_model_argument(parser, "names", nargs="*", metavar="NAME", help="weights")
    parser.add_argument("--all", action="store_true", help="all published weights")
    parser.add_argument("--to", metavar="DIR", help="folder for the files")


def run(arguments):
    from elu_zoo._fetching import fetch
    from elu_zoo.files import replacing
    from elu_zoo.records import list_weights

    if bool(arguments.names) == arguments.all:
        raise UserError("Expected names of weights or --all, one of the two")
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
