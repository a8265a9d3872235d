"""What the commands of `training` share."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

# Exit statuses: starting again is of no use; start again.
UNMENDABLE, START_AGAIN = 2, 75

# Factor of the learning rate for a batch so many times as large.
RATE_SCALING: dict[str, Callable[[float], float]] = {
    "none": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": lambda ratio: ratio**0.5,
}


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """An argument parser for `python -m NAME`, whose help is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None):
    """Parses the arguments; messages of `training` go to stderr from then on."""
    arguments = parser.parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("training")
    if not logger.handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return arguments


def positive(text: str) -> int:
    """An option's integer of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, received {text}")
    return number


def natural(text: str) -> int:
    """An option's integer of 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, received {text}")
    return number


def leave(command: str, message: object, status: int) -> None:
    """Ends the process at once: TensorFlow's threads may wait for a lost worker."""
    # HDF5's own messages have several lines.
    print(f"{command}: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)
