"""Augmentations, each a pure function of the batch and its `draw`.

An augmentation is called with a `training.data.batch.Batch` and returns one.
"""

import functools
import threading

import keras
import numpy as np
from keras import ops


def random_crop(padding, mode="constant"):
    """Pads all borders, then crops at random to the size before (paper, section 4.2).

    Args:
        padding: Pixels at each border.
        mode: Mode of `numpy.pad`: `"constant"` for the paper's zeros, `"reflect"`.

    Returns:
        An augmentation.
    """

    def augment(batch):
        images = batch.images
        count, height, width, channels = images.shape
        border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        padded = np.pad(images, border, mode=mode)
        offsets = batch.draw(lambda rng, n: rng.integers(0, 2 * padding + 1, (n, 2)))
        windows = np.lib.stride_tricks.sliding_window_view(
            padded, (height, width), axis=(1, 2)
        )
        crops = windows[np.arange(count), offsets[:, 0], offsets[:, 1]]
        return batch.replace(images=np.moveaxis(crops, 1, -1).copy())

    return augment


def random_flip():
    """Mirrors each image left to right with probability 1/2 (paper, section 4.2).

    Returns:
        An augmentation.
    """

    def augment(batch):
        return _flip(batch, batch.draw(lambda rng, n: rng.random(n)) < 0.5)

    return augment


def alternating_flip():
    """Mirrors each image in every other epoch, half of the images in each.

    Jordan (2024, "94% on CIFAR-10 in 3.29 seconds"): every two epochs show each image
    both ways, where random flips often repeat one.

    Returns:
        An augmentation.
    """

    def augment(batch):
        # A fixed random bit an example: the parity of a multiplicative hash.
        bits = (batch.indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> 63
        return _flip(batch, (bits.astype(np.int64) + batch.epoch) % 2 == 1)

    return augment


def keras_layer(layer, rows=8, **arguments):
    """A preprocessing layer of Keras, such as `MixUp`, `CutMix` or `RandomErasing`.

        augmentation=[
            RandomResizedCrop(),
            random_flip(),
            keras_layer(keras.layers.RandomErasing, factor=(0.25, 0.25)),
            keras_layer(keras.layers.MixUp, alpha=0.2),
        ]

    The layer is called on a few rows of the batch at a time, each time with seeds of
    its own, so that workers get the same values as one alone. Layers that mix images do
    so among these rows; their order is random already. TensorFlow and JAX give a layer
    other values from the same seed. The images become float32.

    Args:
        layer: Class of `keras.layers`, or a function that makes a layer. It is called
            at the first batch: before, a recipe must not touch the devices.
        rows: Rows of the global batch that one call gets.
        **arguments: Arguments of the layer.

    Returns:
        An augmentation. It raises a ValueError if a worker's share of the batch is not
        a multiple of `rows`.
    """
    prepared = []  # Once, by the first of the threads that make batches.
    lock = threading.Lock()

    def augment(batch):
        _check_whole(batch, rows)
        # Mixed like a class, it tells which images have to do with an unreadable one.
        unreadable = 1 - batch.weights[:, None]
        labels = np.concatenate([batch.targets, unreadable], -1)
        with lock:
            if not prepared:
                made = layer(dtype="float32", **arguments)
                prepared.append(_stateless(made, batch.images, labels))
        call, states = prepared[0]
        seeds = batch.draw(lambda rng, n: rng.integers(0, 2**31, (n, states, 2)))
        starts = range(0, len(labels), rows)
        images, labels = zip(
            *[
                call(seeds[i], batch.images[i : i + rows], labels[i : i + rows])
                for i in starts
            ],
            strict=True,
        )
        labels = np.concatenate(labels)
        return batch.replace(
            images=np.concatenate(images),
            targets=labels[:, :-1],
            weights=(labels[:, -1] == 0).astype("float32"),
        )

    return augment


def _stateless(layer, images, labels):
    """A compiled function of a layer's seeds and inputs, and the number of seeds."""

    with keras.device("cpu"):  # Builds it.
        layer({"images": images[:2], "labels": labels[:2]}, training=True)
    states = layer.non_trainable_variables
    dtype = states[0].dtype if states else "int32"

    def call(seeds, images, labels):
        data, seeds = {"images": images, "labels": labels}, ops.unstack(seeds)
        return layer.stateless_call([], seeds, data, training=True)[0]

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(call, autograph=False)
    else:
        import jax

        compiled = jax.jit(call)

    def on_cpu(seeds, images, labels):
        with keras.device("cpu"):
            seeds = ops.convert_to_tensor(seeds, dtype)
            inputs = map(ops.convert_to_tensor, (images, labels))
            out = compiled(seeds, *inputs)
            return tuple(ops.convert_to_numpy(out[x]) for x in ("images", "labels"))

    return on_cpu, len(states)


def _check_whole(batch, rows):
    if batch.rows.start % rows or len(batch.images) % rows:
        raise ValueError(
            "Expected each worker's share of the batch to be a multiple of the "
            f"{rows} rows that a Keras layer is called on. Received: rows "
            f"{batch.rows.start} to {batch.rows.stop} of {batch.global_size}. Give "
            "keras_layer other rows, or change the batch size."
        )


def trivial_augment():
    """One random operation of random strength an image (Müller & Hutter, 2021).

    Their wide space of operations, with Pillow; Keras has no such layer. Images have to
    be RGB and uint8: name it before a `keras_layer`.

    Returns:
        An augmentation.
    """

    def augment(batch):
        operations = list(trivial_operations().values())
        chosen = batch.draw(lambda rng, n: rng.integers(0, len(operations), n))
        levels = batch.draw(lambda rng, n: rng.integers(0, 31, n))
        signs = batch.draw(lambda rng, n: rng.choice([-1, 1], n))
        images = [
            _with_pillow(image, operations[operation], sign * level / 30)
            for image, operation, level, sign in zip(
                batch.images, chosen, levels, signs, strict=True
            )
        ]
        return batch.replace(images=np.stack(images))

    return augment


def _with_pillow(image, operation, strength):
    from PIL import Image

    return np.asarray(operation(Image.fromarray(image), strength))


@functools.cache
def trivial_operations():
    """The wide space of Müller & Hutter (2021).

    Returns:
        A dict of functions of a `PIL.Image` and a strength from -1 to 1. Where the sign
        has no meaning the absolute value counts.
    """
    from PIL import Image, ImageEnhance, ImageOps

    def enhance(kind):
        return lambda image, strength: kind(image).enhance(1 + 0.99 * strength)

    def affine(coefficients):
        return lambda image, strength: image.transform(
            image.size, Image.Transform.AFFINE, coefficients(strength)
        )

    return {
        "identity": lambda image, strength: image,
        "auto_contrast": lambda image, strength: ImageOps.autocontrast(image),
        "equalize": lambda image, strength: ImageOps.equalize(image),
        "rotate": lambda image, strength: image.rotate(135 * strength),
        "solarize": lambda image, strength: ImageOps.solarize(
            image, 255 * (1 - abs(strength))
        ),
        "posterize": lambda image, strength: ImageOps.posterize(
            image, 8 - round(6 * abs(strength))
        ),
        "color": enhance(ImageEnhance.Color),
        "contrast": enhance(ImageEnhance.Contrast),
        "brightness": enhance(ImageEnhance.Brightness),
        "sharpness": enhance(ImageEnhance.Sharpness),
        "shear_x": affine(lambda strength: (1, 0.99 * strength, 0, 0, 1, 0)),
        "shear_y": affine(lambda strength: (1, 0, 0, 0.99 * strength, 1, 0)),
        "translate_x": affine(lambda strength: (1, 0, 32 * strength, 0, 1, 0)),
        "translate_y": affine(lambda strength: (1, 0, 0, 0, 1, 32 * strength)),
    }


def _flip(batch, chosen):
    images = batch.images.copy()
    images[chosen] = images[chosen][:, :, ::-1]
    return batch.replace(images=images)
