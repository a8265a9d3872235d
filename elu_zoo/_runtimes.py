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

MULTIPLYING = ["Conv", "Gemm", "MatMul"]
"""ONNX's operators that are worth computing in integers."""

PRECISION_HINT = ["runtime_options", "INFERENCE_PRECISION_HINT"]
"""Place in an OpenVINO file for the precision to compute in.

The CPU runtime does not read it there: by default it computes in bfloat16 where the
processor can.
"""

LABELS_FILE = "metadata.json"
"""Name of the metadata in the archive at the end of a LiteRT file."""


CALIBRATION_BATCH = 64
"""Images per batch when measuring the ranges of the activations."""

Images = np.ndarray | None


class Runtime(NamedTuple):
    """A file format and its runtime.

    Attributes:
        suffix: Extension of the file's name.
        packages: Packages that writing and running need.
        dtypes: Precisions of the weights that the format has.
        calibrated: Those of them that need images to measure ranges on.
        write: Function of a module with the function `probabilities`, the path to
            write, a dtype, a dict of metadata, and images or `None`.
        load: Function from a path to a function from images to probabilities.
    """

    suffix: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    calibrated: tuple[str, ...]
    write: Callable[[Any, pathlib.Path, str, dict[str, str], Images], None]
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
    module: Any,
    path: pathlib.Path,
    dtype: str,
    metadata: dict[str, str],
    images: Images,
) -> None:
    import onnx

    model = _onnx_model(module)
    if dtype == "float16":
        _halve_weights(model.graph)
    if images is not None:
        model = _quantized(model, images)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _onnx_model(module: Any) -> Any:
    import tf2onnx

    function = module.probabilities
    return tf2onnx.convert.from_function(function, function.input_signature)[0]


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


def _quantized(model: Any, images: np.ndarray, *, outputs: bool = True) -> Any:
    """Quantizes all convolutions and matrix products except the first and the last.

    Their inputs get one scale per tensor, their weights one per channel.

    Args:
        model: ONNX model.
        images: Images to measure the ranges on.
        outputs: Whether to quantize outputs too, without which onnxruntime computes in
            float32. OpenVINO needs only the inputs: it computes the ELU and rounds
            its result in the kernel of the convolution.

    Returns:
        The quantized model.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, file = (f"{folder}/{i}.onnx" for i in range(3))
        onnx.save(model, plain)
        # Merges the products and their biases.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        names = [node.name for node in nodes if node.op_type in MULTIPLYING]
        quantization.quantize_static(
            prepared,
            file,
            _Batches(images),
            op_types_to_quantize=MULTIPLYING,
            nodes_to_exclude=names[:1] + names[-1:],
            per_channel=True,
            # 7 bits of the weights: the sums of 8 overflow on older processors.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            extra_options={
                "OpTypesToExcludeOutputQuantization": [] if outputs else MULTIPLYING
            },
        )
        return onnx.load(file)


class _Batches:
    """Gives onnxruntime's quantizer one batch of images after the other."""

    def __init__(self, images: np.ndarray) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self.batches = (images[i : i + CALIBRATION_BATCH] for i in starts)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


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
    module: Any,
    path: pathlib.Path,
    dtype: str,
    metadata: dict[str, str],
    images: Images,
) -> None:
    import onnx
    import openvino

    source = _onnx_model(module)
    if images is not None:
        source = _quantized(source, images, outputs=False)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.onnx"
        onnx.save(source, file)
        model = openvino.convert_model(file)
    for key, value in metadata.items():
        model.set_rt_info(value, ["elu_zoo", key])
    if dtype == "float32":
        model.set_rt_info("f32", PRECISION_HINT)
    openvino.save_model(model, path, compress_to_fp16=dtype == "float16")


def _load_openvino(
    path: str | os.PathLike[str], threads: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if model.has_rt_info(PRECISION_HINT):
        options[PRECISION_HINT[-1]] = model.get_rt_info(PRECISION_HINT).astype(str)
    compiled = core.compile_model(model, "CPU", options)
    return lambda images: compiled(images)["probabilities"]


def _write_litert(
    module: Any,
    path: pathlib.Path,
    dtype: str,
    metadata: dict[str, str],
    images: Images,
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
        ("float32", "float16", "int8"),
        ("int8",),
        _write_onnx,
        _load_onnx,
    ),
    "openvino": Runtime(
        ".xml",
        ("tf2onnx", "onnx", "onnxruntime", "openvino"),
        ("float32", "float16", "int8"),
        ("int8",),
        _write_openvino,
        _load_openvino,
    ),
    "litert": Runtime(
        ".tflite",
        ("ai_edge_litert",),
        ("float32", "float16", "int8"),
        (),
        _write_litert,
        _load_litert,
    ),
}
"""Runtimes by the name of their format."""
