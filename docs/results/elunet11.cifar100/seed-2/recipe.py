"""ELUNet11 on CIFAR-100: the paper's network, a modern recipe for few hours of CPU.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR --out RUN

No normalization, as in the paper. A first convolution that starts by whitening, Muon
instead of SGD, mild dropout, and images that grow: an epoch at 16 pixels takes a
quarter of the operations of one at 32, at 24 pixels 0.57. The learning rate goes up and
down twice; the second time, half as high, the dropout is twice as strong.

Cost: 0.945 GFLOP an image and training step at 32 pixels, 1.31 PFLOP in all; 221
minutes on two AVX2 cores of an AMD EPYC, in float32, in part beside other work. Result:
28.7 % test error, with 22.1 % on the last training batches. After the first fall of the
rate it was 29.1 %: the published run goes on from a run of those 30 epochs.

This copy computes the 3×3 convolution, two thirds of all operations, with a quarter of
the multiplications (see `winograd`): 141 minutes on the same processor, by itself.
Everything else is the published recipe.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend

from elu_zoo.architectures import ARCHITECTURES
from training.data.augmentation import alternating_flip, random_crop
from training.engine.initialization import whitening_stem
from training.engine.optimizers import ConvMuon
from training.engine.recipe import Recipe
from training.engine.schedules import Consecutive, WarmupLinear

# Share of the run after which the rate rises again and dropout doubles.
RESTART = 2 / 3


def dropout(factor):
    """The paper's rates times a factor."""
    return [factor * rate for rate in ARCHITECTURES["elunet11"].dropout]


def learning_rate(steps):
    """Two triangles, a warm restart (Loshchilov & Hutter, 2017)."""
    restart = round(RESTART * steps)
    return Consecutive(
        {
            0: WarmupLinear(0.015, restart, warmup=0.15),
            restart: WarmupLinear(0.0075, steps - restart, warmup=0.1),
        }
    )


recipe = Recipe(
    model="ELUNet11",
    model_arguments={},
    dataset="cifar100",
    batch_size=256,
    epochs=45,
    image_sizes={0: 16, 8: 24, 25: 32, 30: 24, 39: 32},
    initialize=whitening_stem(image_size=16),
    augmentation=[random_crop(4, "reflect"), alternating_flip()],
    label_smoothing=0.1,
    dropout={0: dropout(0.2), RESTART: dropout(0.4)},
    learning_rate=learning_rate,
    optimizer=lambda schedule: ConvMuon(
        schedule, momentum=0.95, weight_decay=0.1, use_ema=True, ema_momentum=0.99
    ),
)


# Matrices of F(4×4, 3×3): of a tile of 6×6 inputs, of the kernel, and of 4×4 outputs.
TILE = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
KERNEL_2D = np.kron(KERNEL, KERNEL).astype("float32")

# Images at a time, so that what the transforms write stays in the cache.
CHUNK = 64


def winograd(images, kernel):
    """A 3×3 convolution, as Lavin & Gray (2016) compute it.

    The same as `tf.nn.conv2d(images, kernel, 1, "SAME")` but for rounding.

    Args:
        images: Tensor `(n, size, size, channels)` of known shape, `size` a multiple of 4.
        kernel: Tensor `(3, 3, channels, filters)`.

    Returns:
        Tensor `(n, size, size, filters)`.
    """
    sizes = np.diff([*range(0, images.shape[0], CHUNK), images.shape[0]])
    return tf.concat([_winograd(x, kernel) for x in tf.split(images, sizes)], 0)


@tf.custom_gradient
def _winograd(images, kernel):
    n, size, _, channels = images.shape
    filters = kernel.shape[-1]
    tiles = size // 4
    x = _transform_images(images)
    w = tf.reshape(
        tf.matmul(KERNEL_2D, tf.reshape(kernel, (9, -1))), (36, channels, filters)
    )

    def gradient(dy):
        dy = _transform_output_gradient(dy)
        dw = tf.reshape(tf.matmul(x, dy, transpose_a=True), (36, -1))
        dx = _image_gradient(n, tiles)(tf.matmul(dy, w, transpose_b=True))
        return dx, tf.reshape(tf.matmul(KERNEL_2D.T, dw), kernel.shape)

    return _output(n, tiles)(tf.matmul(x, w)), gradient


def _combine(matrix, tensors):
    """Product of a small matrix and a list of tensors."""
    return [
        sum(t if c == 1 else c * t for c, t in zip(row, tensors, strict=True) if c)
        for row in np.asarray(matrix, float).tolist()
    ]


@tf.function(jit_compile=True)
def _transform_images(x):
    size, channels = x.shape[1], x.shape[-1]
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = _combine(TILE, [x[:, i : i + size - 3 : 4] for i in range(6)])
    tiles = [
        _combine(TILE, [row[:, :, i : i + size - 3 : 4] for i in range(6)])
        for row in rows
    ]
    return tf.stack([tf.reshape(t, (-1, channels)) for row in tiles for t in row])


@tf.function(jit_compile=True)
def _transform_output_gradient(dy):
    matrix = np.transpose(OUTPUT)
    rows = _combine(matrix, [dy[:, i::4] for i in range(4)])
    tiles = [_combine(matrix, [row[:, :, i::4] for i in range(4)]) for row in rows]
    filters = dy.shape[-1]
    return tf.stack([tf.reshape(t, (-1, filters)) for row in tiles for t in row])


@functools.cache
def _output(n, tiles):
    @tf.function(jit_compile=True)
    def output(y):
        y = tf.reshape(y, (6, 6, n, tiles, tiles, -1))
        rows = [
            tf.stack(_combine(OUTPUT, tf.unstack(row)), 3)
            for row in _combine(OUTPUT, tf.unstack(y))
        ]
        return tf.reshape(tf.stack(rows, 2), (n, 4 * tiles, 4 * tiles, -1))

    return output


@functools.cache
def _image_gradient(n, tiles):
    matrix = np.transpose(TILE)

    @tf.function(jit_compile=True)
    def image_gradient(dx):
        dx = tf.reshape(dx, (6, 6, n, tiles, tiles, -1))
        rows = _overlap(_combine(matrix, tf.unstack(dx)), 2)
        return _overlap(_combine(matrix, tf.unstack(rows)), 2)

    return image_gradient


def _overlap(pieces, axis):
    """Sums the six pieces of tiles that overlap by two, and cuts the padding off."""

    def pad(piece, before):
        widths = [[0, 0]] * len(piece.shape)
        widths[axis] = [before, 1 - before]
        return tf.pad(piece, widths)

    first = [pad(piece, 0) for piece in pieces[:4]]
    first[0] += pad(pieces[4], 1)
    first[1] += pad(pieces[5], 1)
    whole = tf.stack(first, axis + 1)
    shape = whole.shape.as_list()
    length = 4 * shape[axis]
    whole = tf.reshape(whole, shape[:axis] + [length] + shape[axis + 2 :])
    return whole[(slice(None),) * axis + (slice(1, length - 3),)]


def _install():
    direct = backend.nn.conv

    def conv(inputs, kernel, strides=1, padding="valid", *options, **more):
        suits = (
            tuple(kernel.shape[:-2]) == (3, 3)
            and tuple(np.broadcast_to(strides, 2)) == (1, 1)
            and padding == "same"
            and inputs.shape.is_fully_defined()
            and inputs.shape[1] == inputs.shape[2]
            and inputs.shape[1] % 4 == 0
        )
        if suits:
            return winograd(inputs, keras.ops.convert_to_tensor(kernel))
        return direct(inputs, kernel, strides, padding, *options, **more)

    backend.nn.conv = conv


_install()
