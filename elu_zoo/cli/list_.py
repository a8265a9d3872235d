"""Lists the pretrained weights.

examples:
  elu-zoo list
  elu-zoo list --json
"""

import argparse
from typing import Any

from elu_zoo.cli.common import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    parser.add_argument(
        "--model", help="list only the weights of one model, such as ELUNet11"
    )
    parser.add_argument(
        "--json", action="store_true", help="print complete records as JSON"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from elu_zoo.architectures import ARCHITECTURES, find_architecture
    from elu_zoo.errors import UserError
    from elu_zoo.weights import get_record, list_weights

    if arguments.model and not find_architecture(arguments.model):
        models = [architecture.model for architecture in ARCHITECTURES.values()]
        raise UserError(
            f"Expected one of the models {models}. Received: {arguments.model!r}"
        )
    records = [get_record(name) for name in list_weights(arguments.model)]
    if arguments.json:
        print_json([record.to_dict() for record in records])
        return
    rows: list[tuple[Any, ...]] = [
        ("weights", "data", "classes", "input", "error", "parameters", "file")
    ]
    for record in records:
        rows.append(
            (
                record.name,
                record.dataset["name"],
                len(record.class_names),
                _size(record.input_shape),
                f"{record.metrics['error']:.2%}" if "error" in record.metrics else "-",
                f"{record.parameters / 1e6:.2f} M" if record.parameters else "-",
                f"{record.bytes / 1e6:.1f} MB",
            )
        )
    print_table(rows)


def _size(input_shape: tuple[int | None, ...]) -> str:
    return "any" if None in input_shape else "x".join(map(str, input_shape))
