# PYTHON_ARGCOMPLETE_OK
"""The command `elu-zoo`. Each subcommand is a module whose docstring is its help.

Neither this module nor any subcommand imports a backend at the top, so that `--help`,
`--version` and `list` answer at once.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from elu_zoo.cli import (
    doctor,
    evaluate,
    explain,
    export,
    fetch,
    finetune,
    list_,
    predict,
    similar,
)
from elu_zoo.errors import UserError

COMMANDS = {
    "list": list_,
    "predict": predict,
    "similar": similar,
    "explain": explain,
    "finetune": finetune,
    "export": export,
    "evaluate": evaluate,
    "fetch": fetch,
    "doctor": doctor,
}
"""The modules of the subcommands by name, in the order of `--help`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.

    Returns:
        The exit code: 0 for success, 1 for a failure, 3 if the command finished but
        could not use some of its input, 130 after Ctrl-C. Wrong usage exits with 2.
    """
    _print_any_name()
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments = parser.parse_args(argv)
    command = f"elu-zoo {arguments.command}"
    try:
        with warnings.catch_warnings():
            # Pillow's, of an image that the reader refuses.
            warnings.filterwarnings("ignore", "Image size .* exceeds limit")
            warnings.showwarning = lambda message, *_, **__: print(
                f"{command}: {message}", file=sys.stderr
            )
            code = COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, stopped early; Python must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted", file=sys.stderr)
        return 130
    return code or 0


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command and all its subcommands."""
    from elu_zoo import __version__

    parser = argparse.ArgumentParser(
        prog="elu-zoo", description="Pretrained ELU networks for Keras."
    )
    parser.add_argument("--version", action="version", version=f"elu-zoo {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        first, rest = (module.__doc__ or "").split("\n", 1)
        subparser = subparsers.add_parser(
            name,
            help=first.rstrip("."),
            description=first,
            epilog=rest.strip("\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
    return parser


def _print_any_name() -> None:
    """Prints characters that the terminal's encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
