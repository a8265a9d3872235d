"""Model files for runtimes other than TensorFlow: writing them and running them."""

import importlib.util
import json
import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from elu_zoo.errors import UserError

LABELS_FILE = "metadata.json"
"""In the archive that follows the model in a LiteRT file."""


class Runtime(NamedTuple):
    """A file format and what runs it."""

    suffix: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    write: Callable
    load: Callable


def check_installed(format: str) -> None:
    """Raises a `UserError` with the command to run if a package is missing."""
    missing = [p for p in RUNTIMES[format].packages if not importlib.util.find_spec(p)]
    if missing:
        raise UserError(
            f"Expected the packages that format={format!r} needs. Received: an "
            f"installation without {', '.join(missing)}. Run: pip install "
            "'elu-zoo[export]'"
        )


def _write_onnx(module, path, dtype, metadata):
    import onnx
    import tf2onnx

    function = module.probabilities
    model, _ = tf2onnx.convert.from_function(function, function.input_signature)
    if dtype == "float16":
        _halve_weights(model.graph)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _halve_weights(graph):
    """Stores the weights in float16, for the runtime to widen when it loads them.

    Its CPU kernels compute in float32: with float16 between the layers they would
    convert back and forth.
    """
    from onnx import TensorProto, helper, numpy_helper

    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.ndim < 2:
            continue
        name = tensor.name
        half = numpy_helper.from_array(array.astype(np.float16), f"{name}_float16")
        tensor.CopyFrom(half)
        cast = helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _load_onnx(path, threads=0):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["probabilities"], {"image": images})[0]


def _write_openvino(module, path, dtype, metadata):
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.onnx"
        _write_onnx(module, file, "float32", {})
        model = openvino.convert_model(file)
    for key, value in metadata.items():
        model.set_rt_info(value, ["elu_zoo", key])
    if dtype == "float32":
        # Without it the runtime computes in bfloat16 where the processor can.
        model.set_rt_info("f32", ["runtime_options", "INFERENCE_PRECISION_HINT"])
    openvino.save_model(model, path, compress_to_fp16=dtype == "float16")


def _load_openvino(path, threads=0):
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return lambda images: compiled(images)["probabilities"]


def _write_litert(module, path, dtype, metadata):
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            module, folder, signatures={"serving_default": module.probabilities}
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if dtype != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if dtype == "float16":
            converter.target_spec.supported_types = [tf.float16]
        pathlib.Path(path).write_bytes(converter.convert())
    # Where TensorFlow Lite's metadata puts the files that belong to a model.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS_FILE, json.dumps(metadata, ensure_ascii=False))


def _load_litert(path, threads=None):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    run = interpreter.get_signature_runner("serving_default")
    return lambda images: run(image=images)["probabilities"]


RUNTIMES = {
    "onnx": Runtime(
        ".onnx",
        ("tf2onnx", "onnx", "onnxruntime"),
        ("float32", "float16"),
        _write_onnx,
        _load_onnx,
    ),
    "openvino": Runtime(
        ".xml",
        ("tf2onnx", "onnx", "openvino"),
        ("float32", "float16"),
        _write_openvino,
        _load_openvino,
    ),
    "litert": Runtime(
        ".tflite",
        ("ai_edge_litert",),
        ("float32", "float16", "int8"),
        _write_litert,
        _load_litert,
    ),
}
