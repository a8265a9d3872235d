"""Exports a SavedModel that classifies JPEG and PNG bytes.

examples:
  elu-zoo export elunet11.cifar100 --out served
  elu-zoo export DIR --out served --dtype bfloat16
"""

from elu_zoo.cli.common import (
    SOURCE_HELP,
    known_model,
    load_model,
    print_json,
    start_backend,
)


def add_arguments(parser):
    parser.add_argument("model", metavar="MODEL", help=SOURCE_HELP)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to serve")
    parser.add_argument("--top", type=int, default=5, help="classes per answer")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--resize", type=int, help="side, for models of any image size")
    parser.add_argument("--json", action="store_true")


def run(arguments):
    start_backend()
    from elu_zoo.exporting import export_saved_model

    model, class_names = load_model(known_model(arguments.model))
    path = export_saved_model(
        model,
        arguments.out,
        class_names,
        top=arguments.top,
        dtype=arguments.dtype,
        resize=arguments.resize,
    )
    if arguments.json:
        print_json(
            {"path": str(path), "signatures": ["serving_default", "serve_bytes"]}
        )
        return
    print(f"{path}: signatures serving_default (image) and serve_bytes (image_bytes)")
