"""From pictures to a batch, and from probabilities to names."""

import numpy as np

from elu_zoo.weights import get_record, list_weights


def preprocess_input(x, weights="cifar100"):
    """Makes a batch of images of any sizes ready for pretrained weights.

    Resizes the shorter side and crops the center as the weights' record says. The values
    stay from 0 to 255: what else they need is a layer of the model.

    Args:
        x: An image or a list of images, or a batch as one array: NumPy arrays of shape
            `(height, width)`, `(height, width, channels)` or
            `(n, height, width, channels)` with 1 (gray), 3 (RGB) or 4 (RGBA) channels
            and values from 0 to 255, or PIL images. It is not changed.
        weights: Tag or name of published weights.

    Returns:
        A float32 array of shape `(n, side, side, channels)`, values from 0 to 255.

    Raises:
        ValueError: If there are no such weights, or an image has another shape or
            values that are not from 0 to 255.

    Example:

    >>> batch = preprocess_input(np.zeros((48, 64, 3), "uint8"))
    >>> batch.shape
    (1, 32, 32, 3)
    """
    record = _record(weights)
    how, channels = record["preprocessing"], record["input_shape"][-1]
    if hasattr(x, "convert") or (isinstance(x, np.ndarray) and x.ndim in (2, 3)):
        x = [x]
    images = [resize_and_crop(_as_image(image, channels), **how) for image in x]
    if not images:
        raise ValueError("Expected at least one image. Received: none")
    return np.stack(images)


def decode_predictions(preds, top=5, weights="cifar100", class_names=None):
    """The names of the most probable classes.

    Args:
        preds: Array of shape `(n, classes)`, the model's probabilities.
        top: Number of classes to return for each image.
        weights: Tag or name of the published weights whose classes these are.
        class_names: Names to use instead, one a class.

    Returns:
        A list with one list per image of tuples `(class number, class name, score)`, the
        most probable first.

    Raises:
        ValueError: If there are no such weights, or `preds` has another shape.

    Example:

    >>> decode_predictions(np.array([[0.1, 0.9]]), top=1, class_names=["cat", "dog"])
    [[(1, 'dog', 0.9)]]
    """
    preds = np.asarray(preds)
    if class_names is None:
        class_names = _record(weights)["class_names"]
    if preds.ndim != 2 or preds.shape[1] != len(class_names):
        raise ValueError(
            f"Expected preds of shape (n, {len(class_names)}), one column a class. "
            f"Received: preds with shape {preds.shape}"
        )
    if np.isnan(preds).any():
        raise ValueError("Expected numbers. Received: preds with NaN")
    return [
        [(int(i), class_names[i], float(row[i])) for i in np.argsort(-row)[:top]]
        for row in preds
    ]


def _record(weights):
    """The record of a name, or of the one published name with this tag."""
    names = list_weights()
    matching = [n for n in names if n == weights or n.split(".", 1)[1] == weights]
    if not matching:
        raise ValueError(
            f"Expected the tag or name of published weights, one of {names}. "
            f"Received: weights={weights!r}"
        )
    # Weights with one tag are for one data set: same classes, same preprocessing.
    return get_record(matching[0])


def _as_image(image, channels):
    from PIL import Image

    if hasattr(image, "convert"):
        return image.convert("L" if channels == 1 else "RGB")
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(
            "Expected images of shape (height, width), or (height, width, channels) with "
            f"1, 3 or 4 channels. Received: shape {np.shape(image)}"
        )
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 255):
        raise ValueError(
            "Expected values from 0 to 255. Received: "
            f"{array.min()} to {array.max()}"
        )
    if array.dtype.kind == "f" and 0 < array.max() <= 1:
        raise ValueError(
            "Expected values from 0 to 255. Received: an image whose values end at "
            f"{array.max()}; multiply by 255 if 1 stands for white."
        )
    image = Image.fromarray(np.rint(array).astype("uint8"))
    return image.convert("L" if channels == 1 else "RGB")


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
    if size != list(image.size):
        image = image.resize(size, Image.Resampling[interpolation.upper()])
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    array = np.asarray(image.crop((left, top, left + crop, top + crop)), "float32")
    return array if array.ndim == 3 else array[..., None]
