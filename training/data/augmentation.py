"""Augmentations in NumPy, each a pure function of the batch and its `draw`.

An augmentation is called with a `training.data.batch.Batch` and returns one.

Keras has layers for some of them. They draw other values on each backend and for each
share of a batch, its RandAugment not even from the seed that it is given. For workers
to share a batch they would have to be called on few rows at a time, and are slow then.
"""

import functools

import numpy as np


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


def random_erasing(probability=0.5, area=(0.02, 0.33), ratio=0.3):
    """Fills a rectangle of an image with noise (Zhong et al., 2020).

    Args:
        probability: Share of the images.
        area: Smallest and largest share of the image that is erased.
        ratio: Smallest ratio of the sides, drawn uniformly in its logarithm.

    Returns:
        An augmentation.
    """

    def augment(batch):
        images = batch.images.copy()
        height, width, channels = images.shape[1:]
        chosen = batch.draw(lambda rng, n: rng.random(n)) < probability
        shares = batch.draw(lambda rng, n: rng.uniform(*area, n))
        limit = -np.log(ratio)
        ratios = np.exp(batch.draw(lambda rng, n: rng.uniform(-limit, limit, n)))
        # So that both sides fit.
        ratios = np.clip(ratios, shares, 1 / shares)
        places = batch.draw(lambda rng, n: rng.random((n, 2)))
        seeds = batch.draw(lambda rng, n: rng.integers(0, 2**63, n))
        rows = np.round(height * np.sqrt(shares * ratios)).astype(int)
        columns = np.round(width * np.sqrt(shares / ratios)).astype(int)
        top = np.floor(places[:, 0] * (height - rows + 1)).astype(int)
        left = np.floor(places[:, 1] * (width - columns + 1)).astype(int)
        for i in np.flatnonzero(chosen):
            noise = np.random.default_rng(seeds[i]).integers(
                0, 256, (rows[i], columns[i], channels)
            )
            bottom, right = top[i] + rows[i], left[i] + columns[i]
            images[i, top[i] : bottom, left[i] : right] = noise
        return batch.replace(images=images)

    return augment


def mixup(alpha=0.2):
    """Blends images and targets of two examples (Zhang et al., 2018).

    The two are neighbours in the batch, whose order is random already. The images
    become float32.

    Args:
        alpha: The share of an image is drawn from Beta(alpha, alpha).

    Returns:
        An augmentation.
    """

    def augment(batch):
        partners = _neighbours(batch)
        shares = batch.draw(lambda rng, n: rng.beta(alpha, alpha, n)).astype("float32")

        def blend(x):
            share = shares.reshape(-1, *[1] * (x.ndim - 1))
            return share * x + (1 - share) * x[partners]

        return batch.replace(
            images=blend(batch.images),
            targets=blend(batch.targets),
            weights=batch.weights * batch.weights[partners],
        )

    return augment


def cutmix(alpha=1.0, probability=1.0):
    """Pastes a rectangle of one image into another (Yun et al., 2019).

    Targets are mixed by the pixels pasted. The two examples are neighbours in the
    batch, whose order is random already.

    Args:
        alpha: The rectangle's share, before its overhang is cut off, is drawn from
            Beta(alpha, alpha).
        probability: Share of the images that are pasted into.

    Returns:
        An augmentation.
    """

    def augment(batch):
        partners = _neighbours(batch)
        height, width = batch.images.shape[1:3]
        shares = batch.draw(lambda rng, n: rng.beta(alpha, alpha, n))
        centers = batch.draw(lambda rng, n: rng.random((n, 2)))
        chosen = batch.draw(lambda rng, n: rng.random(n)) < probability
        sides = np.sqrt(shares) * chosen
        inside = (
            _interval(centers[:, 0], sides, height)[:, :, None]
            & _interval(centers[:, 1], sides, width)[:, None, :]
        )
        pasted = inside.mean((1, 2), dtype="float32")[:, None]
        images = np.where(inside[..., None], batch.images[partners], batch.images)
        targets = (1 - pasted) * batch.targets + pasted * batch.targets[partners]
        readable = (pasted[:, 0] == 0) | (batch.weights[partners] > 0)
        return batch.replace(
            images=images,
            targets=targets.astype("float32"),
            weights=batch.weights * readable.astype("float32"),
        )

    return augment


def _interval(centers, sides, length):
    """Which of the pixels along an axis are inside: a row an image."""
    center = np.floor(centers * length)
    half = sides * length / 2
    first, last = np.round(center - half), np.round(center + half)
    pixels = np.arange(length)
    return (pixels >= first[:, None]) & (pixels < last[:, None])


def _neighbours(batch):
    """The other row of each pair of rows of the global batch."""
    if batch.rows.start % 2 or len(batch.images) % 2:
        raise ValueError(
            "Expected each worker's share of the batch to be whole pairs of images, "
            f"which are mixed. Received: rows {batch.rows.start} to {batch.rows.stop} "
            f"of {batch.global_size}. Change the batch size."
        )
    return np.arange(len(batch.images)) ^ 1


def trivial_augment():
    """One random operation of random strength an image (Müller & Hutter, 2021).

    Their wide space of operations, with Pillow. Keras has RandAugment, which does the
    same operations to all images of a batch and computes all it knows each time. Images
    have to be RGB and uint8: name it before `mixup`.

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
