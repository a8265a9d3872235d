"""Made-up data in the layouts that the package reads."""

import io

import numpy as np
from PIL import Image, features


def write_cifar100(folder, train=500, test=100, seed=0):
    """Made-up records in CIFAR-100's binary layout; the hue tells the class."""
    rng = np.random.default_rng(seed)
    folder = folder / "cifar-100-binary"
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        fine = rng.permutation(np.arange(count) % 100).astype("uint8")
        colors = np.random.default_rng(7).integers(0, 256, (100, 3))[fine]
        noise = rng.normal(0, 20, (count, 3, 32, 32))
        images = np.clip(colors[:, :, None, None] + noise, 0, 255).astype("uint8")
        records = np.concatenate(
            [fine[:, None] // 5, fine[:, None], images.reshape(count, -1)], axis=1
        )
        records.tofile(folder / f"{split}.bin")
    names = [f"class{i:02d}" for i in range(100)]
    (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n")


def write_class_folders(folder, classes=("red", "green"), count=10, size=40):
    """Class folders of images that their colour tells apart."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 80, (size, size + 8, 3))
            pixels[..., number % 3] += 150
            image = Image.fromarray(pixels.astype("uint8"))
            image.save(folder / name / f"{i}.jpg")


def exif(orientation, big_endian=False):
    """EXIF data with an orientation between two other tags."""
    data = Image.Exif()
    data.endian = ">" if big_endian else "<"
    data.update({0x010F: "A maker of cameras", 0x0112: orientation, 0x0131: "x" * 40})
    return data.tobytes()


def encoded_images(height=40, width=60, seed=0):
    """The same picture in all formats, and in all orientations of some.

    Returns:
        A dict from names to `(bytes, pixels)`: what is in the file, and the upright
        RGB picture that it shows; but for formats named lossy they are equal.
    """
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype("uint8")
    image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
    few = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    gray, shades = image.convert("L"), few.convert("RGB")
    other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    deep = Image.fromarray(np.asarray(gray).astype("uint16") * 257)
    rgba = image.copy()
    rgba.putalpha(gray)
    lossless = {"lossless": True}
    several = {"save_all": True, "append_images": [other]}
    items = {
        "lossy.jpg": (image, image, "JPEG", {"quality": 95}),
        "lossy gray.jfif": (gray, gray, "JPEG", {"quality": 95}),
        "png": (image, image, "PNG", {}),
        "rgba.png": (rgba, image, "PNG", {}),
        "palette.png": (few, shades, "PNG", {"transparency": b"\0\x80\xff"}),
        "16 bits.png": (deep, gray, "PNG", {}),
        "animated.png": (image, image, "PNG", several),
        "webp": (image, image, "WEBP", lossless),
        "gif": (few, shades, "GIF", {}),
        "animated.gif": (few, shades, "GIF", several),
        "bmp": (image, image, "BMP", {}),
        "palette.bmp": (few, shades, "BMP", {}),
        "tiff": (image, image, "TIFF", {}),
        "16 bits.tif": (deep, gray, "TIFF", {}),
    }
    if features.check("avif"):
        items["lossy.avif"] = (image, image, "AVIF", {"quality": 95})
    found = {}
    for name, (source, shown, kind, options) in items.items():
        found[name] = _encode(source, kind, **options), np.asarray(shown.convert("RGB"))
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", lossless)):
        for number, turn in enumerate(TURNS, 2):
            turned = image.transpose(turn)
            content = _encode(turned, kind, exif=exif(number, number % 2), **options)
            lossy = "lossy " if kind == "JPEG" else ""
            found[f"{lossy}rotated {number}.{kind.lower()}"] = (
                content,
                np.asarray(image),
            )
    return found


# Of these, what TensorFlow has no op for that decodes it.
WITHOUT_OPS = ("16 bits.tif", "lossy.avif", "palette.bmp", "tiff")

# How a camera's sensor sees what has orientation 2, 3, ... 8.
TURNS = [
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
]


def mutated(content, count, seed=0):
    """Damaged copies of a file: bytes replaced, cut out, repeated, or its end gone."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        data = bytearray(content)
        start, end = np.sort(rng.integers(0, len(data), 2))
        if i % 4 == 0:
            del data[start:]
        elif i % 4 == 1:
            del data[start : min(end, start + 20)]
        elif i % 4 == 2:
            data[start:start] = data[start : start + 20]
        # In the header, mostly, where the most is read from a byte.
        for place in (rng.random(rng.integers(1, 6)) ** 3 * len(data)).astype(int):
            data[place : place + 1] = rng.integers(0, 256, 1, "uint8").tobytes()
        yield bytes(data)


def _encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


CLASS_NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]


def record(**changes):
    """A published record of 8×8 images as in the manifest, with some fields changed."""
    return {
        "preprocessing": {"resize": 12, "crop": 8, "interpolation": "bilinear"},
        "input_shape": [8, 8, 3],
        "class_names": CLASS_NAMES,
    } | changes
