import dataclasses
import importlib.util
import io
import json
import pathlib
import struct
import subprocess
import sys
import zipfile
import zlib

import keras
import numpy as np
import pytest
from PIL import Image

import elu_zoo
import elu_zoo.errors
import elu_zoo.exporting
from elu_zoo.predictions import set_threshold
from elu_zoo.records import Preprocessing, attach_record
from elu_zoo.weights import get_record

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="SavedModels are TensorFlow's"
)
SMALL = np.ones((1, 4, 4, 3), "uint8")
NAMES = ["a", "b", "c", "d", "e", "f", "g"]


def encode(array, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def picture(height=32, width=32, seed=0):
    """Smooth enough that JPEG and two ways of resizing agree."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype("uint8")
    return np.asarray(Image.fromarray(blocks).resize((width, height), 3))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return elu_zoo.ELUNet11(width=0.1, classes=7, dropout=0.2)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return elu_zoo.export_saved_model(model, folder, class_names=NAMES, top=3)


@pytest.fixture(scope="module")
def signatures(exported):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported))
    yield loaded.signatures


def serve(signatures, items):
    import tensorflow as tf

    data = tf.constant(items, tf.string, shape=[len(items)])
    answer = signatures["serve_bytes"](image_bytes=data)
    return {name: value.numpy() for name, value in answer.items()}


def expected(model, array):
    probabilities = np.asarray(model(array[None].astype("float32")))[0]
    order = np.argsort(-probabilities)[:3]
    return [NAMES[i].encode() for i in order], probabilities[order]


def test_signature_names_and_types(signatures):
    default, data = signatures["serving_default"], signatures["serve_bytes"]
    assert default.structured_input_signature[1]["image"].shape.as_list() == [
        *(None, 32, 32, 3)
    ]
    assert set(default.structured_outputs) == {"probabilities"}
    assert data.structured_input_signature[1]["image_bytes"].dtype == "string"
    types = {k: v.dtype.name for k, v in data.structured_outputs.items()}
    assert types == {"classes": "string", "probabilities": "float32", "valid": "bool"}


@pytest.mark.parametrize("count", [0, 1, 7])
def test_any_batch_size(model, signatures, count):
    import tensorflow as tf

    images = np.stack([picture(seed=i) for i in range(7)])[:count]
    answer = signatures["serving_default"](
        image=tf.constant(images, tf.float32, shape=(count, 32, 32, 3))
    )["probabilities"].numpy()
    assert answer.shape == (count, 7)
    if count:
        np.testing.assert_allclose(answer, model(images), atol=1e-5)
    data = serve(signatures, [encode(image) for image in images])
    assert data["classes"].shape == (count, 3)
    for i, image in enumerate(images):
        names, scores = expected(model, image)
        assert list(data["classes"][i]) == names
        np.testing.assert_allclose(data["probabilities"][i], scores, atol=1e-5)


def png_chunk(kind, data):
    length, checksum = len(data), zlib.crc32(kind + data)
    return length.to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")


def black_png(width, height, rows):
    """A PNG of two colours, with only so many of its rows."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * (1 + (width + 7) // 8)))
    chunks = (b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def junk():
    png, jpeg = encode(picture()), encode(picture(), "JPEG")
    header = jpeg.index(b"\xff\xc0") + 5
    large = jpeg[:header] + struct.pack(">HH", 10_100, 10_000) + jpeg[header + 4 :]
    return {
        "nothing": b"",
        "text": b"no image",
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "half a PNG": png[: len(png) // 2],
        "a PNG but for its end": png[:-20],
        "a JPEG that claims 101 megapixels": large,
        "a TIFF": encode(picture(), "TIFF"),
        "a PNG of no pixels": black_png(0, 0, rows=0),
        "a PNG that claims all pixels there can be": black_png(2**31 - 1, 2**31 - 1, 0),
        "a PNG that claims more": black_png(2**32 - 1, 2**32 - 1, 0),
        "a PNG of 101 megapixels": black_png(10_100, 10_000, rows=10_000),
        "a strip that would grow to gigabytes": black_png(1, 1_000_000, rows=1_000_000),
    }


@pytest.mark.parametrize("kind", junk())
def test_one_bad_image_leaves_its_batch_alone(model, signatures, kind):
    good = picture()
    data = serve(signatures, [encode(good), junk()[kind], encode(good)])
    assert list(data["valid"]) == [True, False, True]
    assert list(data["classes"][1]) == [b""] * 3
    assert not data["probabilities"][1].any()
    names, scores = expected(model, good)
    for i in (0, 2):
        assert list(data["classes"][i]) == names
        np.testing.assert_allclose(data["probabilities"][i], scores, atol=1e-5)


def test_gray_alpha_16_bit_and_two_colours(model, signatures):
    array = picture()
    gray = array[..., 0]
    wide = io.BytesIO()
    Image.fromarray(gray.astype("uint16") * 257).save(wide, "PNG")
    items = {
        "gray": (encode(gray), np.repeat(gray[..., None], 3, -1)),
        "alpha": (encode(np.dstack([array, gray])), array),
        "16 bit": (wide.getvalue(), np.repeat(gray[..., None], 3, -1)),
        "two colours": (black_png(32, 32, rows=32), np.zeros_like(array)),
    }
    data = serve(signatures, [content for content, _ in items.values()])
    assert data["valid"].all()
    for row, (_, pixels) in zip(data["probabilities"], items.values(), strict=True):
        np.testing.assert_allclose(row, expected(model, pixels)[1], atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (50, 80), (90, 41), (20, 30)])
def test_other_sizes_are_resized_and_cropped_as_by_preprocess_input(
    model, signatures, size
):
    content = encode(picture(*size), "JPEG")
    image = Image.open(io.BytesIO(content))
    pixels = elu_zoo.images.resize(image, 32)
    row = serve(signatures, [content])["probabilities"][0]
    np.testing.assert_allclose(row, expected(model, pixels)[1], atol=2e-3)


def test_loads_in_a_process_with_tensorflow_alone(model, exported, tmp_path):
    image = picture()
    (tmp_path / "image.png").write_bytes(encode(image))
    code = (
        "import sys\n"
        "sys.modules['keras'] = None  # importing it fails\n"
        "import tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serve_bytes']\n"
        "data = open('image.png', 'rb').read()\n"
        "answer = serve(image_bytes=tf.constant([data]))\n"
        "print(*answer['probabilities'].numpy()[0].tolist())\n"
        "assert 'elu_zoo' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(exported)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    answer = [float(x) for x in result.stdout.split()]
    np.testing.assert_allclose(answer, expected(model, image)[1], atol=1e-5)


def test_logits_become_probabilities(model, tmp_path):
    import tensorflow as tf

    logits = elu_zoo.ELUNet11(width=0.1, classes=7, classifier_activation=None)
    logits.set_weights(model.get_weights())
    path = elu_zoo.export_saved_model(logits, tmp_path)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    images = picture()[None].astype("float32")
    np.testing.assert_allclose(
        serve(image=tf.constant(images))["probabilities"], model(images), atol=1e-5
    )


def test_logits_of_a_model_in_a_model_become_probabilities(tmp_path):
    import tensorflow as tf

    inner = elu_zoo.ELUNet11(width=0.1, classes=4, classifier_activation=None)
    outer = keras.Sequential([keras.Input((32, 32, 3)), inner])
    images = picture()[None].astype("float32")
    logits = np.asarray(inner(images), "float64")
    expected = np.exp(logits) / np.exp(logits).sum()
    path = elu_zoo.export_saved_model(outer, tmp_path)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    answer = serve(image=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_weights_are_stored_once(model, exported):
    size = sum(p.stat().st_size for p in (exported / "variables").iterdir())
    weights = sum(np.asarray(v).nbytes for v in model.variables)
    assert size < 1.05 * weights + 10_000


def test_no_op_needs_xla_or_a_gradient(exported):
    content = b"".join(p.read_bytes() for p in exported.rglob("*") if p.is_file())
    assert b"_XlaMustCompile" not in content and b"XlaLaunch" not in content
    assert b"_gradient_op_type" not in content
    assert (exported / "assets.extra/class_names.txt").read_text().split() == NAMES


def test_versions_count_up_and_nothing_half_written_stays(model, tmp_path):
    assert elu_zoo.export_saved_model(model, tmp_path).name == "1"
    (tmp_path / "7").mkdir()
    assert elu_zoo.export_saved_model(model, tmp_path).name == "8"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "7", "8"]


def test_a_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
    import tensorflow as tf

    def fail(module, folder, signatures):
        (pathlib.Path(folder) / "saved_model.pb").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space"):
        elu_zoo.export_saved_model(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mixed_precision_models_are_served_in_float32(tmp_path):
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = elu_zoo.ELUNet11(width=0.1, classes=3)
    finally:
        keras.config.set_dtype_policy(before)
    plain = elu_zoo.ELUNet11(width=0.1, classes=3)
    plain.set_weights(mixed.get_weights())
    path = elu_zoo.export_saved_model(mixed, tmp_path)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    images = picture()[None].astype("float32")
    np.testing.assert_allclose(
        serve(image=tf.constant(images))["probabilities"], plain(images), atol=1e-5
    )


def test_two_exports_at_once_get_two_versions(model, tmp_path, monkeypatch):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "file").write_text("of the other process")
    versions = iter((1, 2))
    monkeypatch.setattr(elu_zoo.exporting, "_next_version", lambda path: next(versions))
    assert elu_zoo.export_saved_model(model, tmp_path) == tmp_path / "2"
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["file"]


def test_a_saved_model_in_mixed_precision_can_be_exported(tmp_path):
    keras.utils.set_random_seed(1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = elu_zoo.MNISTClassifier(width=0.3)
    finally:
        keras.config.set_dtype_policy(before)
    for layer in mixed.layers:  # So that the answers differ by more than is allowed.
        if hasattr(layer, "kernel"):
            layer.kernel.assign(2 * layer.kernel)
    mixed.save(tmp_path / "mixed.keras")
    loaded = elu_zoo.load(tmp_path / "mixed.keras")
    assert elu_zoo.export(loaded, tmp_path / "served").difference < 1e-4


def test_nested_models_change_their_precision_too(tmp_path):
    import tensorflow as tf

    def classifier():
        keras.utils.set_random_seed(1)
        trunk = elu_zoo.ELUNet11(width=0.1, include_top=False, pooling="avg")
        x = inputs = keras.Input((32, 32, 3))
        for layer in (trunk, keras.layers.Dense(3, activation="softmax")):
            x = layer(x)
        return keras.Model(inputs, x)

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = classifier()
    finally:
        keras.config.set_dtype_policy(before)
    plain = classifier()
    plain.set_weights(mixed.get_weights())
    images = picture()[None].astype("float32")
    expected = np.asarray(plain(images))
    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 0.02)):
        path = elu_zoo.export_saved_model(mixed, tmp_path, dtype=dtype)
        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]
        answer = serve(image=tf.constant(images))["probabilities"]
        np.testing.assert_allclose(answer, expected, atol=tolerance)
        kernel = max(serve.variables, key=lambda v: np.prod(v.shape))
        assert kernel.dtype == dtype


def test_bfloat16_halves_the_weights(model, exported, tmp_path):
    import tensorflow as tf

    path = elu_zoo.export_saved_model(model, tmp_path, dtype="bfloat16")
    sizes = [
        (p / "variables/variables.data-00000-of-00001").stat().st_size
        for p in (path, exported)
    ]
    assert sizes[0] < 0.55 * sizes[1]
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    images = picture()[None].astype("float32")
    np.testing.assert_allclose(
        serve(image=tf.constant(images))["probabilities"], model(images), atol=0.01
    )


def test_any_image_size_of_the_15_layer_network(tmp_path):
    import tensorflow as tf

    net = elu_zoo.ELUNet15(
        width=0.03, classes=4, input_shape=(None, None, 3), stem_strides=1
    )
    with pytest.raises(ValueError, match="resize=SIDE"):
        elu_zoo.export_saved_model(net, tmp_path)
    path = elu_zoo.export_saved_model(net, tmp_path, resize=48)
    signatures = tf.saved_model.load(str(path)).signatures
    for size in (32, 57):
        image = picture(size, size)[None].astype("float32")
        np.testing.assert_allclose(
            signatures["serving_default"](image=tf.constant(image))["probabilities"],
            net(image),
            atol=1e-5,
        )
    content = encode(picture(48, 48))
    answer = signatures["serve_bytes"](image_bytes=tf.constant([content]))
    top = np.sort(np.asarray(net(picture(48, 48)[None].astype("float32")))[0])[::-1]
    np.testing.assert_allclose(answer["probabilities"][0], top, atol=1e-5)


def run_file(path, images):
    """Probabilities of a file, by its runtime alone; also its metadata."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        metadata = session.get_modelmeta().custom_metadata_map
        return session.run(None, {"image": images})[0], metadata
    if path.suffix == ".xml":
        import openvino

        core = openvino.Core()
        read = core.read_model(path)
        metadata = {
            key: read.get_rt_info(["elu_zoo", key]).astype(str)
            for key in ("class_names", "preprocessing", "threshold")
            if read.has_rt_info(["elu_zoo", key])
        }
        hint = ["runtime_options", "INFERENCE_PRECISION_HINT"]
        options = {}
        if read.has_rt_info(hint):
            options[hint[-1]] = read.get_rt_info(hint).astype(str)
        return core.compile_model(read, "CPU", options)(images)[0], metadata
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner()
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("metadata.json"))
    return run(image=images)["probabilities"], metadata


FILES = [
    ("onnx", "model.onnx", "float32", 1e-5),
    ("onnx", "model.onnx", "float16", 5e-3),
    ("openvino", "model.xml", "float32", 1e-5),
    ("onnx", "model.onnx", "int8", 5e-2),
    ("openvino", "model.xml", "float16", 2e-2),
    ("openvino", "model.xml", "int8", 5e-2),
    ("litert", "model.tflite", "float32", 1e-5),
    ("litert", "model.tflite", "float16", 5e-3),
    ("litert", "model.tflite", "int8", 5e-2),
]


@pytest.mark.parametrize("format, name, dtype, tolerance", FILES)
def test_other_runtimes(model, tmp_path, format, name, dtype, tolerance):
    # Loaded from a file and never called: Keras's own export fails with such a model.
    model.save(tmp_path / "saved.keras")
    loaded = keras.saving.load_model(tmp_path / "saved.keras")
    set_threshold(loaded, 0.25)
    path = tmp_path / "out" / name
    many = np.stack([picture(seed=i) for i in range(7)])
    calibration = many if dtype == "int8" and format != "litert" else None
    exported = elu_zoo.export(
        loaded, path, format, NAMES, dtype=dtype, calibration=calibration
    )
    assert exported.path == path and exported.difference < tolerance
    assert run_file(path, np.zeros((0, 32, 32, 3), "float32"))[0].shape == (0, 7)
    for count in (1, 7, 64):
        images = np.resize(many, (count, 32, 32, 3))
        images = images.astype("float32")
        probabilities, metadata = run_file(path, images)
        np.testing.assert_allclose(probabilities, model(images), atol=tolerance)
    assert json.loads(metadata["class_names"]) == NAMES
    assert json.loads(metadata["preprocessing"])["resize"] == 32
    assert json.loads(metadata["threshold"]) == 0.25
    files = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert files == {path.suffix} | ({".bin"} if format == "openvino" else set())
    weights_file = path.with_suffix(".bin") if format == "openvino" else path
    share = {"float32": 1.0, "float16": 0.5, "int8": 0.25}[dtype]
    weights = sum(np.asarray(v).nbytes for v in model.variables)
    assert weights_file.stat().st_size < share * weights + 60_000


@pytest.mark.parametrize("format, name", sorted({file[:2] for file in FILES}))
def test_other_runtimes_take_any_image_size(tmp_path, format, name):
    net = elu_zoo.ELUNet15(
        width=0.03, classes=4, input_shape=(None, None, 3), stem_strides=1
    )
    best = dataclasses.replace(get_record(net), preprocessing=Preprocessing(52, 48))
    attach_record(net, best)
    path = elu_zoo.export(net, tmp_path / name, format).path
    for size in (33, 57):
        images = picture(size, size)[None].astype("float32")
        probabilities, metadata = run_file(path, images)
        np.testing.assert_allclose(probabilities, net(images), atol=1e-5)
    how = json.loads(metadata["preprocessing"])
    assert (how["resize"], how["crop"]) == (52, 48)


def test_a_file_that_differs_is_not_left_behind(model, tmp_path, monkeypatch):
    broken = elu_zoo.ELUNet11(width=0.1, classes=7)
    runtimes = elu_zoo.exporting.RUNTIMES
    write = runtimes["onnx"].write

    def write_another(module, *arguments):
        write(elu_zoo.exporting._plain_module(broken), *arguments)

    monkeypatch.setitem(
        runtimes, "onnx", runtimes["onnx"]._replace(write=write_another)
    )
    (tmp_path / "model.onnx").write_text("the file from before")
    with pytest.raises(elu_zoo.errors.UserError, match="differs by"):
        elu_zoo.export(model, tmp_path / "model.onnx", "onnx")
    (only,) = tmp_path.iterdir()
    assert only.read_text() == "the file from before"


def test_a_missing_runtime_is_an_error_that_says_how_to_install_it(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(elu_zoo.errors.UserError, match=r"pip install 'elu-zoo\[export"):
        elu_zoo.export(model, tmp_path / "model.onnx", "onnx")


def test_a_quantized_model_is_an_error_that_says_so(tmp_path):
    net = elu_zoo.ELUNet15(width=0.03, classes=4, input_shape=(48, 48, 3))
    net.quantize("int8")
    with pytest.raises(elu_zoo.errors.UserError, match="from before `quantize`"):
        elu_zoo.export_saved_model(net, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"path": "m.onnx", "format": "pickle"}, "format='pickle'"),
        ({"path": "m.pb", "format": "onnx"}, "path to end in '.onnx'"),
        ({"path": "m.onnx", "format": "onnx", "dtype": "bfloat16"}, "dtype='bfloat16'"),
        ({"path": "m.onnx", "format": "onnx", "dtype": "int8"}, "Received: none"),
        ({"path": "m", "calibration": SMALL}, "Received: calibration images"),
        (
            {"path": "m.xml", "format": "openvino", "dtype": "int8"}
            | {"calibration": SMALL},
            r"Received: shape \(1, 4, 4, 3\)",
        ),
    ],
)
def test_bad_formats(model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(elu_zoo.errors.UserError, match=message):
        elu_zoo.export(model, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"class_names": ["a"]}, "7 class names"),
        ({"class_names": [*"abcdef", "g\n"]}, "one line of UTF-8 text"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"resize": 64}, "resize=64"),
        ({"top": 0}, "top=0"),
    ],
)
def test_bad_arguments(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        elu_zoo.export_saved_model(model, tmp_path / "x", **arguments)
    assert not (tmp_path / "x").exists()


def test_features_are_no_probabilities(tmp_path):
    trunk = elu_zoo.ELUNet11(width=0.05, include_top=False)
    with pytest.raises(ValueError, match="one output of shape"):
        elu_zoo.export_saved_model(trunk, tmp_path)


def test_numbers_as_class_names(tmp_path):
    net = elu_zoo.ELUNet11(width=0.05, classes=2)
    path = elu_zoo.export_saved_model(net, tmp_path, class_names=[3, 5])
    assert (path / "assets.extra/class_names.txt").read_text() == "3\n5\n"


def test_the_record_names_and_calibrates(tmp_path):
    import tensorflow as tf

    net = elu_zoo.ELUNet11(width=0.05, classes=2)
    record = dataclasses.replace(
        get_record(net), class_names=("cat", "dog"), temperature=2.0, threshold=0.9
    )
    attach_record(net, record)
    path = elu_zoo.export_saved_model(net, tmp_path)
    assert (path / "assets.extra/class_names.txt").read_text() == "cat\ndog\n"
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("float32")
    signatures = tf.saved_model.load(path).signatures
    serve, file = signatures["serving_default"], encode(picture())
    answer = signatures["serve_bytes"](image_bytes=tf.constant([file, b"no image"]))
    assert answer["classes"].numpy().tolist() == [[b"none of these", b""], [b"", b""]]
    roots = np.sqrt(np.asarray(net(images), "float64"))
    np.testing.assert_allclose(
        serve(image=images)["probabilities"],
        roots / roots.sum(-1, keepdims=True),
        rtol=1e-5,
    )


def test_a_saved_model_reads_images_of_one_or_three_channels(tmp_path):
    model = elu_zoo.ELUNet11(width=0.05, classes=2, input_shape=(32, 32, 4))
    with pytest.raises(elu_zoo.errors.UserError, match="Received: 4 channels"):
        elu_zoo.export_saved_model(model, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_images_that_are_not_square(tmp_path):
    net = elu_zoo.ELUNet11(width=0.05, classes=4, input_shape=(32, 64, 3))
    path = elu_zoo.export(net, tmp_path / "model.onnx", "onnx").path
    images = picture(32, 64)[None].astype("float32")
    probabilities, metadata = run_file(path, images)
    np.testing.assert_allclose(probabilities, net(images), atol=1e-5)
    assert "preprocessing" not in metadata
