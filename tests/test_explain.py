"""Heat maps against closed forms in NumPy, and on photographs with real weights."""

import base64
import io
import pathlib
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from PIL import Image

import elu_zoo
from elu_zoo import explain
from elu_zoo.cli import main
from elu_zoo.errors import UserError
from elu_zoo.weights import get_record

PHOTOS = pathlib.Path(__file__).parents[1] / "training/demo/images/cifar100"


def array(x):
    return keras.ops.convert_to_numpy(x).astype("float64")


def images(count=2, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (count, side, side, 3)).astype("float32")


def dense(units, activation=None):
    """A network of one image layer: everything about it has a closed form."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
    if units:
        layers.insert(1, keras.layers.Dense(units, activation, name="hidden"))
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


def test_grad_cam_is_the_class_activation_map_before_a_global_average():
    keras.utils.set_random_seed(0)
    model = elu_zoo.ELUNet11(width=0.05, classes=3, input_shape=(128, 128, 3))
    x = images(2, 128)
    heat = explain.grad_cam(model, x, [2, 1])
    maps = array(elu_zoo.features(model, ["stack5"])(x)["stack5"])
    assert maps.shape[1:3] == (4, 4)
    # After it: a 1x1 convolution, 2x2 pooling, ELU. Its gradient by differences.
    tail = keras.Model(
        model.get_layer("stack6_conv1").input, model.get_layer("predictions").output
    )
    for heat_, map_, class_ in zip(heat, maps, (2, 1), strict=True):
        weights = [
            derivative(lambda a, c=class_: array(tail(a[None]))[0, c], map_, unit)
            for unit in range(map_.shape[-1])
        ]
        expected = np.maximum(map_ @ weights, 0).astype("float32")
        large = Image.fromarray(expected).resize((128, 128), Image.Resampling.BILINEAR)
        error = np.abs(heat_ - np.asarray(large)).max()
        assert error <= 0.02 * np.abs(map_ * weights).sum(-1).max()


@pytest.mark.parametrize("stack", [None, "maps"])
def test_grad_cam_of_any_model_is_its_class_activation_map(stack):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(5, 3, padding="same", activation="elu", name="maps"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, "softmax"),
    ]
    model, x = keras.Sequential([keras.Input((8, 8, 3)), *layers]), images()
    maps = array(layers[0](x))
    for i, heat in enumerate(explain.grad_cam(model, x, [1, 3], stack)):
        kernel = array(layers[-1].kernel)[:, [1, 3][i]]
        expected = np.maximum(maps[i] @ kernel / 64, 0)
        np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("softmax", [True, False])
def test_a_network_inside_another_model_ends_with_any_layer(softmax):
    keras.utils.set_random_seed(0)
    trunk = elu_zoo.ELUNet11(width=0.1, include_top=False)
    head = [keras.layers.Conv2D(4, 1), keras.layers.GlobalAveragePooling2D()]
    if softmax:
        head.append(keras.layers.Softmax())
    model = keras.Sequential([trunk, *head])
    x = np.resize(images(), (2, 32, 32, 3)).astype("float32")
    features = array(trunk(x))
    for heat, maps in zip(
        explain.grad_cam(model, x, [1, 1], "stack6"), features, strict=True
    ):
        expected = np.maximum(maps @ array(head[0].kernel)[0, 0, :, 1], 0)
        assert expected.max() > 0
        # The map of the last stack is one pixel, which becomes the whole image.
        np.testing.assert_allclose(heat.max(), expected.max() / maps[..., 0].size, 1e-2)
    assert explain.grad_cam(model, x).shape == (2, 32, 32)


def derivative(function, maps, unit, step=0.02):
    change = np.zeros_like(maps)
    change[..., unit] = step
    difference = function(maps + change) - function(maps - change)
    return difference / (2 * step) / maps[..., 0].size


@pytest.mark.parametrize("baseline", [127.5, 0.0])
def test_integrated_gradients_against_the_closed_form(baseline):
    model = dense(5, "elu")
    x, classes = images(), [1, 3]
    result = explain.integrated_gradients(model, x, classes, baseline, steps=300)
    (w, b), (v, _) = ([array(p) for p in model.layers[i].weights] for i in (1, 2))

    def nets(image):
        return image.reshape(-1).astype("float64") @ w + b

    base = np.full((8, 8, 3), baseline)
    for image, class_, found in zip(x, classes, result, strict=True):
        old, new = nets(base), nets(image)
        units = [np.where(n > 0, n, np.expm1(np.minimum(n, 0))) for n in (old, new)]
        slopes = v[:, class_] * (units[1] - units[0]) / (new - old)
        expected = (image - base) * (w @ slopes).reshape(base.shape)
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())
        difference = v[:, class_] @ (units[1] - units[0])
        assert found.sum() == pytest.approx(difference, rel=0.01, abs=0.01)


def test_occlusion_and_deletion_against_loops():
    model = dense(0)
    x, classes = images(), [1, 3]
    (w,) = (array(model.layers[1].kernel)[:, c].reshape(8, 8, 3) for c in [1])
    gain = ((x[0] - 100.0) * w).sum(-1)
    heat = explain.occlusion(model, x, classes, size=4, stride=2, fill=100.0)
    for row, column in ((0, 0), (3, 5), (7, 7)):
        falls = []
        for top in range(-2, 8, 2):
            for left in range(-2, 8, 2):
                if top <= row < top + 4 and left <= column < left + 4:
                    inside = gain[max(top, 0) : top + 4, max(left, 0) : left + 4]
                    falls.append(inside.sum())
        assert len(falls) == 4
        assert heat[0, row, column] == pytest.approx(np.mean(falls), rel=1e-3, abs=0.01)

    order = np.random.default_rng(1).permutation(64)
    ranks = np.repeat(order.reshape(1, 8, 8), 2, 0)
    curve = explain.deletion_curve(model, x, ranks, classes, steps=4, fill=100.0)
    for step in range(5):
        kept = order < 64 - 16 * step
        expected = curve[0, 4] + gain.reshape(-1)[kept].sum()
        assert curve[0, step] == pytest.approx(expected, rel=1e-3, abs=0.02)


def test_the_class_of_a_subclassed_model():
    inner = dense(0)

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    found = explain.heat_map(Subclassed(), images(), [1, 3], size=4)
    np.testing.assert_allclose(found, explain.heat_map(inner, images(), [1, 3], size=4))
    with pytest.raises(UserError, match=r"numbers from 0 to \d+"):
        explain.heat_map(Subclassed(), images(), [1, 999])


@pytest.fixture(scope="module")
def photos():
    model = elu_zoo.ELUNet11(weights="cifar100")
    files = sorted(PHOTOS.glob("*.png"))
    x = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    names = get_record("elunet11.cifar100").class_names
    return model, x.astype("float32"), [names.index(file.stem) for file in files]


SETTINGS = {"integrated-gradients": {"steps": 4}, "occlusion": {"stride": 8}}
# Scattered pixels disturb a network more than a region: chance must be as coarse.
COARSENESS = {"grad-cam": 4, "integrated-gradients": 32, "occlusion": 4}


def random_maps(rng, count, coarseness):
    maps = rng.random((count, coarseness, coarseness)).astype("float32")
    resized = [
        Image.fromarray(m).resize((32, 32), Image.Resampling.BILINEAR) for m in maps
    ]
    return np.stack([np.asarray(m) for m in resized])


@pytest.mark.parametrize("method", explain.METHODS)
def test_deletion_curves_beat_random_ones_and_weights_matter(photos, method):
    model, x, classes = photos
    heat = explain.heat_map(model, x, classes, method, **SETTINGS.get(method, {}))
    assert heat.max() == 1 and heat.min() >= 0

    def area(heat):
        return explain.deletion_curve(model, x, heat, classes, steps=4).mean()

    rng = np.random.default_rng(0)
    chance = [area(random_maps(rng, len(x), COARSENESS[method])) for _ in range(3)]
    assert area(heat) < np.mean(chance)
    keras.utils.set_random_seed(0)
    other = elu_zoo.ELUNet11()
    changed = explain.heat_map(other, x, classes, method, **SETTINGS.get(method, {}))
    with np.errstate(invalid="ignore"):  # A random network's map may be 0.
        both = np.corrcoef(heat.reshape(len(x), -1), changed.reshape(len(x), -1))
    assert np.nan_to_num(np.diag(both, len(x))).mean() < 0.5


@pytest.mark.parametrize("method", explain.METHODS)
def test_an_object_in_a_quadrant_is_pointed_at(method):
    model = elu_zoo.ELUNet11(weights="cifar100", input_shape=(64, 64, 3))
    # At twice the size of its training, the network is surest of this one.
    photo = np.asarray(Image.open(PHOTOS / "bicycle.png").convert("RGB"))
    x = np.random.default_rng(0).normal(127.5, 10, (2, 64, 64, 3))
    x[0, :32, 32:], x[1, 32:, :32] = photo, photo
    settings = {"integrated-gradients": {"steps": 6}, "occlusion": {"stride": 16}}
    heat = explain.heat_map(model, x, [8, 8], method, **settings.get(method, {}))
    quadrants = heat.reshape(2, 2, 32, 2, 32).sum((2, 4)).reshape(2, 4)
    assert quadrants.argmax(1).tolist() == [1, 2]


def test_filters_and_the_images_that_excite_units():
    model = elu_zoo.ELUNet11(width=0.05)
    kernel = array(model.get_layer("stack1_conv1").kernel)
    filters = explain.first_layer_filters(model)
    for unit, drawn in enumerate(filters):
        weights = kernel[..., unit]
        expected = 0.5 + 0.5 * weights / np.abs(weights).max()
        np.testing.assert_allclose(drawn, expected, atol=1e-6)
    x = images(12, 32)
    numbers, activations = explain.exciting_images(model, x, "stack2", 3, batch_size=5)
    every = array(elu_zoo.features(model)(x)["stack2"]).max((1, 2))
    np.testing.assert_array_equal(numbers, np.argsort(-every, axis=0)[:3].T)
    np.testing.assert_allclose(activations, -np.sort(-every, axis=0)[:3].T, rtol=1e-4)


def test_the_drawing_of_units():
    from training.units import draw

    model = elu_zoo.ELUNet11(width=0.05)
    drawing = ElementTree.fromstring(draw(model, images(6, 32), count=2))
    drawn = [i.get("href") for i in drawing.iter("{http://www.w3.org/2000/svg}image")]
    assert len(drawn) == 10 + 6 * 2  # Ten filters, two images of each of six stacks.
    first = Image.open(io.BytesIO(base64.b64decode(drawn[0].split(",")[1])))
    filters = np.rint(255 * explain.first_layer_filters(model)).astype("uint8")
    np.testing.assert_array_equal(np.asarray(first), filters[0])


def test_filters_of_a_fully_connected_layer_are_images():
    model = elu_zoo.MNISTClassifier(width=0.1)
    kernel = array(model.get_layer("stack1_dense1").kernel)
    filters = explain.first_layer_filters(model)
    assert filters.shape == (kernel.shape[1], 28, 28, 1)
    expected = 0.5 + 0.5 * kernel[:, 3] / np.abs(kernel[:, 3]).max()
    np.testing.assert_allclose(filters[3].ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: explain.heat_map(m, x, method="lime"), "'lime'"),
        (lambda m, x: explain.grad_cam(m, x, stack="stack9"), "stack='stack9'"),
        (lambda m, x: explain.occlusion(m, x[0]), r"shape \(32, 32, 3\)"),
        (lambda m, x: explain.occlusion(m, x, [4, 0]), "numbers from 0 to 3"),
        (lambda m, x: explain.occlusion(m, x, [0]), "2 class numbers"),
        (lambda m, x: explain.occlusion(m, x, size=4, stride=8), "stride=8"),
        (lambda m, x: explain.exciting_images(m, x, "stack1", 3), "count=3"),
        (
            lambda m, x: explain.grad_cam(
                elu_zoo.MNISTClassifier(), x[:, :28, :28, :1]
            ),
            "Use a different method than Grad-CAM",
        ),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(UserError, match=message):
        call(elu_zoo.ELUNet11(width=0.05, classes=4), images(2, 32))


def test_the_command(zoo, tmp_path, capsys):
    Image.fromarray(images(1, 40)[0].astype("uint8")).save(tmp_path / "a.png")
    command = ["explain", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png")]
    assert main([*command, "--class", "bee", "--method", "occlusion"]) == 0
    assert "occlusion for bee" in capsys.readouterr().out
    with Image.open(tmp_path / "b.png") as page:
        assert page.size == (768, 256)
    (tmp_path / "b.png").unlink()
    assert main([*command, "--class", "unicorn"]) == 1
    assert "'unicorn'" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()


def test_a_picture_shows_the_colors_of_more_channels():
    image, heat = np.zeros((8, 8, 4)), np.ones((8, 8))
    image[..., 3] = 255
    pages = [explain.picture(x, heat, [], side=64) for x in (image, image[..., :3])]
    np.testing.assert_array_equal(*map(np.asarray, pages))
