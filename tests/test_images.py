import io
import json
import warnings

import keras
import numpy as np
import pytest
from made_up import encoded_images, mutated, record, write_class_folders
from PIL import Image

from elu_zoo import images as reader
from elu_zoo.errors import ImageError, UserError
from elu_zoo.image_folders import load_image_folder
from elu_zoo.images import check_pixels, preprocess_input, resize


@pytest.fixture(autouse=True)
def manifest(tmp_path, monkeypatch):
    records = {
        "net.animals": record(),
        "net.digits": record(input_shape=[8, 8, 1]),
        "net.bands": record(input_shape=[8, 8, 5]),
        "big.animals": record(input_shape=[8, 8, 3]),
        "net.mixed": record(),
        "big.mixed": record(
            preprocessing={"resize": 16, "crop": 16, "interpolation": "bilinear"}
        ),
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 1, "base_url": None, "weights": records}))
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(path))


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def directly(image, mode="RGB"):
    """Shorter side to 12 pixels by Keras, then the 8 in the middle."""
    array = np.asarray(image.convert(mode), "float32").reshape(*image.size[::-1], -1)
    height, width, _ = array.shape
    size = (12, round(12 * width / height))
    if height > width:
        size = (round(12 * height / width), 12)
    array = keras.ops.image.resize(
        array, size, antialias=True, data_format="channels_last"
    )
    top, left = (size[0] - 8) // 2, (size[1] - 8) // 2
    return keras.ops.convert_to_numpy(array[top : top + 8, left : left + 8])


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "shape", [(20, 30, 3), (31, 17, 3), (5, 9, 3), (12, 12, 3), (40, 20), (20, 30, 4)]
)
@pytest.mark.parametrize("form", ["array", "float", "pil", "list"])
def test_against_keras(shape, form):
    array = pixels(*shape)
    x = {
        "array": array,
        "float": array.astype("float32"),
        "pil": Image.fromarray(array),
        "list": [array],
    }[form]
    before = array.copy()
    batch = preprocess_input(x, model="net.animals")
    assert batch.dtype == np.float32 and batch.shape == (1, 8, 8, 3)
    assert_close(batch[0], directly(Image.fromarray(array)))
    np.testing.assert_array_equal(array, before)
    batch[:] = 0
    np.testing.assert_array_equal(array, before)


def test_batches_and_lists_of_different_sizes():
    array = pixels(3, 20, 30, 3)
    expected = [directly(Image.fromarray(image)) for image in array]
    for x in (array, list(array), keras.ops.convert_to_tensor(array)):
        assert_close(preprocess_input(x, "net.animals"), expected)
    image = keras.ops.convert_to_tensor(array[0])
    assert_close(preprocess_input(image, "net.animals"), expected[:1])
    mixed = [array[0], Image.fromarray(pixels(9, 9)), pixels(8, 10, 1)]
    batch = preprocess_input(mixed, "net.animals")
    assert_close(batch[0], expected[0])
    assert_close(batch[1], directly(mixed[1]))
    assert_close(batch[2], directly(Image.fromarray(mixed[2][..., 0])))


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30), (20, 30, 1)])
def test_gray(shape):
    array = pixels(*shape)
    batch = preprocess_input(array, "digits")
    image = Image.fromarray(array[..., 0] if shape[-1] == 1 else array)
    assert_close(batch[0], directly(image, "L"))


def test_values_are_rounded():
    array = np.full((8, 8, 3), 99.6)
    np.testing.assert_array_equal(preprocess_input(array, "net.animals"), 100)


def test_deep_images():
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8)).astype("uint16")
    deep = preprocess_input(Image.fromarray(values), "digits")
    assert_close(deep, preprocess_input(values >> 8, "digits"))
    wide = Image.fromarray(np.full((8, 8), 200, "int32"))
    np.testing.assert_array_equal(preprocess_input(wide, "net.animals"), 200)
    with pytest.raises(ValueError, match="to 2000"):
        preprocess_input(Image.fromarray(np.full((8, 8), 2000, "int32")), "net.animals")


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_interpolation(interpolation):
    array = pixels(20, 20, 3)
    found = resize(Image.fromarray(array), 10, 10, interpolation)
    expected = keras.ops.image.resize(
        array.astype("float32"),
        (10, 10),
        interpolation,
        antialias=interpolation != "nearest",
        data_format="channels_last",
    )
    assert_close(found, np.clip(keras.ops.convert_to_numpy(expected), 0, 255))


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((8, 8, 2)), r"shape \(8, 8, 2\)"),
        (np.zeros((1, 1, 8, 8, 3)), r"shape \(1, 1, 8, 8, 3\)"),
        (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
        (np.zeros(8), r"shape \(8,\)"),
        (np.zeros((0, 8, 8, 3)), "at least one image"),
        ([], "at least one image"),
        (np.full((8, 8, 3), 256.0), "256"),
        (np.full((8, 8, 3), -1), "-1"),
        (np.full((8, 8, 3), np.nan), "nan"),
        (np.full((8, 8, 3), 0.5), "multiply by 255"),
        (np.ones((8, 8), bool), "bool"),
        ("cat.jpg", "cat.jpg .No such file"),
        (b"cat", "bytes .none of these formats"),
        (["cat.jpg"], "cat.jpg"),
    ],
)
def test_images_that_are_none(x, message):
    with pytest.raises(ValueError, match=message):
        preprocess_input(x, "net.animals")


def test_names_of_weights():
    with pytest.raises(ValueError, match="animals.*'plants'"):
        preprocess_input(pixels(8, 8, 3), "plants")
    with pytest.raises(ValueError, match="one name of.*big.mixed"):
        preprocess_input(pixels(8, 8, 3), "mixed")
    assert preprocess_input(pixels(8, 8, 3), "big.mixed").shape == (1, 16, 16, 3)


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("size", [(600, 300), (37, 500), (9, 700), (64, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_resizing_the_middle_is_resizing_all_of_it(size, mode, interpolation):
    image = Image.fromarray(pixels(*size[::-1]))
    whole = [40 * side / min(size) if mode == "crop" else 40 for side in size]
    whole = [round(side) for side in whole]
    how = Image.Resampling[interpolation.upper()]
    expected = np.asarray(image.convert("F").resize(whole, how))
    left, top = (whole[0] - 32) // 2, (whole[1] - 32) // 2
    expected = np.clip(expected[top : top + 32, left : left + 32], 0, 255)
    found = resize(image, 40, 32, interpolation, mode)
    np.testing.assert_allclose(found[..., 0], expected, atol=3e-3)


def test_bad_ways_to_resize():
    image = Image.new("L", (9, 9))
    for arguments, message in (
        ({"crop": 9}, "crop=9"),
        ({"mode": "pad"}, "mode='pad'"),
        ({"interpolation": "cubic"}, "'bicubic'.*interpolation='cubic'"),
    ):
        with pytest.raises(UserError, match=message):
            resize(image, 8, **arguments)


IMAGES = encoded_images()


@pytest.mark.parametrize("name", IMAGES)
def test_every_format_and_orientation_by_every_path(name, tmp_path):
    content, upright = IMAGES[name]
    file = tmp_path / f"a.{name.split('.')[-1]}"
    file.write_bytes(content)
    tolerance = 25 if "lossy" in name else 2e-3
    expected = directly(Image.fromarray(upright))
    opened = Image.open(file)
    forms = [str(file), file, [str(file), file], content, opened, [opened.copy()]]
    for form in forms[: 5 if "16" in name or opened.format == "GIF" else 6]:
        for found in preprocess_input(form, "net.animals"):
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert opened.mode == Image.open(file).mode
    write_class_folders(tmp_path / "folder", count=1)
    (tmp_path / "folder/green/1").with_suffix(file.suffix).write_bytes(content)
    images, _, _ = load_image_folder(tmp_path / "folder", 12)
    middle = images[1, 2:10, 2:10].astype("float32")
    np.testing.assert_allclose(middle, expected, rtol=0, atol=tolerance + 0.5)


def test_the_examples_are_of_every_format():
    found = {Image.open(io.BytesIO(content)).format for content, _ in IMAGES.values()}
    assert found == set(reader._formats()) >= set(reader.FORMATS) - {"AVIF"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in IMAGES if "rotated" not in n])
def test_damaged_files_are_image_errors_and_nothing_else(name):
    content, _ = IMAGES[name]
    refused = 0
    for damaged in mutated(content, 150):
        try:
            assert reader.load_image(damaged, resize=8).shape == (8, 8, 3)
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_what_pillow_could_read_but_nobody_named(tmp_path):
    gray = Image.new("L", (16, 16))
    for kind in ("DDS", "EPS", "TGA", "PPM", "ICO", "PCX"):
        file = tmp_path / "a.png"
        file.write_bytes(encode(gray.convert("RGB"), kind))
        with pytest.raises(ImageError, match="a.png .none of these formats") as caught:
            reader.read_image(file)
        assert caught.value.path == file
    with pytest.raises(ImageError, match=r"a.png \(Is a directory\)"):
        (tmp_path / "b").mkdir()
        reader.read_image((tmp_path / "b").rename(tmp_path / "folder.a.png"))
    with pytest.raises(ImageError, match="32 bits|more than 16 bits"):
        reader.read_image(encode(gray.convert("F"), "TIFF"))


def test_limits(tmp_path):
    good, strip, large = (
        encode(Image.new("1", size), "PNG")
        for size in ((1, 100), (1, 101), (9460, 9460))
    )
    assert preprocess_input(good, "net.animals").shape == (1, 8, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for content, message in ((strip, "100 times"), (large, "89,478,485 pixels")):
            for x in (content, Image.open(io.BytesIO(content))):
                with pytest.raises(ImageError, match=message):
                    preprocess_input(x, "net.animals")


def test_damaged_exif_data_leave_an_image_as_it_is():
    image = Image.fromarray(pixels(20, 30, 3))
    content = encode(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(preprocess_input(content, "net.animals")[0], directly(image))


def test_check_pixels():
    check_pixels(np.array([[0, 1]]))
    check_pixels(np.array([[0.0, 255.0]]))
    check_pixels(np.zeros((2, 4, 4, 3), "float32"))
    for bad in (np.zeros(0), [0.0, 1.0], [-1], [256], [np.nan], ["a"]):
        with pytest.raises(UserError):
            check_pixels(np.array(bad))


def test_pixels_are_rounded_to_those_of_prediction(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(pixels(75, 100, 3)).save(tmp_path / name / "1.png")
    images, _, _ = load_image_folder(tmp_path, 12)
    exact = preprocess_input(tmp_path / "a/1.png", "net.animals")
    assert abs(images[:1, 2:10, 2:10] - exact).max() <= 0.5


def test_without_a_model_nothing_is_resized():
    array = pixels(2, 9, 7, 3)
    np.testing.assert_array_equal(preprocess_input(array), array)
    with pytest.raises(ValueError, match="different sizes.*preprocess_input"):
        preprocess_input([array[0], array[0, :5]])


def test_channels_that_no_image_has():
    image = Image.new("RGB", (8, 8))
    for source in (image, encode(image, "PNG"), np.asarray(image)):
        with pytest.raises(UserError, match="1, 3 or 4.*channels=5") as caught:
            preprocess_input(source, "net.bands")
        assert not isinstance(caught.value, ImageError)
