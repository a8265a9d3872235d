"""Corrupted images against Pillow, colorsys, SciPy and the formulas."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from training.benchmarks.corruptions import CORRUPTIONS, SEVERITIES, corrupted

pytest.importorskip("cv2", reason="needs OpenCV, of the extra `training`")


@pytest.fixture(scope="module", params=[32, 64])
def images(request):
    shape = (40, request.param, request.param, 3)
    return np.random.default_rng(0).integers(60, 200, shape, "uint8")


def level(name, images, severity):
    return CORRUPTIONS[name][1][images.shape[1]][severity - 1]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_change_the_images_repeatably(name):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8, 8, 3), "uint8")
    images = np.stack([Image.fromarray(i).resize((32, 32)) for i in small])
    changes = []
    for severity in SEVERITIES:
        result = corrupted(images, name, severity)
        assert result.dtype == "uint8" and result.shape == images.shape
        np.testing.assert_array_equal(result, corrupted(images, name, severity))
        changes.append(np.abs(result.astype(float) - images).mean())
    assert changes[0] < changes[-1]


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_stated_strength(images, severity):
    scale = level("gaussian_noise", images, severity)
    gray = np.full_like(images, 128)
    noise = corrupted(gray, "gaussian_noise", severity) / 255
    assert noise.std() == pytest.approx(scale, rel=0.05)
    photons = level("shot_noise", images, severity)
    noise = corrupted(gray, "shot_noise", severity) / 255
    assert noise.var() == pytest.approx(128 / 255 / photons, rel=0.05)
    share = level("impulse_noise", images, severity)
    noisy = corrupted(images, "impulse_noise", severity)
    assert np.mean(noisy == 0) == pytest.approx(share / 2, rel=0.1)
    assert np.mean(noisy == 255) == pytest.approx(share / 2, rel=0.1)


@pytest.mark.parametrize("severity", [1, 5])
def test_jpeg_and_pixels_are_pillows(images, severity):
    image, file = Image.fromarray(images[0]), io.BytesIO()
    image.save(file, "JPEG", quality=level("jpeg_compression", images, severity))
    result = corrupted(images[:1], "jpeg_compression", severity)[0].astype(int)
    assert np.abs(result - np.asarray(Image.open(file))).max() <= 1
    side = int(image.width * level("pixelate", images, severity))
    small = image.resize((side, side), Image.Resampling.BOX)
    expected = np.asarray(small.resize(image.size, Image.Resampling.BOX))
    result = corrupted(images[:1], "pixelate", severity)[0].astype(int)
    assert np.abs(result - expected).max() <= 1


def test_brightness_and_contrast_follow_the_formulas(images):
    more = level("brightness", images, 4)
    colors = images[0].reshape(-1, 3)[:50] / 255
    brighter = corrupted(images[:1], "brightness", 4)[0].reshape(-1, 3)[:50]
    for color, result in zip(colors, brighter, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*color)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
        np.testing.assert_allclose(result, np.multiply(expected, 255), atol=1)
    mean = images[0].mean((0, 1))
    expected = (images[0] - mean) * level("contrast", images, 3) + mean
    result = corrupted(images[:1], "contrast", 3)[0]
    np.testing.assert_allclose(result, expected, atol=1)


def test_images_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="32 or 64 pixels.*Received: 28"):
        corrupted(np.zeros((1, 28, 28, 3), "uint8"), "contrast", 1)


def test_blurs_follow_the_definition(images):
    ndimage = pytest.importorskip("scipy.ndimage", reason="needs SciPy")
    image = images[0] / 255
    side = len(image)
    factors = np.arange(1, level("zoom_blur", images, 5), 0.01)
    total = image.copy()
    for factor in factors:
        cut = int(np.ceil(side / factor))
        top = (side - cut) // 2
        part = image[top : top + cut, top : top + cut]
        large = ndimage.zoom(part, (factor, factor, 1), order=1)
        trim = (len(large) - side) // 2
        total += large[trim : trim + side, trim : trim + side]
    result = corrupted(images[:1], "zoom_blur", 5)[0]
    # OpenCV interpolates at multiples of 1/32 pixel, of neighbors that differ by 140.
    np.testing.assert_allclose(result, total / (len(factors) + 1) * 255, atol=3)
    radius, sigma = level("defocus_blur", images, 5)
    y, x = np.mgrid[-8:9, -8:9]
    disk = (x**2 + y**2 <= radius**2) / np.sum(x**2 + y**2 <= radius**2)
    weights = np.exp(-np.array([1, 0, 1]) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, weights, axis)
    blurred = ndimage.correlate(image, disk[..., None], mode="mirror")
    result = corrupted(images[:1], "defocus_blur", 5)[0]
    np.testing.assert_allclose(result, blurred * 255, atol=1.5)
