"""Heat maps: which parts of an image are evidence for a class."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from elu_zoo._inspection import (
    all_layers,
    logits_of,
    pullback,
    replaced,
    tapped,
    to_numpy,
)
from elu_zoo.errors import UserError
from elu_zoo.feature_extraction import find_trunk, stack_layers

GRAY = 127.5
"""Value, from 0 to 255, of pixels that show nothing."""

MIN_SIDE = 4
"""Smallest side of the feature maps that `grad_cam` chooses by default."""


def grad_cam(
    model: keras.Model,
    images: npt.ArrayLike,
    classes: Sequence[int] | np.ndarray | None = None,
    stack: str | None = None,
) -> np.ndarray:
    """Shows where a network finds a class in an image, by its feature maps.

    Grad-CAM (Selvaraju et al., 2017): weights each map of a stack by the mean gradient
    of the class's logit with respect to it, adds them up, sets negative values to 0 and
    resizes the sum to the image, bilinearly. The deep maps of a CIFAR network are so
    small that `occlusion` locates objects more reliably.

    Args:
        model: Any Keras image model with feature maps, whose last layer has an
            activation or gives logits.
        images: Array of shape `(n, height, width, channels)`, as the model takes it.
        classes: One class number per image; default the most probable one.
        stack: Name of the stack, such as `"stack3"`, or of a layer if the model is not
            of this package. Default: the deepest one whose map is at least 4×4, or, if
            there is none, the one with the largest map.

    Returns:
        A float32 array of shape `(n, height, width)`, values of 0 or more.

    Raises:
        UserError: If images, classes or stack do not fit the model.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(width=0.05)
    >>> grad_cam(model, np.zeros((2, 32, 32, 3))).shape
    (2, 32, 32)
    """
    images, classes = _checked(model, images, classes)
    places = _places(model)
    if stack is not None and stack not in places:
        raise UserError(
            f"Expected stack to be one of {list(places)}. Received: stack={stack!r}"
        )
    layer = places[stack or _deepest_map(model, places, images)]
    seen: dict[str, Any] = {}

    def logits(shift: Any) -> Any:
        def tap(inputs: Any, function: Callable[[Any], Any]) -> Any:
            seen["maps"] = function(inputs)
            return seen["maps"] + shift

        with tapped(layer, tap):
            return _logits(model, images)

    logits(0)
    maps = seen["maps"]
    if len(maps.shape) != 4:
        raise UserError(
            f"Expected a stack of feature maps. Received: stack={stack!r}, whose "
            f"output has shape {tuple(maps.shape)}"
        )
    gradient = _gradient(logits, keras.ops.zeros_like(maps), classes)
    weights = gradient.mean((1, 2), keepdims=True)
    heat = np.maximum((to_numpy(maps) * weights).sum(-1, keepdims=True), 0)
    heat = keras.ops.image.resize(
        heat.astype("float32"), images.shape[1:3], data_format="channels_last"
    )
    return to_numpy(heat, "float32")[..., 0]


def integrated_gradients(
    model: keras.Model,
    images: npt.ArrayLike,
    classes: Sequence[int] | np.ndarray | None = None,
    baseline: float | np.ndarray = GRAY,
    steps: int = 32,
) -> np.ndarray:
    """Computes how much each value of an image adds to the logit of a class.

    Integrated gradients (Sundararajan et al., 2017): the difference from a baseline
    image, times the mean gradient along the straight line between the two. The values
    of the result add up to the difference of the two logits, more exactly the more
    steps there are.

    Args:
        model: Any Keras image model whose last layer has an activation or gives logits.
        images: Array of shape `(n, height, width, channels)`, as the model takes it.
        classes: One class number per image; default the most probable one.
        baseline: An image that shows nothing, or the value of all its pixels.
        steps: Number of points on the line, placed by Gauss-Legendre quadrature.

    Returns:
        A float32 array of the shape of `images`.

    Raises:
        UserError: If images and classes do not fit the model.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(width=0.05)
    >>> integrated_gradients(model, np.zeros((1, 32, 32, 3)), steps=2).shape
    (1, 32, 32, 3)
    """
    images, classes = _checked(model, images, classes)
    base = np.broadcast_to(np.asarray(baseline, images.dtype), images.shape)
    points, weights = np.polynomial.legendre.leggauss(steps)
    total = 0.0
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        x = (base + point * (images - base)).astype(images.dtype)
        x = keras.ops.convert_to_tensor(x)
        total += weight * _gradient(functools.partial(_logits, model), x, classes)
    return ((images - base) * total).astype("float32")


def occlusion(
    model: keras.Model,
    images: npt.ArrayLike,
    classes: Sequence[int] | np.ndarray | None = None,
    size: int | None = None,
    stride: int | None = None,
    fill: float = GRAY,
) -> np.ndarray:
    """Measures how much the logit of a class falls when part of an image is covered.

    Zeiler and Fergus (2014). The covered squares may extend beyond the border, so that
    the same number of them covers every pixel if the stride divides the size.

    Args:
        model: Any Keras image model whose last layer has an activation or gives logits.
        images: Array of shape `(n, height, width, channels)`, as the model takes it.
        classes: One class number per image; default the most probable one.
        size: Side of the square in pixels; default a quarter of the image's height.
        stride: Pixels from one square to the next, at most `size`; default half of it.
        fill: Value of covered pixels.

    Returns:
        A float32 array of shape `(n, height, width)`: for each pixel, the mean fall of
        the logit over the squares that cover it. Negative where covering helps.

    Raises:
        UserError: If images and classes do not fit the model, or `stride` is too large.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(width=0.05)
    >>> occlusion(model, np.zeros((1, 32, 32, 3)), size=16, stride=16).shape
    (1, 32, 32)
    """
    images, classes = _checked(model, images, classes)
    height, width = images.shape[1:3]
    size = size or max(1, height // 4)
    stride = stride or max(1, size // 2)
    if stride > size:
        raise UserError(
            "Expected stride to be at most size, so that every pixel is covered. "
            f"Received: size={size}, stride={stride}"
        )
    whole = _scores(model, images, classes)
    falls = np.zeros(images.shape[:3])
    counts = np.zeros((height, width))
    for top in range(stride - size, height, stride):
        for left in range(stride - size, width, stride):
            rows = slice(max(top, 0), top + size)
            columns = slice(max(left, 0), left + size)
            covered = images.copy()
            covered[:, rows, columns] = fill
            fall = whole - _scores(model, covered, classes)
            falls[:, rows, columns] += fall[:, None, None]
            counts[rows, columns] += 1
    return (falls / counts).astype("float32")


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "occlusion": occlusion,
    "integrated-gradients": integrated_gradients,
    "grad-cam": grad_cam,
}
"""The functions of this module that explain a class, by the names of their methods."""


def heat_map(
    model: keras.Model,
    images: npt.ArrayLike,
    classes: Sequence[int] | np.ndarray | None = None,
    method: str = "occlusion",
    **settings: Any,
) -> np.ndarray:
    """Maps the evidence for a class in an image, by one of this module's methods.

    Args:
        model: Any Keras image model that the method can take.
        images: Array of shape `(n, height, width, channels)`, as the model takes it.
        classes: One class number per image; default the most probable one.
        method: One of `METHODS`.
        **settings: Further arguments of the method's function.

    Returns:
        A float32 array of shape `(n, height, width)` with values from 0 to 1, where
        1 is the largest of each image; all 0 if nothing is evidence for the class.

    Raises:
        UserError: If there is no such method, or an argument does not fit the model.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(width=0.05)
    >>> heat_map(model, np.zeros((1, 32, 32, 3)), method="occlusion", size=16).shape
    (1, 32, 32)
    """
    check_method(method)
    heat = METHODS[method](model, images, classes, **settings)
    if heat.ndim == 4:
        heat = heat.sum(-1)
    heat = np.maximum(heat, 0)
    largest = heat.max((1, 2), keepdims=True)
    return heat / np.where(largest > 0, largest, 1)


def check_method(method: str) -> None:
    """Checks the name of a method.

    Args:
        method: Name to look for in `METHODS`.

    Raises:
        UserError: If there is no such method.

    Example:

    >>> check_method("occlusion")
    """
    if method not in METHODS:
        raise UserError(
            f"Expected method to be one of {list(METHODS)}. Received: method={method!r}"
        )


def deletion_curve(
    model: keras.Model,
    images: npt.ArrayLike,
    heat: np.ndarray,
    classes: Sequence[int] | np.ndarray | None = None,
    steps: int = 16,
    fill: float = GRAY,
) -> np.ndarray:
    """Measures the logit of a class as pixels are covered, the hottest first.

    The faster it falls, the better the heat map shows what the network looks at
    (Petsiuk et al., 2018).

    Args:
        model: Any Keras image model whose last layer has an activation or gives logits.
        images: Array of shape `(n, height, width, channels)`, as the model takes it.
        heat: Array of shape `(n, height, width)`.
        classes: One class number per image; default the most probable one.
        steps: Number of equal shares of the pixels to cover, one after the other.
        fill: Value of covered pixels.

    Returns:
        A float64 array of shape `(n, steps + 1)`: the logit with nothing covered comes
        first, with everything covered last.

    Raises:
        UserError: If images and classes do not fit the model.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(width=0.05)
    >>> images = np.zeros((1, 32, 32, 3))
    >>> deletion_curve(model, images, images[..., 0], steps=2).shape
    (1, 3)
    """
    images, classes = _checked(model, images, classes)
    n, pixels = len(images), heat[0].size
    order = np.argsort(-heat.reshape(n, -1), axis=1, kind="stable")
    rank = np.argsort(order, axis=1).reshape(heat.shape)
    curve = []
    for step in range(steps + 1):
        covered = np.where(rank[..., None] < pixels * step / steps, fill, images)
        curve.append(_scores(model, covered.astype(images.dtype), classes))
    return np.stack(curve, axis=1)


def _checked(
    model: keras.Model,
    images: npt.ArrayLike,
    classes: Sequence[int] | np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The images in float32, or float64 if the model is, and a class for each."""
    images = np.asarray(images)
    if images.ndim != 4 or len(images) == 0:
        raise UserError(
            "Expected at least one image, in an array of shape (n, height, width, "
            f"channels). Received: images of shape {images.shape}"
        )
    images = images.astype("float64" if _is_double(model) else "float32")
    if classes is None:
        return images, to_numpy(_logits(model, images)).argmax(-1)
    classes = np.asarray(classes)
    # A subclassed model does not know the shape of its output.
    outputs = _logits(model, images[:1]).shape[-1]
    valid = classes.shape == (len(images),) and classes.dtype.kind in "iu"
    if not valid or classes.min() < 0 or classes.max() >= outputs:
        raise UserError(
            f"Expected classes to be {len(images)} class numbers from 0 to "
            f"{outputs - 1}, one per image. Received: classes={classes.tolist()!r}"
        )
    return images, classes


def _is_double(model: keras.Model) -> bool:
    return model.compute_dtype == "float64"


def _logits(model: keras.Model, images: Any) -> Any:
    with logits_of(model):
        return model(images, training=False)


def _scores(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return to_numpy(_logits(model, images))[np.arange(len(classes)), classes]


def _gradient(logits: Callable[[Any], Any], x: Any, classes: np.ndarray) -> np.ndarray:
    """The gradient of the logit of each image's class with respect to `x`, float64."""
    z, back = pullback(logits, x)
    own = np.eye(z.shape[-1])[classes]
    return to_numpy(back(keras.ops.convert_to_tensor(own, z.dtype)))


def _places(model: keras.Model) -> dict[str, keras.Layer]:
    """The last layer of each stack; if the model has no stacks, each layer."""
    with contextlib.suppress(UserError):
        stacks = stack_layers(find_trunk(model))
        return {stack: layers[-1] for stack, layers in stacks.items()}
    return {layer.name: layer for layer in all_layers(model)}


def _deepest_map(
    model: keras.Model, places: Mapping[str, keras.Layer], images: np.ndarray
) -> str:
    """The name of the place whose output `grad_cam` takes by default."""
    sides = {
        name: min(shape[1:3])
        for name, shape in _output_shapes(model, places, images).items()
        if len(shape) == 4
    }
    if not sides:
        raise UserError(
            f"Expected a model with feature maps. Received: {model!r}. Use a different "
            "method than Grad-CAM."
        )
    large = [name for name, side in sides.items() if side >= MIN_SIDE]
    return large[-1] if large else max(sides, key=lambda name: sides[name])


def _output_shapes(
    model: keras.Model, places: Mapping[str, keras.Layer], images: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs of the layers that the model calls, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            shapes[name] = tuple(getattr(outputs, "shape", ()))
            return outputs

        return noting

    with contextlib.ExitStack() as stack:
        for name, layer in places.items():
            stack.enter_context(replaced(layer, "call", noted(name, layer.call)))
        _logits(model, images[:1])
    return shapes
