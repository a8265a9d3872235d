"""What the commands of `training` share."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

# Exit statuses: for the user to correct, and for a restart to overcome.
USER_ERROR, RESTART = 2, 75

# Factors for the learning rate, by the ratio of the batch size to the recipe's.
RATE_SCALING: dict[str, Callable[[float], float]] = {
    "none": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": lambda ratio: ratio**0.5,
}


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Makes an argument parser for `python -m NAME`.

    Args:
        name: Name of the module.
        description: Docstring of the module, shown by `--help`.

    Returns:
        The parser.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parses the arguments, and sends the log of `training` to stderr from then on.

    Args:
        parser: The parser.
        argv: Arguments; default those of the process.

    Returns:
        The parsed arguments.
    """
    arguments = parser.parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("training")
    if not logger.handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return arguments


def positive(text: str) -> int:
    """Reads an option's integer of 1 or more.

    Args:
        text: What the user wrote.

    Returns:
        The integer.

    Raises:
        argparse.ArgumentTypeError: If it is less than 1.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, received {text}")
    return number


def natural(text: str) -> int:
    """Reads an option's integer of 0 or more.

    Args:
        text: What the user wrote.

    Returns:
        The integer.

    Raises:
        argparse.ArgumentTypeError: If it is less than 0.
    """
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, received {text}")
    return number


def leave(command: str, message: object, status: int) -> None:
    """Ends the process at once, since TensorFlow's threads may wait for a lost worker.

    Args:
        command: Name of the command.
        message: What to write to stderr, in one line.
        status: Exit status.
    """
    # HDF5's messages have several lines.
    print(f"{command}: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)
