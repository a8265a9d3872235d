"""From pictures to a batch."""

import pathlib
import warnings

import numpy as np

from elu_zoo.predictions import of_weights


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
    how, input_shape = of_weights(weights, "preprocessing", "input_shape")
    if _is_pil(x) or (not isinstance(x, list | tuple) and np.ndim(x) != 4):
        x = [x]
    images = [resize_and_crop(_as_pil(image, input_shape[-1]), **how) for image in x]
    if not images:
        raise ValueError("Expected at least one image. Received: none")
    return np.stack(images)


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


def load_image_folder(folder, size=32, channels=3):
    """Loads images sorted into one folder a class.

    Files that cannot be read, or are no JPEG or PNG by their names, are left out, and
    folders without an image are no classes; warnings count and name them. What starts
    with a dot is passed over.

    Args:
        folder: Path of a folder with folders of JPEG or PNG files, `<class>/*.jpg`.
        size: Side in pixels. The shorter side is resized to it, the center cropped.
        channels: 3 for RGB, 1 for gray.

    Returns:
        `(images, labels, class_names)`: a uint8 array of shape
        `(n, size, size, channels)`, an integer array of shape `(n,)`, and a list of the
        folders' names in order.

    Raises:
        ValueError: If there are not at least two classes with images.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"Expected a folder of class folders. Received: {folder}")
    images, labels, class_names, unreadable, empty = [], [], [], [], []
    for path, files in class_folders(folder):
        count = len(images)
        for file in files:
            try:
                images.append(read_image(file, size, size, channels=channels))
            except ValueError:
                unreadable.append(file)
        if len(images) > count:
            labels += [len(class_names)] * (len(images) - count)
            class_names.append(path.name)
        else:
            empty.append(path)
    warn_left_out("Files that cannot be read as images", unreadable)
    warn_left_out("Folders without an image", empty)
    if len(class_names) < 2:
        raise ValueError(
            f"Expected {folder} to have at least two folders with JPEG or PNG files, "
            f"one a class. Received: {class_names or 'none'}"
        )
    return np.rint(images).astype("uint8"), np.array(labels), class_names


def read_image(file, resize, crop, interpolation="bilinear", channels=3):
    """Reads an image file and brings it to a size, as `elu_zoo.preprocess_input` does.

    Args:
        file: Path of a JPEG or PNG file, with 8 bits a channel.
        resize: Length of the shorter side in pixels.
        crop: Side in pixels of the square cropped from the center.
        interpolation: `"bilinear"` or another name of PIL's.
        channels: 3 for RGB, 1 for gray.

    Returns:
        A float32 array of shape `(crop, crop, channels)`, values from 0 to 255.

    Raises:
        ValueError: If the file cannot be read as such an image.
    """
    image = open_image(file, "L" if channels == 1 else "RGB")
    return resize_and_crop(image, resize, crop, interpolation)


def open_image(file, mode="RGB"):
    """Opens an image file.

    Args:
        file: Path of a JPEG or PNG file, with 8 bits a channel.
        mode: PIL's mode of the result, `"RGB"` or `"L"`.

    Returns:
        A PIL image.

    Raises:
        ValueError: If the file cannot be read as such an image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                # PIL would cut off their values at 255.
                raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Expected a JPEG or PNG image. Received: {file} ({error})"
        ) from error


def class_folders(folder):
    """The class folders of a folder and their JPEG and PNG files.

    Warns of other files in them. What starts with a dot is passed over.

    Args:
        folder: `pathlib.Path`.

    Returns:
        A list of `(path, files)`, all in the order of their names.
    """
    classes, others = [], []
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        if path.name[0] == ".":
            continue
        entries = sorted(f for f in path.iterdir() if f.name[0] != ".")
        files = []
        for entry in entries:
            image = entry.suffix.lower() in (".jpg", ".jpeg", ".png")
            (files if image else others).append(entry)
        classes.append((path, files))
    warn_left_out("What is no .jpg, .jpeg or .png file", others)
    return classes


def warn_left_out(what, paths):
    """Warns that paths are left out, if there are any."""
    if paths:
        warnings.warn(
            f"{what}: {len(paths)} left out. {', '.join(map(str, paths[:5]))}"
            + (", ..." if len(paths) > 5 else ""),
            stacklevel=3,
        )
