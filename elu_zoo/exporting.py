"""Files that servers and other runtimes load, without Keras or this package."""

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np

from elu_zoo._graph_images import decode
from elu_zoo._runtimes import RUNTIMES, check_installed
from elu_zoo.errors import UserError
from elu_zoo.images import preprocessing_of
from elu_zoo.predictions import gives_logits, output_layer
from elu_zoo.records import class_names_of, record_of
from elu_zoo.reference import reference_images

SAVED_MODEL_DTYPES = ("float32", "bfloat16")

TOLERANCES = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.1, "int8": 0.1}
"""By how much a file's probabilities may differ from the model's on fixed images."""

ANY_SIZE = 64
"""Side in pixels of the fixed images for a model that takes any size."""


class Exported(NamedTuple):
    """A file that was written, loaded again and compared with its model.

    Attributes:
        path: The file, or the folder of a SavedModel.
        difference: Largest absolute difference of the probabilities on
            `elu_zoo.reference.reference_images`.
    """

    path: pathlib.Path
    difference: float


def export(
    model: keras.Model,
    path: str | os.PathLike,
    format: str = "saved_model",
    class_names: Iterable | None = None,
    *,
    dtype: str = "float32",
    top: int = 5,
    resize: int | None = None,
) -> Exported:
    """Writes a model for a runtime, with its preprocessing and its class names.

    The file is loaded again and compared with the model on fixed images; one that
    differs is not left behind.

    - `"saved_model"`, as `export_saved_model`: float32 or bfloat16;
    - `"onnx"`, a `.onnx` file for onnxruntime: float32 or float16;
    - `"openvino"`, a `.xml` file with a `.bin` beside it: float32 or float16;
    - `"litert"`, a `.tflite` file: float32, float16 or int8.

    All but the SavedModel take `image`, float32 `(n, height, width, channels)` with
    values from 0 to 255, and give `probabilities`, float32 `(n, classes)`. Their dtype
    is that of the weights in the file. float16 lets OpenVINO compute in what the
    processor has, and the others in float32; with int8 (weights by channel) LiteRT
    multiplies integers.

    Class names, and size and interpolation of the images, are JSON in `class_names` and
    `preprocessing`: of an ONNX file's metadata, of an OpenVINO file's runtime
    information under `elu_zoo`, and in `metadata.json` of the ZIP archive at the end of
    a LiteRT file.

    Args:
        model: Keras model that gives probabilities, or logits if its output layer has
            no activation: they get a softmax. Needs the TensorFlow backend.
        path: File to write, with the ending of its format; for a SavedModel the folder
            of its versions.
        format: `"saved_model"`, `"onnx"`, `"openvino"` or `"litert"`. All but the first
            need the package's extra `export`.
        class_names: Names of the classes in order; default those of the model's
            record, or their numbers.
        dtype: Precision, see the table.
        top: Number of classes in the answers of `serve_bytes`.
        resize: Side in pixels of the images, for models that take any size; default as
            the model's record says, or its input size.

    Returns:
        An `Exported`: path and difference.

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
    if resize or model.input_shape[1] or (record and record.preprocessing):
        how = {"interpolation": "bilinear"} | preprocessing_of(model, resize)
        metadata["preprocessing"] = json.dumps(how)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = pathlib.Path(tempfile.mkdtemp(prefix=".part.", dir=path.parent))
    try:
        module = _plain_module(_with_dtype(model, "float32"))
        runtime.write(module, part / path.name, dtype, metadata)
        run = runtime.load(part / path.name)
        difference = _difference(model, run, dtype, resize)
        _sync(part)
        # The .bin of an .xml comes first.
        for file in sorted(part.iterdir()):
            os.replace(file, path.parent / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(path, difference)


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    class_names: Iterable | None = None,
    *,
    top: int = 5,
    dtype: str = "float32",
    resize: int | None = None,
) -> pathlib.Path:
    """Writes a SavedModel for TensorFlow Serving and other servers.

    The signatures, both for any batch size, 0 included:

    - `serving_default`: `image`, float32 `(n, height, width, channels)`, values from 0
      to 255, gives `probabilities`, float32 `(n, classes)`.
    - `serve_bytes`: `image_bytes`, strings `(n,)`, each an encoded JPEG, PNG, WebP,
      GIF (first frame) or BMP image of any size, gray, RGB or RGBA, gives `classes`,
      strings `(n, top)`, `probabilities`, float32 `(n, top)`, the most probable first,
      and `valid`, bool `(n,)`. It is turned upright by its EXIF orientation, resized
      and cropped as in `elu_zoo.preprocess_input`, within the same limits of pixels and
      aspect ratio. Anything else has `valid` false, empty names and zeros; the rest of
      its batch is as without it. TIFF, AVIF, animated WebP and BMP with a palette are
      what `preprocess_input` reads and this does not.

    The weights are stored once. The graph has no op that only XLA can run.

    Args:
        model: Keras model that gives probabilities, or logits if its output layer has
            no activation: they get a softmax. Needs the TensorFlow backend.
        path: Folder of the served model. The SavedModel becomes its subfolder `1`, or
            the number after the highest one there, and appears as a whole.
        class_names: Names of the classes in order; default those of the model's
            record, or their numbers. Also written
            to `assets.extra/class_names.txt`.
        top: Number of classes in the answers of `serve_bytes`.
        dtype: `"float32"`, or `"bfloat16"` for weights and hidden layers of half the
            size. The model's own precision plays no part.
        resize: Side in pixels of the images for `serve_bytes`; default as the model's
            record says, or its input size.

    Returns:
        The `pathlib.Path` of the SavedModel.

    Raises:
        UserError: If the backend is not TensorFlow, an argument is not one of the
            values above, the class names do not fit, the model takes images of any size
            and neither its record nor `resize` says which, or the file differs from
            the model.

    Example:

    >>> import elu_zoo, tempfile
    >>> model = elu_zoo.ELUNet11(width=0.05, classes=2)
    >>> folder = tempfile.mkdtemp()
    >>> export_saved_model(model, folder, class_names=["cat", "dog"]).name
    '1'
    """
    return _export_saved_model(model, path, class_names, top, dtype, resize).path


def _export_saved_model(model, path, class_names, top, dtype, resize):
    class_names = _check(model, class_names, dtype, SAVED_MODEL_DTYPES)
    if top < 1:
        raise UserError(f"Expected top to be 1 or more. Received: top={top!r}")
    how = preprocessing_of(model, resize)
    import tensorflow as tf

    served = _with_dtype(model, dtype)
    module = _module(served, class_names, min(top, len(class_names)), how)
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    part = pathlib.Path(tempfile.mkdtemp(prefix=".part.", dir=path))
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
        part.chmod(0o755)
        _sync(part)
        target = path / str(_next_version(path))
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(target, difference)


def _check(model, class_names, dtype, dtypes):
    """Checks what all formats need; returns the class names."""
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            "Expected the TensorFlow backend, which exporting needs. Received: "
            f"backend={keras.backend.backend()!r}. Save the model, and load and export "
            "it with KERAS_BACKEND=tensorflow."
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
            "Expected a model in floating point. Received: a quantized model, with "
            f"{quantized[0]} in integers. Export the model from before `quantize`; "
            "format='litert' with dtype='int8' has weights of 8 bits."
        )
    classes = model.output_shape[-1]
    names = class_names_of(model) if class_names is None else class_names
    names = [str(name) for name in names]
    if len(names) != classes:
        raise UserError(
            f"Expected {classes} class names, one for each output of the model. "
            f"Received: {len(names)}"
        )
    return names


def _quantized_layers(model):
    return [
        layer.name
        for layer in model._flatten_layers()
        if getattr(layer.dtype_policy, "quantization_mode", None)
    ]


def _difference(model, run, dtype, resize):
    """Compares a written file with the model on fixed images."""
    height, width, channels = model.input_shape[1:]
    shape = height or resize or ANY_SIZE, width or resize or ANY_SIZE, channels
    images = reference_images(shape, 8).astype("float32")
    if model.compute_dtype != "float32":
        model = _with_dtype(model, "float32")
    expected = np.asarray(_probabilities(model)(images))
    difference = float(np.abs(run(images) - expected).max())
    if not difference <= TOLERANCES[dtype]:
        raise UserError(
            f"Expected probabilities within {TOLERANCES[dtype]} of the model's on "
            f"fixed images. Received: a file that differs by {difference:.2g}, which "
            "was removed"
        )
    return difference


def _run_saved_model(path, images):
    import tensorflow as tf

    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return signature(image=tf.constant(images))["probabilities"].numpy()


def _probabilities(model):
    """The model as a function that ends in calibrated probabilities in float32."""
    import tensorflow as tf

    logits, record = gives_logits(model), record_of(model)
    temperature = record.temperature if record else 1.0

    def probabilities(images):
        outputs = tf.cast(model(images, training=False), tf.float32)
        if not logits and temperature == 1:
            return outputs
        scores = outputs if logits else tf.math.log(outputs)
        return tf.nn.softmax(scores / temperature)

    return probabilities


def _plain_module(model):
    """The network alone, for runtimes without TensorFlow's ops."""
    import tensorflow as tf

    probabilities = _probabilities(model)
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.probabilities = tf.function(
        lambda image: {"probabilities": probabilities(image)},
        input_signature=[
            tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="image")
        ],
        autograph=False,
    )
    return module


def _module(model, class_names, top, preprocessing):
    import tensorflow as tf

    channels = model.input_shape[-1]
    names = tf.constant(class_names)
    probabilities = _probabilities(model)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="image")
        ],
        autograph=False,
    )
    def serving_default(image):
        count = tf.shape(image)[0]
        # oneDNN's convolutions do not survive an empty batch.
        missing = tf.cast(count == 0, tf.int32)
        image = tf.pad(image, [[0, missing], [0, 0], [0, 0], [0, 0]])
        return {"probabilities": probabilities(image)[:count]}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
        autograph=False,
    )
    def serve_bytes(image_bytes):
        count = tf.shape(image_bytes)[0]
        images, valid = decode(image_bytes, channels, **preprocessing)
        images, valid = images[: tf.maximum(count, 1)], valid[:count]
        scores, indices = tf.math.top_k(probabilities(images)[:count], top)
        return {
            "classes": tf.where(valid[:, None], tf.gather(names, indices), ""),
            "probabilities": tf.where(valid[:, None], scores, 0.0),
            "valid": valid,
        }

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.serving_default, module.serve_bytes = serving_default, serve_bytes
    return module


def _with_dtype(model, dtype):
    """The same network in another precision; its outputs stay in float32."""
    last = output_layer(model)

    def clone(layer):
        config = layer.get_config()
        output = layer is last or layer.name.startswith("predictions")
        config["dtype"] = "float32" if output else dtype
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights([np.asarray(value, "float32") for value in model.get_weights()])
    return copy


def _next_version(path):
    versions = [int(p.name) for p in path.iterdir() if p.name.isdecimal()]
    return max(versions, default=0) + 1


def _sync(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
