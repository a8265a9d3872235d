"""Writes and runs model files for runtimes other than TensorFlow."""

import importlib.util
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from elu_zoo.errors import UserError

LABELS_FILE = "metadata.json"
"""Name of the metadata in the archive at the end of a LiteRT file."""


class Runtime(NamedTuple):
    """A file format and its runtime.

    Attributes:
        suffix: Extension of the file's name.
        packages: Packages that writing and running need.
        dtypes: Precisions of the weights that the format has.
        write: Function of a module with the function `probabilities`, the path to
            write, a dtype, and a dict of metadata.
        load: Function from a path to a function from images to probabilities.
    """

    suffix: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    write: Callable[[Any, pathlib.Path, str, dict[str, str]], None]
    load: Callable[..., Callable[[np.ndarray], np.ndarray]]


def check_installed(format: str) -> None:
    """Checks that the packages of a format are installed.

    Args:
        format: Key of `RUNTIMES`.

    Raises:
        UserError: If one is missing; the message has the command that installs it.
    """
    missing = [p for p in RUNTIMES[format].packages if not importlib.util.find_spec(p)]
    if missing:
        raise UserError(
            f"Expected the packages that format={format!r} needs. Received: an "
            f"installation without {', '.join(missing)}. Run: pip install "
            "'elu-zoo[export]'"
        )


def _write_onnx(
    module: Any, path: pathlib.Path, dtype: str, metadata: dict[str, str]
) -> None:
    import onnx
    import tf2onnx

    function = module.probabilities
    model, _ = tf2onnx.convert.from_function(function, function.input_signature)
    if dtype == "float16":
        _halve_weights(model.graph)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _halve_weights(graph: Any) -> None:
    """Stores the weights in float16, which the runtime widens when it loads them.

    Its CPU kernels compute in float32: with float16 between the layers, they would
    convert back and forth.
    """
    from onnx import TensorProto, helper, numpy_helper

    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        # What is small, such as the statistics of the images, stays exact.
        if array.dtype != np.float32 or array.size < 1024:
            continue
        name = tensor.name
        half = numpy_helper.from_array(array.astype(np.float16), f"{name}_float16")
        tensor.CopyFrom(half)
        cast = helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _load_onnx(
    path: str | os.PathLike[str], threads: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["probabilities"], {"image": images})[0]


def _write_openvino(
    module: Any, path: pathlib.Path, dtype: str, metadata: dict[str, str]
) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.onnx"
        _write_onnx(module, file, "float32", {})
        model = openvino.convert_model(file)
    for key, value in metadata.items():
        model.set_rt_info(value, ["elu_zoo", key])
    if dtype == "float32":
        # By default the runtime computes in bfloat16 where the processor can.
        model.set_rt_info("f32", ["runtime_options", "INFERENCE_PRECISION_HINT"])
    openvino.save_model(model, path, compress_to_fp16=dtype == "float16")


def _load_openvino(
    path: str | os.PathLike[str], threads: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return lambda images: compiled(images)["probabilities"]


def _write_litert(
    module: Any, path: pathlib.Path, dtype: str, metadata: dict[str, str]
) -> None:
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
    # TensorFlow Lite's metadata puts files that belong to a model in such an archive.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS_FILE, json.dumps(metadata, ensure_ascii=False))


def _load_litert(
    path: str | os.PathLike[str], threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
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
"""Runtimes by the name of their format."""
