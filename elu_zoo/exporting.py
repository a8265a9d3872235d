"""SavedModels that take image bytes and need neither Keras nor this package."""

import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np

from elu_zoo._graph_images import decode
from elu_zoo.images import image_side
from elu_zoo.predictions import gives_logits, output_layer


def export_saved_model(
    model, path, class_names=None, *, top=5, dtype="float32", resize=None
):
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
        class_names: Names of the classes in order; default their numbers. Also written
            to `assets.extra/class_names.txt`.
        top: Number of classes in the answers of `serve_bytes`.
        dtype: `"float32"`, or `"bfloat16"` for weights and hidden layers of half the
            size. The model's own precision plays no part.
        resize: Side in pixels of the images for `serve_bytes`; default the model's
            input size.

    Returns:
        The `pathlib.Path` of the SavedModel.

    Raises:
        ValueError: If the backend is not TensorFlow, an argument is not one of the
            values above, the class names do not fit, or the model takes images of any
            size and `resize` is missing.

    Example:

    >>> import elu_zoo, tempfile
    >>> model = elu_zoo.ELUNet11(width=0.05, classes=2)
    >>> folder = tempfile.mkdtemp()
    >>> export_saved_model(model, folder, class_names=["cat", "dog"]).name
    '1'
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend, which SavedModels need. Received: "
            f"backend={keras.backend.backend()!r}. Save the model, and load and export "
            "it with KERAS_BACKEND=tensorflow."
        )
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"Expected dtype to be 'float32' or 'bfloat16'. Received: dtype={dtype!r}"
        )
    if top < 1:
        raise ValueError(f"Expected top to be 1 or more. Received: top={top!r}")
    if not isinstance(model.output_shape, tuple) or len(model.output_shape) != 2:
        raise ValueError(
            "Expected a model with one output of shape (n, classes). Received: a model "
            f"with output_shape={model.output_shape}"
        )
    classes = model.output_shape[-1]
    class_names = [
        str(name) for name in (range(classes) if class_names is None else class_names)
    ]
    if len(class_names) != classes:
        raise ValueError(
            f"Expected {classes} class names, one for each output of the model. "
            f"Received: {len(class_names)}"
        )
    side = image_side(model, resize)
    import tensorflow as tf

    served = _with_dtype(model, dtype)
    module = _module(served, class_names, min(top, classes), side)
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
        part.chmod(0o755)
        _sync(part)
        target = path / str(_next_version(path))
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _module(model, class_names, top, side):
    import tensorflow as tf

    channels = model.input_shape[-1]
    names = tf.constant(class_names)
    logits = gives_logits(model)

    def probabilities(images):
        outputs = tf.cast(model(images, training=False), tf.float32)
        return tf.nn.softmax(outputs) if logits else outputs

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
        images, valid = decode(image_bytes, channels, side, side)
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
