"""From pictures to a batch, and from probabilities to names."""

import numpy as np

from elu_zoo.weights import get_record, list_weights


def preprocess_input(x, weights="cifar100"):
    """Makes a batch of images of any sizes ready for pretrained weights.

    Resizes the shorter side and crops the center as the weights' record says. The
    values stay from 0 to 255: what else they need is a layer of the model.

    Args:
        x: An image or a list of images, or a batch as one array: arrays of shape
            `(height, width)`, `(height, width, channels)` or
            `(n, height, width, channels)` with 1 (gray), 3 (RGB) or 4 (RGBA) channels
            and values from 0 to 255, which are rounded, or PIL images. It is not
            changed. The alpha channel is ignored.
        weights: Tag or name of published weights.

    Returns:
        A float32 array of shape `(n, side, side, channels)`, values from 0 to 255.

    Raises:
        ValueError: If there are no such weights, or if an image has another shape or
            other values.

    Example:

    >>> batch = preprocess_input(np.zeros((48, 64, 3), "uint8"))
    >>> batch.shape
    (1, 32, 32, 3)
    """
    how, input_shape = _of_weights(weights, "preprocessing", "input_shape")
    if _is_pil(x) or (not isinstance(x, list | tuple) and np.ndim(x) != 4):
        x = [x]
    images = [resize_and_crop(_as_pil(image, input_shape[-1]), **how) for image in x]
    if not images:
        raise ValueError("Expected at least one image. Received: none")
    return np.stack(images)


def decode_predictions(preds, top=5, weights="cifar100", class_names=None):
    """The names of the most probable classes.

    Args:
        preds: Array of shape `(n, classes)`, the model's probabilities.
        top: Number of classes to return for each image; of equally probable classes
            the first ones.
        weights: Tag or name of the published weights whose classes these are.
        class_names: Names to use instead, one a class.

    Returns:
        A list with one list per image of tuples `(class number, class name, score)`,
        the most probable first.

    Raises:
        ValueError: If there are no such weights, or if `preds` has another shape or is
            not a number somewhere.

    Example:

    >>> decode_predictions(np.array([[0.1, 0.9]]), top=1, class_names=["cat", "dog"])
    [[(1, 'dog', 0.9)]]
    """
    preds = np.asarray(preds, "float64")
    if class_names is None:
        (class_names,) = _of_weights(weights, "class_names")
    if preds.ndim != 2 or preds.shape[1] != len(class_names):
        raise ValueError(
            f"Expected preds of shape (n, {len(class_names)}), one column a class. "
            f"Received: preds with shape {preds.shape}"
        )
    if np.isnan(preds).any():
        raise ValueError("Expected numbers. Received: preds with NaN")
    if top < 1:
        raise ValueError(f"Expected top to be 1 or more. Received: top={top!r}")
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(int(i), class_names[i], float(row[i])) for i in order]
        for row, order in zip(preds, best, strict=True)
    ]


def _of_weights(weights, *fields):
    """Fields of the record of a name, or of the records with a tag if they agree."""
    names = list_weights()
    matching = [n for n in names if weights in (n, n.split(".", 1)[1])]
    if not matching:
        raise ValueError(
            f"Expected the tag or name of published weights, one of {names}. "
            f"Received: weights={weights!r}"
        )
    values = [[get_record(name)[field] for field in fields] for name in matching]
    if any(other != values[0] for other in values):
        raise ValueError(
            f"Expected one name of {matching}, whose {' and '.join(fields)} differ. "
            f"Received: weights={weights!r}"
        )
    return values[0]


def _is_pil(image):
    return hasattr(image, "convert")


def _as_pil(image, channels):
    from PIL import Image

    if _is_pil(image) and image.mode.startswith(("I", "F")):
        # PIL would cut off the values of deep images at 255.
        image = np.asarray(image)
    if not _is_pil(image):
        image = Image.fromarray(_as_uint8(np.asarray(image)))
    return image.convert("L" if channels == 1 else "RGB")


def _as_uint8(array):
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if (
        array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[-1] not in (3, 4))
        or 0 in array.shape
    ):
        raise ValueError(
            "Expected images of shape (height, width), or (height, width, channels) "
            f"with 1, 3 or 4 channels. Received: an image with shape {array.shape}"
        )
    if array.dtype.kind not in "uif":
        raise ValueError(
            f"Expected numbers from 0 to 255. Received: an image of {array.dtype}"
        )
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"Expected values from 0 to 255. Received: an image with {low} to {high}"
        )
    if array.dtype.kind == "f" and 0 < high <= 1:
        raise ValueError(
            f"Expected values from 0 to 255. Received: an image with {low} to {high}; "
            "multiply by 255 if 1 stands for white."
        )
    return np.rint(array).astype("uint8")


def image_side(model, resize=None):
    """Side in pixels of the square images that a model is to be given.

    Raises:
        ValueError: If it takes no square images, or any size and `resize` is missing.
    """
    height, width = model.input_shape[1:3]
    side = resize or height
    if side is None or (height, width) not in ((None, None), (side, side)):
        raise ValueError(
            "Expected square images: resize=SIDE for a model that takes any size, and "
            "for another model its own size. Received: "
            f"resize={resize!r}, model input {model.input_shape}"
        )
    return side


def output_layer(model):
    """The last layer of a model, or of the model that is its last layer."""
    while hasattr(model, "layers"):
        model = model.layers[-1]
    return model


def gives_logits(model):
    """Whether a model ends without an activation, so that softmax is still to come."""
    activation = getattr(output_layer(model), "activation", None)
    return getattr(activation, "__name__", None) == "linear"


def resize_and_crop(image, resize, crop, interpolation="bilinear"):
    """Resizes the shorter side of a PIL image and crops a square from its center.

    Args:
        image: PIL image of mode L or RGB.
        resize: Length of the shorter side in pixels.
        crop: Side of the square in pixels.
        interpolation: `"bilinear"`, `"bicubic"` or another name of PIL's; all of them
            average when they shrink.

    Returns:
        A float32 array of shape `(crop, crop, channels)`, values from 0 to 255.
    """
    from PIL import Image

    scale = resize / min(image.size)
    size = [max(resize, round(side * scale)) for side in image.size]
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    box = (left, top, left + crop, top + crop)
    how = Image.Resampling[interpolation.upper()]
    # In float, as an exported model does it: PIL rounds the pixels of other images.
    channels = [
        np.asarray(channel.convert("F").resize(size, how).crop(box))
        for channel in image.split()
    ]
    return np.clip(np.stack(channels, axis=-1), 0, 255)
