"""Exports a model to a file for a server or another runtime.

examples:
  elu-zoo export elunet11.cifar100 --out served
  elu-zoo export DIR --out model.tflite --format litert --dtype int8
"""

from elu_zoo.cli.common import (
    add_model_argument,
    known_model,
    load_model,
    print_json,
    start_backend,
)

FORMATS = ["saved_model", "onnx", "openvino", "litert"]
DTYPES = ["float32", "bfloat16", "float16", "int8"]


def add_arguments(parser):
    add_model_argument(parser, "model", metavar="MODEL")
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="file to write (.onnx, .xml, .tflite), or the folder to serve",
    )
    parser.add_argument("--format", default="saved_model", choices=FORMATS)
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="precision; saved_model: float32, bfloat16; onnx and openvino: float32, "
        "float16; litert: float32, float16, int8",
    )
    parser.add_argument("--top", type=int, default=5, help="classes per answer")
    parser.add_argument("--resize", type=int, help="side, for models of any image size")
    parser.add_argument("--json", action="store_true")


def run(arguments):
    start_backend()
    from elu_zoo.exporting import export

    model, class_names = load_model(known_model(arguments.model))
    path, difference = export(
        model,
        arguments.out,
        arguments.format,
        class_names,
        dtype=arguments.dtype,
        top=arguments.top,
        resize=arguments.resize,
    )
    if arguments.json:
        print_json({"path": str(path), "difference": difference})
        return
    print(f"{path}: differs from the model by at most {difference:.1g}")
