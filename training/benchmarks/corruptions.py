"""Measures how well published weights classify corrupted images.

    python -m training.benchmarks.corruptions elunet11.cifar100 --data DIR

Nine of the 15 common corruptions of Hendrycks & Dietterich (2019), each at the five
severities that CIFAR-10-C and Tiny ImageNet-C define for images of 32 and 64 pixels, on
images spread evenly over the test set. Left out are those that need ImageMagick (motion
blur, snow), photographs (frost), or a long definition of their own (glass blur, fog,
elastic transform).

The command writes `docs/results/NAME/corruptions.csv`, from which
`python -m training.tables` renders the robustness section of the model card.
"""

import io
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.weights import find_weights
from training.benchmarks.measuring import ROOT, machine, write_csv
from training.commands import parse, parser, positive

Images = np.ndarray
"""Images of shape `(n, side, side, 3)`, with values from 0 to 1."""


def _gaussian_noise(images: Images, deviation: float, rng: Any) -> Images:
    return images + rng.normal(scale=deviation, size=images.shape)


def _shot_noise(images: Images, photons: float, rng: Any) -> Images:
    return rng.poisson(images * photons) / photons


def _impulse_noise(images: Images, share: float, rng: Any) -> Images:
    draws = rng.random(images.shape)
    return np.where(draws < share, draws < share / 2, images)


def _defocus_blur(images: Images, disk: tuple[float, float], rng: Any) -> Images:
    import cv2

    radius, sigma = disk
    y, x = np.mgrid[-8:9, -8:9]
    kernel = (x**2 + y**2 <= radius**2).astype("float32")
    kernel = cv2.GaussianBlur(kernel / kernel.sum(), (3, 3), sigma)
    return np.stack([cv2.filter2D(image, -1, kernel) for image in images])


def _zoom_blur(images: Images, most: float, rng: Any) -> Images:
    factors = np.arange(1, most, 0.01).tolist()
    return np.stack(
        [(image + sum(_zoomed(image, f) for f in factors)) for image in images]
    ) / (len(factors) + 1)


def _zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image, enlarged to its size, with the corners aligned."""
    import cv2

    side = len(image)
    cut = int(np.ceil(side / factor))
    top, size = (side - cut) // 2, round(cut * factor)
    scale, trim = (cut - 1) / (size - 1), (size - side) // 2
    return cv2.warpAffine(
        image[top : top + cut, top : top + cut],
        np.array([[scale, 0, trim * scale], [0, scale, trim * scale]]),
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _brightness(images: Images, more: float, rng: Any) -> Images:
    """Adds to the value of HSV, which is the greatest of the three colors."""
    value = images.max(-1, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.where(value > 0, images * brighter / np.maximum(value, 1e-9), brighter)


def _contrast(images: Images, factor: float, rng: Any) -> Images:
    means = images.mean((1, 2), keepdims=True)
    return (images - means) * factor + means


def _pixelate(images: Images, factor: float, rng: Any) -> Images:
    from PIL import Image

    def resized(image: Any) -> Any:
        side = image.width
        small = image.resize([int(side * factor)] * 2, Image.Resampling.BOX)
        return small.resize([side] * 2, Image.Resampling.BOX)

    return _by_pillow(images, resized)


def _jpeg_compression(images: Images, quality: int, rng: Any) -> Images:
    from PIL import Image

    def compressed(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(images, compressed)


def _by_pillow(images: Images, change: Callable[[Any], Any]) -> Images:
    from PIL import Image

    pixels = np.round(images * 255).astype("uint8")
    changed = [np.asarray(change(Image.fromarray(image))) for image in pixels]
    return np.stack(changed) / 255


# What to call, and its argument by severity, for images of 32 and of 64 pixels.
CORRUPTIONS: dict[str, tuple[Callable[..., Images], dict[int, tuple[Any, ...]]]] = {
    "gaussian_noise": (
        _gaussian_noise,
        {32: (0.04, 0.06, 0.08, 0.09, 0.10), 64: (0.04, 0.08, 0.12, 0.15, 0.18)},
    ),
    "shot_noise": (
        _shot_noise,
        {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15)},
    ),
    "impulse_noise": (
        _impulse_noise,
        {32: (0.01, 0.02, 0.03, 0.05, 0.07), 64: (0.01, 0.02, 0.05, 0.08, 0.14)},
    ),
    "defocus_blur": (
        _defocus_blur,
        {
            32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        },
    ),
    "zoom_blur": (
        _zoom_blur,
        dict.fromkeys((32, 64), (1.06, 1.11, 1.16, 1.21, 1.26)),
    ),
    "brightness": (
        _brightness,
        {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: (0.1, 0.2, 0.3, 0.4, 0.5)},
    ),
    "contrast": (
        _contrast,
        {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: (0.4, 0.3, 0.2, 0.1, 0.05)},
    ),
    "pixelate": (
        _pixelate,
        {32: (0.95, 0.9, 0.85, 0.75, 0.65), 64: (0.9, 0.8, 0.7, 0.6, 0.5)},
    ),
    "jpeg_compression": (
        _jpeg_compression,
        {32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25)},
    ),
}
SEVERITIES = range(1, 6)


def corrupted(images: np.ndarray, name: str, severity: int) -> np.ndarray:
    """Corrupts images, the same way each time.

    Args:
        images: uint8 array of shape `(n, side, side, 3)`, of 32 or 64 pixels.
        name: One of `CORRUPTIONS`.
        severity: Severity from 1 to 5.

    Returns:
        An array of the same shape and dtype.

    Raises:
        UserError: If the images have a different size.

    Example:

    >>> gray = np.full((1, 32, 32, 3), 100, "uint8")
    >>> corrupted(gray, "brightness", 2)[0, 0, 0].tolist()
    [125, 125, 125]
    """
    corrupt, levels = CORRUPTIONS[name]
    if (side := images.shape[1]) not in levels:
        raise UserError(
            f"Expected images of {' or '.join(map(str, levels))} pixels, for which the "
            f"corruptions are defined. Received: {side} pixels"
        )
    level = levels[side][severity - 1]
    changed = corrupt(images / 255, level, np.random.default_rng(severity))
    # Cut off, as in the published sets.
    return (np.clip(changed, 0, 1) * 255).astype("uint8")


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    options = parser("training.benchmarks.corruptions", __doc__)
    options.add_argument("name", help="name of published weights")
    options.add_argument("--data", required=True, help="folder of the data sets")
    options.add_argument("--images", type=positive, default=2000)
    options.add_argument("--csv", type=pathlib.Path, help="file to write instead")
    arguments = parse(options, argv)

    try:
        name = find_weights(arguments.name)
        rows = measure(name, arguments.data, arguments.images)
    except (UserError, OSError) as error:
        sys.exit(f"training.benchmarks.corruptions: {error}")
    path = ROOT / "docs/results" / name / "corruptions.csv"
    write_csv(arguments.csv or path, rows)


def measure(name: str, data: str, images: int) -> list[dict[str, Any]]:
    """Measures published weights on corrupted images of their test set.

    Args:
        name: Name of the weights.
        data: Folder of the data sets.
        images: Number of test images, at most.

    Returns:
        A row of the CSV file for the images as they are, and for each corruption and
        severity.

    Raises:
        UserError: If there are no such weights, or their images have a size for which
            no corruptions are defined.
        OSError: If the data set cannot be read.
    """
    facts = machine()  # Sets the environment before Keras is loaded.
    from elu_zoo import datasets
    from elu_zoo.evaluation import evaluate
    from elu_zoo.images import image_side
    from elu_zoo.models import load
    from elu_zoo.weights import get_record

    record = get_record(name)
    test = datasets.load(record.dataset["name"], "test", data)
    count = min(images, len(test))
    test = test[np.linspace(0, len(test) - 1, count).astype(int)]
    model = load(record.name)
    rows = []
    kinds = [(n, s) for n in CORRUPTIONS for s in SEVERITIES]
    for kind, severity in [("none", 0), *kinds]:
        changed = corrupted(test.images, kind, severity) if severity else test.images
        shown = datasets.Dataset(changed, test.labels, test.class_names)
        shown = shown.resized(image_side(model))
        metrics = evaluate(model, shown.images, shown.labels)
        rows.append(
            {
                "weights": record.sha256[:8],
                "corruption": kind,
                "severity": severity,
                "n": count,
                "error": round(metrics["error"], 4),
                "calibration_error": round(metrics["calibration_error"], 4),
            }
            | facts
        )
        print(kind, severity, f"{metrics['error']:.2%}", flush=True)
    return rows


if __name__ == "__main__":
    main()
