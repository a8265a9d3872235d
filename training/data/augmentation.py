"""Augmentations: random values drawn on the host, pixels changed on the device.

An augmentation draws for a whole global batch, from a generator that depends only on
seed and step: the values are the same on every backend and for any number of workers.
The pixels are then changed by `keras.ops`; the training step compiles that code, and
`augment_on_host` runs it on the CPU.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from elu_zoo.errors import UserError

# Consecutive images of a batch among which `mixup` and `cutmix` mix.
ROWS = 8


@dataclasses.dataclass(frozen=True)
class Context:
    """What draws may depend on besides the generator.

    Attributes:
        epoch: Number of the epoch, from 0.
        indices: int64 array of shape `(count,)`: position in the data set of each
            example of the global batch.
        shape: `(height, width, channels)` of the images before the augmentation.
        image_size: Side in pixels to train at.
    """

    epoch: int
    indices: np.ndarray
    shape: tuple[int, int, int]
    image_size: int


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The two halves of an augmentation.

    Attributes:
        draw: Called with a `numpy.random.Generator`, the number of examples of the
            global batch and a `Context`; returns a dict of arrays with one row per
            example.
        apply: Called with images, targets, the rows of these arrays that belong to the
            images, and the side in pixels to train at; returns images and targets.
        on_host: Whether `apply` needs NumPy arrays, and therefore the CPU.
    """

    draw: Callable[..., dict[str, np.ndarray]]
    apply: Callable[..., tuple[Any, Any]]
    on_host: bool = False


def draw_all(
    augmentation: Sequence[Any], rng: np.random.Generator, count: int, context: Context
) -> list[dict]:
    """Draws the random values of each augmentation.

    Args:
        augmentation: Augmentations and crops, in order.
        rng: Generator of the step.
        count: Number of examples in the global batch.
        context: Context of the first augmentation.

    Returns:
        A dict of arrays for each augmentation; each array has `count` rows.
    """
    draws = []
    for one in augmentation:
        draws.append(one.draw(rng, count, context))
        if hasattr(one, "crop_shape"):
            context = dataclasses.replace(context, shape=one.crop_shape(context))
    return draws


def augment(
    augmentation: Sequence[Any],
    images: Any,
    targets: Any,
    weights: Any,
    draws: Sequence[Mapping[str, Any]],
    size: int,
) -> tuple[Any, Any, Any]:
    """Applies augmentations in order.

    Args:
        augmentation: Augmentations and crops.
        images: Tensor of shape `(rows, height, width, channels)`, values 0 to 255.
        targets: float32 tensor of shape `(rows, classes)`.
        weights: Tensor of shape `(rows,)`, 0 or 1. An image that is mixed with one of
            weight 0 gets weight 0 too.
        draws: The rows of the result of `draw_all` that belong to the images.
        size: Side in pixels to train at.

    Returns:
        Images of shape `(rows, height, width, channels)`, targets and float32 weights.
    """
    # Mixed like a class, it marks the images that contain part of an unreadable one.
    unreadable = 1 - ops.cast(weights, "float32")
    labels = ops.concatenate([targets, unreadable[:, None]], -1)
    for one, drawn in zip(augmentation, draws, strict=True):
        images, labels = one.apply(images, labels, drawn, size)
    weights = ops.cast(ops.equal(labels[:, -1], 0), "float32")
    return images, labels[:, :-1], weights


def augment_on_host(
    augmentation: Sequence[Any], *arguments: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs `augment` on the CPU.

    Args:
        augmentation: Augmentations and crops.
        *arguments: The other arguments of `augment`, NumPy arrays.

    Returns:
        Images, targets and weights as NumPy arrays.
    """
    with keras.device("cpu"):
        results = augment(augmentation, *arguments)
        return tuple(ops.convert_to_numpy(x) for x in results)


def random_crop(padding: int, mode: str = "constant") -> Augmentation:
    """Pads all borders, then crops to the original size (paper, section 4.2).

    Args:
        padding: Pixels added at each border.
        mode: Mode of `numpy.pad`: `"constant"` for the paper's zeros, `"reflect"` or
            `"edge"`.

    Returns:
        An augmentation that crops at a random place.

    Raises:
        UserError: If there is no such mode.
    """
    if mode not in PADDING:
        raise UserError(
            f"Expected mode to be one of {list(PADDING)}. Received: mode={mode!r}"
        )

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        offsets = rng.integers(0, 2 * padding + 1, (count, 2))
        return {"offsets": (offsets - padding).astype("int32")}

    def apply(
        images: Any, labels: Any, draws: dict[str, Any], size: int
    ) -> tuple[Any, Any]:
        offsets, (height, width) = draws["offsets"], images.shape[1:3]
        rows = offsets[:, 0, None] + ops.arange(height, dtype="int32")
        columns = offsets[:, 1, None] + ops.arange(width, dtype="int32")
        out = _pixels(
            images,
            PADDING[mode](rows, height)[:, :, None],
            PADDING[mode](columns, width)[:, None, :],
        )
        if mode == "constant":
            inside = _inside(rows[:, :, None], columns[:, None, :], images)
            out = _where(inside, out, ops.zeros_like(out))
        return out, labels

    return Augmentation(draw, apply)


def _reflected(index: Any, length: int) -> Any:
    return length - 1 - ops.absolute(length - 1 - ops.absolute(index))


def _clipped(index: Any, length: int) -> Any:
    return ops.clip(index, 0, length - 1)


# The pixel that stands in for one outside the image.
PADDING = {"constant": _clipped, "edge": _clipped, "reflect": _reflected}


def random_flip() -> Augmentation:
    """Mirrors each image left to right with probability 1/2 (paper, section 4.2).

    Returns:
        An augmentation.
    """

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        return {"flip": rng.random(count) < 0.5}

    return Augmentation(draw, _flip)


def alternating_flip() -> Augmentation:
    """Mirrors each image in every other epoch, and half of the images in each epoch.

    Any two consecutive epochs show each image both ways, whereas random flips often
    repeat one (Jordan, 2024, "94% on CIFAR-10 in 3.29 seconds").

    Returns:
        An augmentation.
    """

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        # A fixed random bit per example: the highest of a multiplicative hash.
        hashed = context.indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = (hashed >> np.uint64(63)).astype(np.int64)
        return {"flip": (bits + context.epoch) % 2 == 1}

    return Augmentation(draw, _flip)


def _flip(
    images: Any, labels: Any, draws: dict[str, Any], size: int
) -> tuple[Any, Any]:
    return _where(draws["flip"][:, None, None], ops.flip(images, 2), images), labels


def cutout(share: float = 0.5, fill: float = 0.0) -> Augmentation:
    """Blanks a square around a random pixel (DeVries & Taylor, 2017).

    Args:
        share: Side of the square as a share of the image's shorter side. What lies
            beyond the border is cut off.
        fill: Value of the blank pixels, from 0 to 255.

    Returns:
        An augmentation.
    """

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        side = round(share * min(context.shape[:2]))
        return {"boxes": _boxes(rng, count, context.shape, side, side)}

    return Augmentation(draw, functools.partial(_erase, fill=fill))


def random_erasing(
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    fill: float = 0.0,
) -> Augmentation:
    """Blanks a rectangle of random area, aspect ratio and place (Zhong et al., 2017).

    Args:
        probability: Share of the images that get a rectangle.
        area: Smallest and largest share of the image's area, before what lies beyond
            the border is cut off.
        ratio: Smallest and largest height / width, uniform in its logarithm.
        fill: Value of the blank pixels, from 0 to 255.

    Returns:
        An augmentation.
    """

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        height, width, _ = context.shape
        chosen = rng.random(count) < probability
        pixels = rng.uniform(*area, count) * height * width * chosen
        low, high = np.log(ratio)
        ratios = np.exp(rng.uniform(low, high, count))
        sides = np.rint(np.sqrt(pixels * ratios)), np.rint(np.sqrt(pixels / ratios))
        return {"boxes": _boxes(rng, count, context.shape, *sides)}

    return Augmentation(draw, functools.partial(_erase, fill=fill))


def mixup(alpha: float = 0.2, probability: float = 1.0) -> Augmentation:
    """Blends each image and its target with another's (Zhang et al., 2018).

    The other image is the next in its group of `ROWS` consecutive images; the order of
    a batch is random already. The images become float32.

    Args:
        alpha: The weight of the image is drawn from Beta(alpha, alpha).
        probability: Share of the images that are mixed.

    Returns:
        An augmentation.
    """

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        kept = rng.beta(alpha, alpha, count)
        chosen = rng.random(count) < probability
        return {"share": np.where(chosen, 1 - kept, 0.0).astype("float32")}

    def apply(
        images: Any, labels: Any, draws: dict[str, Any], size: int
    ) -> tuple[Any, Any]:
        images, share = ops.cast(images, "float32"), draws["share"]
        return (
            _blend(images, _neighbours(images), share[:, None, None, None]),
            _blend(labels, _neighbours(labels), share[:, None]),
        )

    return Augmentation(draw, apply)


def cutmix(alpha: float = 1.0, probability: float = 1.0) -> Augmentation:
    """Pastes a rectangle of another image into each (Yun et al., 2019).

    The other image is chosen as in `mixup`. The targets are mixed by the share of
    pixels.

    Args:
        alpha: The share of the image that stays, before what lies beyond the border is
            cut off, is drawn from Beta(alpha, alpha).
        probability: Share of the images that get a rectangle.

    Returns:
        An augmentation.
    """

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        height, width, _ = context.shape
        side = np.sqrt(1 - rng.beta(alpha, alpha, count))
        side *= rng.random(count) < probability
        sides = np.rint(side * height), np.rint(side * width)
        boxes = _boxes(rng, count, context.shape, *sides)
        pixels = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        share = (pixels / (height * width)).astype("float32")
        return {"boxes": boxes, "share": share}

    def apply(
        images: Any, labels: Any, draws: dict[str, Any], size: int
    ) -> tuple[Any, Any]:
        pasted = _in_box(images, draws["boxes"])
        return (
            _where(pasted, _neighbours(images), images),
            _blend(labels, _neighbours(labels), draws["share"][:, None]),
        )

    return Augmentation(draw, apply)


def _boxes(
    rng: np.random.Generator,
    count: int,
    shape: tuple[int, int, int],
    height: Any,
    width: Any,
) -> np.ndarray:
    """Rectangles around random pixels: `(top, left, bottom, right)`, cut at borders."""
    sides = np.broadcast_to(np.stack([height, width], -1), (count, 2))
    place = np.floor(rng.random((count, 2)) * shape[:2])
    start = place - sides // 2
    corners = np.concatenate([start, start + sides], -1)
    return np.clip(corners, 0, np.tile(shape[:2], 2)).astype("int32")


def _in_box(images: Any, boxes: Any) -> Any:
    """Whether each pixel is inside its image's rectangle."""
    rows = ops.arange(images.shape[1], dtype="int32")[None, :, None]
    columns = ops.arange(images.shape[2], dtype="int32")[None, None, :]
    top, left, bottom, right = (boxes[:, i, None, None] for i in range(4))
    vertical = ops.logical_and(rows >= top, rows < bottom)
    return ops.logical_and(vertical, ops.logical_and(columns >= left, columns < right))


def _erase(
    images: Any, labels: Any, draws: dict[str, Any], size: int, fill: float
) -> tuple[Any, Any]:
    blank = ops.convert_to_tensor(fill, images.dtype)
    return _where(_in_box(images, draws["boxes"]), blank, images), labels


def _blend(one: Any, other: Any, share: Any) -> Any:
    # Exact where the share is 0: nothing of the other image may remain.
    return one * (1 - share) + other * share


def _neighbours(x: Any) -> Any:
    """The next row for each row, within groups of `ROWS`."""
    _check_rows(x, ROWS)
    groups = ops.reshape(x, (x.shape[0] // ROWS, ROWS, *x.shape[1:]))
    return ops.reshape(ops.roll(groups, -1, axis=1), x.shape)


def _check_rows(x: Any, rows: int) -> None:
    if x.shape[0] % rows:
        raise UserError(
            "Expected each device's share of the batch to be a multiple of the "
            f"{rows} rows that are augmented together. Received: {x.shape[0]} rows. "
            "Change the batch size or the number of devices."
        )


def _where(chosen: Any, images: Any, others: Any) -> Any:
    """`ops.where` for pixels; `chosen` has no channel axis."""
    return ops.where(ops.expand_dims(chosen, -1), images, others)


def _inside(rows: Any, columns: Any, images: Any) -> Any:
    height, width = images.shape[1:3]
    vertical = ops.logical_and(rows >= 0, rows < height)
    return ops.logical_and(vertical, ops.logical_and(columns >= 0, columns < width))


def _pixels(images: Any, rows: Any, columns: Any) -> Any:
    """The pixels of each image at rows and columns that are all inside it."""
    count, height, width, channels = images.shape
    first = height * width * ops.arange(count, dtype="int32")[:, None, None]
    places = first + width * rows + columns
    return ops.take(ops.reshape(images, (-1, channels)), places, axis=0)


def keras_layer(
    layer: Callable[..., keras.Layer], rows: int = ROWS, **arguments: Any
) -> Augmentation:
    """Wraps a preprocessing layer of Keras, such as `RandAugment` or `AugMix`.

        augmentation=[
            RandomResizedCrop(),
            random_flip(),
            keras_layer(keras.layers.RandAugment),
            mixup(alpha=0.2),
        ]

    The layer is called on a few rows of the batch at a time, each time with seeds of
    its own, so that the values do not depend on the number of workers. Layers that mix
    images do so among these rows; their order is random already. The same seed gives
    different values on TensorFlow and on JAX. The images become float32.

    The layer runs on the host, as do the augmentations listed before it, so the images
    travel to the device with every batch.

    Args:
        layer: Class of `keras.layers`, or a function that makes a layer. It is called
            at the first batch, since a recipe must not touch the devices before.
        rows: Rows of the global batch per call.
        **arguments: Arguments of the layer.

    Returns:
        An augmentation. It raises a `UserError` if a worker's share of the batch is not
        a multiple of `rows`.
    """
    prepare = _Prepared(layer, arguments)

    def draw(
        rng: np.random.Generator, count: int, context: Context
    ) -> dict[str, np.ndarray]:
        _, states = prepare(context.shape)
        return {"seeds": rng.integers(0, 2**31, (count, states, 2))}

    def apply(
        images: Any, labels: Any, draws: dict[str, Any], size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        images, labels = map(ops.convert_to_numpy, (images, labels))
        _check_rows(images, rows)
        call, _ = prepare(images.shape[1:])
        groups = [
            call(draws["seeds"][i], images[i : i + rows], labels[i : i + rows])
            for i in range(0, len(labels), rows)
        ]
        images, labels = map(np.concatenate, zip(*groups, strict=True))
        return images, labels

    return Augmentation(draw, apply, on_host=True)


class _Prepared:
    """A layer that is made once, by the first of the threads that make batches.

    What it has made is private, so that it is no part of a recipe's description.
    """

    def __init__(
        self, layer: Callable[..., keras.Layer], arguments: Mapping[str, Any]
    ) -> None:
        self.layer, self.arguments = layer, arguments
        self._made: tuple[Callable[..., Any], int] | None = None
        self._lock = threading.Lock()

    def __call__(self, shape: tuple[int, ...]) -> tuple[Callable[..., Any], int]:
        """The compiled function and the number of its seeds, see `_stateless`."""
        with self._lock:
            if self._made is None:
                made = self.layer(dtype="float32", **self.arguments)
                self._made = _stateless(made, shape)
            return self._made


def _stateless(
    layer: keras.Layer, shape: tuple[int, ...]
) -> tuple[Callable[..., Any], int]:
    """A compiled function of a layer's seeds and inputs, and the number of seeds."""
    with keras.device("cpu"):  # Builds it.
        sample = {"images": np.zeros((2, *shape), "uint8"), "labels": np.eye(2)}
        layer(keras.tree.map_structure(ops.convert_to_tensor, sample), training=True)
    states = layer.non_trainable_variables
    dtype = states[0].dtype if states else "int32"

    def call(seeds: Any, images: Any, labels: Any) -> dict[str, Any]:
        data, seeds = {"images": images, "labels": labels}, ops.unstack(seeds)
        return layer.stateless_call([], seeds, data, training=True)[0]

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(call, autograph=False)
    else:
        import jax

        compiled = jax.jit(call)

    def on_cpu(seeds: np.ndarray, images: Any, labels: Any) -> tuple[np.ndarray, ...]:
        with keras.device("cpu"):
            seeds = ops.convert_to_tensor(seeds, dtype)
            inputs = map(ops.convert_to_tensor, (images, labels))
            out = compiled(seeds, *inputs)
            return tuple(ops.convert_to_numpy(out[x]) for x in ("images", "labels"))

    return on_cpu, len(states)
