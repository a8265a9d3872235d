"""Exports models to files that servers and other runtimes load without Keras."""

import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from elu_zoo._graph_images import decode
from elu_zoo._names import check_class_names
from elu_zoo._precision import DTYPES, with_dtype
from elu_zoo._runtimes import RUNTIMES, check_installed
from elu_zoo.errors import UserError
from elu_zoo.images import check_pixels, preprocessing_of
from elu_zoo.ops import forward_only
from elu_zoo.predictions import NONE, gives_logits, threshold_of
from elu_zoo.records import class_names_of, record_of
from elu_zoo.reference import reference_images

TOLERANCES = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.1, "int8": 0.1}
"""Largest difference of a file's probabilities from the model's on fixed images."""

ANY_SIZE = 64
"""Side in pixels of the fixed images for a model that takes any size."""


class Exported(NamedTuple):
    """A file that was written, loaded back and compared with its model.

    Attributes:
        path: The file, or the folder of a SavedModel.
        difference: Largest absolute difference of the probabilities on eight images:
            of `elu_zoo.reference.reference_images`, or the first of `calibration`.

    Example:

    >>> exported = Exported(pathlib.Path("served/1"), difference=1e-7)
    >>> exported.path.name
    '1'
    """

    path: pathlib.Path
    difference: float


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "saved_model",
    class_names: Iterable[object] | None = None,
    *,
    dtype: str = "float32",
    top: int = 5,
    resize: int | None = None,
    calibration: npt.ArrayLike | None = None,
) -> Exported:
    """Exports a model to a runtime's format, with its preprocessing and class names.

    The file is loaded back and compared with the model on fixed images; a file that
    differs is removed.

    - `"saved_model"`, as for `export_saved_model`: float32 or bfloat16, and 1 or 3
      channels;
    - `"onnx"`, a `.onnx` file for onnxruntime: float32, float16 or int8;
    - `"openvino"`, an `.xml` file with a `.bin` beside it: float32, float16 or int8;
    - `"litert"`, a `.tflite` file: float32, float16 or int8.

    All formats except the SavedModel take `image`, float32 of shape
    `(n, height, width, channels)` with values from 0 to 255, and return
    `probabilities`, float32 of shape `(n, classes)`; n may be 0. `dtype` is the
    precision of the weights in the file. For float32 and float16, OpenVINO computes in
    the precision that suits the processor, unless `compile_model` is given
    `{"INFERENCE_PRECISION_HINT": "f32"}`; the other runtimes compute in float32.

    With int8, whose weights are scaled per channel, all runtimes multiply integers.
    LiteRT finds the range of each layer's inputs as it computes. For the other two it
    is measured on `calibration`, and the first and last layers stay in float32.

    `class_names`, `preprocessing` with the size and interpolation of the images, and
    `threshold` if the model's record has one, are stored as JSON: in an ONNX file's
    metadata, in an OpenVINO file's runtime information under `elu_zoo`, and in
    `metadata.json` of the ZIP archive at the end of a LiteRT file.

    Args:
        model: Keras model that gives probabilities, or logits if its output layer has
            no activation: a softmax is then added. Needs the TensorFlow backend.
        path: File to write, with the extension of its format; for a SavedModel the
            folder of its versions.
        format: `"saved_model"`, `"onnx"`, `"openvino"` or `"litert"`. All but the first
            need the package's extra `export`.
        class_names: Names of the classes in order; default those of the model's
            record, or the class numbers.
        dtype: Precision, one of those above.
        top: Number of classes in the answers of `serve_bytes`.
        resize: Side in pixels of the images, for models that take any size; default
            that of the model's record, or the model's input size.
        calibration: Images of shape `(n, height, width, channels)`, values from 0 to
            255, that are typical of what the file will classify; 500 training images do
            well. ONNX and OpenVINO files in int8 need them.

    Returns:
        An `Exported`: the path, and the difference from the model.

    Raises:
        UserError: If the backend is not TensorFlow, a package is missing, an argument
            is not one of the values above, or the file differs from the model.

    Example:

    >>> import elu_zoo, tempfile
    >>> model = elu_zoo.ELUNet11(width=0.05, classes=2)
    >>> exported = export(model, tempfile.mkdtemp(), class_names=["cat", "dog"])
    >>> exported.path.name, exported.difference < 1e-4
    ('1', True)
    """
    quantized = format in RUNTIMES and dtype in RUNTIMES[format].calibrated
    images = _calibration(model, calibration, quantized)
    if format == "saved_model":
        return _export_saved_model(model, path, class_names, top, dtype, resize)
    if format not in RUNTIMES:
        raise UserError(
            f"Expected format to be one of {['saved_model', *RUNTIMES]}. Received: "
            f"format={format!r}"
        )
    runtime, path = RUNTIMES[format], pathlib.Path(path)
    check_installed(format)
    class_names = _check(model, class_names, dtype, runtime.dtypes)
    if path.suffix != runtime.suffix:
        raise UserError(
            f"Expected path to end in {runtime.suffix!r} for format={format!r}. "
            f"Received: path={str(path)!r}"
        )
    metadata = {"class_names": json.dumps(class_names, ensure_ascii=False)}
    record = record_of(model)
    height, width = model.input_shape[1:3]
    # It describes square images.
    if resize or height == width and (height or (record and record.preprocessing)):
        how = {"interpolation": "bilinear"} | preprocessing_of(model, resize)
        metadata["preprocessing"] = json.dumps(how)
    if threshold := threshold_of(model, None):
        metadata["threshold"] = json.dumps(threshold)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = pathlib.Path(tempfile.mkdtemp(prefix=".part.", dir=path.parent))
    try:
        module = _plain_module(with_dtype(model, "float32"))
        runtime.write(module, part / path.name, dtype, metadata, images)
        run = runtime.load(part / path.name)
        difference = _difference(model, run, dtype, resize, images)
        _sync(part)
        # In this order, an .xml file never appears without its .bin file.
        for file in sorted(part.iterdir()):
            os.replace(file, path.parent / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(path, difference)


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    class_names: Iterable[object] | None = None,
    *,
    top: int = 5,
    dtype: str = "float32",
    resize: int | None = None,
) -> pathlib.Path:
    """Exports a SavedModel for TensorFlow Serving and other servers.

    It has two signatures, both for any batch size, including 0:

    - `serving_default` takes `image`, float32 of shape `(n, height, width, channels)`
      with values from 0 to 255, and returns `probabilities`, float32 of shape
      `(n, classes)`.
    - `serve_bytes` takes `image_bytes`, strings of shape `(n,)`, and returns `classes`,
      strings of shape `(n, top)`, the most probable first, their `probabilities`,
      float32 of shape `(n, top)`, and `valid`, bool of shape `(n,)`. If the highest
      probability is below the threshold of the model's record, the first class is
      `"none of these"`, without further classes.

    Each of the `image_bytes` is an encoded JPEG, PNG, WebP, GIF (the first frame is
    used) or BMP image of any size, in gray, RGB or RGBA. As in
    `elu_zoo.preprocess_input`, it is turned upright by its EXIF orientation, resized
    and cropped, and the same limits apply to its pixels and aspect ratio. An invalid
    image has `valid` false, empty names and zeros, and does not affect the rest of its
    batch. TIFF, AVIF, animated WebP, and BMP with a palette, bit masks or
    compression are invalid here, although `preprocess_input` reads them.

    The weights are stored once. The graph contains no op that needs XLA.

    Args:
        model: Keras model that gives probabilities, or logits if its output layer has
            no activation: a softmax is then added. Needs the TensorFlow backend.
        path: Folder of the served model. The SavedModel is created atomically as its
            subfolder `1`, or the number after the highest one there.
        class_names: Names of the classes in order; default those of the model's
            record, or the class numbers. They are also written to
            `assets.extra/class_names.txt`.
        top: Number of classes in the answers of `serve_bytes`.
        dtype: `"float32"`, or `"bfloat16"`, which halves the size of weights and hidden
            layers. The model's own precision does not matter.
        resize: Side in pixels of the images for `serve_bytes`; default that of the
            model's record, or the model's input size.

    Returns:
        The path of the SavedModel.

    Raises:
        UserError: If the backend is not TensorFlow, an argument is not one of the
            values above, the class names do not fit the model, the model takes images
            of other than 1 or 3 channels, or of any size and neither its record nor
            `resize` gives one, or the file differs from the model.

    Example:

    >>> import elu_zoo, tempfile
    >>> model = elu_zoo.ELUNet11(width=0.05, classes=2)
    >>> folder = tempfile.mkdtemp()
    >>> export_saved_model(model, folder, class_names=["cat", "dog"]).name
    '1'
    """
    return _export_saved_model(model, path, class_names, top, dtype, resize).path


def _export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    class_names: Iterable[object] | None,
    top: int,
    dtype: str,
    resize: int | None,
) -> Exported:
    class_names = _check(model, class_names, dtype, DTYPES)
    if top < 1:
        raise UserError(f"Expected top to be 1 or more. Received: top={top!r}")
    if (channels := model.input_shape[-1]) not in (1, 3):
        raise UserError(
            "Expected a model of 1 or 3 channels for serve_bytes. Received: "
            f"{channels} channels. The other formats of `export` take any number"
        )
    how = preprocessing_of(model, resize)
    import tensorflow as tf

    served = with_dtype(model, dtype)
    threshold = threshold_of(model, None)
    module = _module(served, class_names, min(top, len(class_names)), how, threshold)
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose folders are private.
    part = path / f".part.{secrets.token_hex(4)}"
    part.mkdir()
    try:
        tf.saved_model.save(
            module,
            str(part),
            signatures={
                "serving_default": module.serving_default,
                "serve_bytes": module.serve_bytes,
            },
        )
        (part / "assets.extra").mkdir()
        names = part / "assets.extra" / "class_names.txt"
        names.write_text("".join(f"{name}\n" for name in class_names), "utf-8")
        difference = _difference(
            model, lambda images: _run_saved_model(part, images), dtype, resize
        )
        _sync(part)
        target = _numbered(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(target, difference)


def _numbered(part: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Renames a folder to the next version, whatever other processes export."""
    while True:
        target = path / str(_next_version(path))
        try:
            os.rename(part, target)
        except OSError:
            if not target.exists():
                raise
        else:
            return target


def _check(
    model: keras.Model,
    class_names: Iterable[object] | None,
    dtype: str,
    dtypes: Sequence[str],
) -> list[str]:
    """Checks what all formats need; returns the class names."""
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            "Expected the TensorFlow backend, which exporting needs. Received: "
            f"backend={keras.backend.backend()!r}. Save the model, then load and "
            "export it with KERAS_BACKEND=tensorflow."
        )
    if dtype not in dtypes:
        raise UserError(
            f"Expected dtype to be one of {dtypes}. Received: dtype={dtype!r}"
        )
    if not isinstance(model.output_shape, tuple) or len(model.output_shape) != 2:
        raise UserError(
            "Expected a model with one output of shape (n, classes). Received: a model "
            f"with output_shape={model.output_shape}"
        )
    if quantized := _quantized_layers(model):
        raise UserError(
            "Expected a floating-point model. Received: a quantized model, whose layer "
            f"{quantized[0]} has integer weights. Export the model from before "
            "`quantize`; format='litert' with dtype='int8' has 8-bit weights."
        )
    classes = model.output_shape[-1]
    given = class_names_of(model) if class_names is None else class_names
    names = [str(name) for name in given]
    if len(names) != classes:
        raise UserError(
            f"Expected {classes} class names, one per output of the model. "
            f"Received: {len(names)}"
        )
    check_class_names(names)
    return names


def _calibration(
    model: keras.Model, images: npt.ArrayLike | None, needed: bool
) -> np.ndarray | None:
    """Checks the images to calibrate with; returns them in float32."""
    if (images is not None) != needed:
        raise UserError(
            "Expected calibration images for ONNX and OpenVINO files in int8, and for "
            f"no others. Received: {'none' if needed else 'calibration images'}"
        )
    if images is None:
        return None
    images = np.asarray(images)
    check_pixels(images)
    expected = model.input_shape[1:]
    if images.ndim != 4 or any(
        size not in (None, given)
        for size, given in zip(expected, images.shape[1:], strict=True)
    ):
        raise UserError(
            f"Expected calibration images of shape {('n', *expected)}. "
            f"Received: shape {images.shape}"
        )
    return images.astype("float32")


def _quantized_layers(model: keras.Model) -> list[str]:
    return [
        layer.name
        for layer in model._flatten_layers()
        if getattr(layer.dtype_policy, "quantization_mode", None)
    ]


def _difference(
    model: keras.Model,
    run: Callable[[np.ndarray], np.ndarray],
    dtype: str,
    resize: int | None,
    calibration: np.ndarray | None = None,
) -> float:
    """Compares a written file with the model on fixed or on the calibration images."""
    height, width, channels = model.input_shape[1:]
    shape = height or resize or ANY_SIZE, width or resize or ANY_SIZE, channels
    images = reference_images(shape, 8) if calibration is None else calibration[:8]
    images = images.astype("float32")
    # A loaded model does not know its policy; its layers do.
    layers = model._flatten_layers(include_self=False)
    if any(layer.compute_dtype != "float32" for layer in layers):
        model = with_dtype(model, "float32")
    expected = np.asarray(_probabilities(model)(images))
    difference = float(np.abs(run(images) - expected).max())
    if not difference <= TOLERANCES[dtype]:
        raise UserError(
            f"Expected probabilities within {TOLERANCES[dtype]} of the model's on "
            f"fixed images. Received: a file that differs by {difference:.2g}, which "
            "was removed"
        )
    return difference


def _run_saved_model(path: pathlib.Path, images: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return signature(image=tf.constant(images))["probabilities"].numpy()


def _probabilities(model: keras.Model) -> Callable[[Any], Any]:
    """The function from images to the model's calibrated probabilities, in float32."""
    import tensorflow as tf

    logits, record = gives_logits(model), record_of(model)
    temperature = record.temperature if record else 1.0

    def probabilities(images: Any) -> Any:
        with forward_only():
            outputs = tf.cast(model(images, training=False), tf.float32)
        if not logits and temperature == 1:
            return outputs
        scores = outputs if logits else tf.math.log(outputs)
        return tf.nn.softmax(scores / temperature)

    return probabilities


def _plain_module(model: keras.Model) -> Any:
    """The network alone, for runtimes without TensorFlow's ops."""
    import tensorflow as tf

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.probabilities = _serving(model)
    return module


def _serving(model: keras.Model) -> Any:
    """The graph from any number of images to probabilities."""
    import tensorflow as tf

    probabilities = _probabilities(model)

    def serve(image: Any) -> dict[str, Any]:
        count = tf.shape(image)[0]
        # The runtimes refuse an empty batch or crash on it.
        missing = tf.cast(count == 0, tf.int32)
        image = tf.pad(image, [[0, missing], [0, 0], [0, 0], [0, 0]])
        return {"probabilities": probabilities(image)[:count]}

    shape = [None, *model.input_shape[1:]]
    signature = [tf.TensorSpec(shape, tf.float32, name="image")]
    return tf.function(serve, input_signature=signature, autograph=False)


def _module(
    model: keras.Model,
    class_names: list[str],
    top: int,
    preprocessing: dict[str, Any],
    threshold: float,
) -> Any:
    """The network with both signatures of a SavedModel."""
    import tensorflow as tf

    channels = model.input_shape[-1]
    names = tf.constant(class_names)
    probabilities = _probabilities(model)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
        autograph=False,
    )
    def serve_bytes(image_bytes: Any) -> dict[str, Any]:
        count = tf.shape(image_bytes)[0]
        images, valid = decode(image_bytes, channels, **preprocessing)
        images, valid = images[: tf.maximum(count, 1)], valid[:count]
        scores, indices = tf.math.top_k(probabilities(images)[:count], top)
        none, first = scores[:, :1] < threshold, tf.range(top) == 0
        classes = tf.where(none, tf.where(first, NONE, ""), tf.gather(names, indices))
        return {
            "classes": tf.where(valid[:, None], classes, ""),
            "probabilities": tf.where(valid[:, None] & (first | ~none), scores, 0.0),
            "valid": valid,
        }

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.serving_default, module.serve_bytes = _serving(model), serve_bytes
    return module


def _next_version(path: pathlib.Path) -> int:
    versions = [int(p.name) for p in path.iterdir() if p.name.isdecimal()]
    return max(versions, default=0) + 1


def _sync(folder: pathlib.Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
