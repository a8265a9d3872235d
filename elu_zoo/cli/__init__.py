"""The command `elu-zoo`. Each subcommand is a module: its docstring is its help."""

import argparse
import os
import sys
import warnings

from elu_zoo.cli import evaluate, export, finetune, list_, predict

COMMANDS = {
    "list": list_,
    "predict": predict,
    "finetune": finetune,
    "export": export,
    "evaluate": evaluate,
}


def main(argv=None):
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.

    Returns:
        The exit code: 0, 1 after a failure, 130 after Ctrl-C. Wrong usage exits with 2.
    """
    parser = argparse.ArgumentParser(
        prog="elu-zoo", description="Pretrained ELU networks for Keras."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        first, rest = module.__doc__.split("\n", 1)
        subparser = subparsers.add_parser(
            name,
            help=first.rstrip("."),
            description=first,
            epilog=rest.strip("\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
    arguments = parser.parse_args(argv)
    command = f"elu-zoo {arguments.command}"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(
                f"{command}: {message}", file=sys.stderr
            )
            COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has had enough; Python must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted", file=sys.stderr)
        return 130
    return 0
