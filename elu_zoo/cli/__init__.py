"""The command `elu-zoo`. Each subcommand is a module: its docstring is its help."""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow leaves oneDNN off on processors without AVX-512, where it helps too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from elu_zoo.cli import evaluate, export, finetune, list_, predict  # noqa: E402

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
        The exit code: 0, or 1 after a failure. Wrong usage exits with 2.
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
    try:
        COMMANDS[arguments.command].run(arguments)
    except (ValueError, OSError) as error:
        print(f"elu-zoo {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0
