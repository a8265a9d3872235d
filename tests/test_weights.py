import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest

import elu_zoo
from elu_zoo import weights

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
FILE = "net.small-0.weights.h5"


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /<behaviour>/<file> and notes what was asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.gate = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        wanted = self.headers["Range"]
        self.server.requests.append((behaviour, wanted))
        if behaviour.isdigit():
            return self.send_error(int(behaviour))
        if behaviour == "refuses_ranges" and wanted:
            return self.send_error(416)
        content = {
            "corrupts": OTHER,
            "shorter": CONTENT[:1000],
            "longer": CONTENT + b"more",
        }.get(behaviour, CONTENT)
        start = 0
        if wanted and behaviour != "ignores_ranges":
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1))
            shift = 7 if behaviour == "other_range" else 0
            self.send_response(206)
            end = len(content) - 1
            self.send_header(
                "Content-Range", f"bytes {start - shift}-{end}/{len(content)}"
            )
            start -= shift
        else:
            self.send_response(200)
        body = content[start:]
        if behaviour != "no_length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour == "waits":
            self.server.gate.wait(60)
        if behaviour in ("truncates", "stalls", "no_length"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if behaviour == "stalls":
            self.wfile.flush()
            self.server.gate.wait(60)


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


def record_of(content, **more):
    return {
        "file": FILE,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "urls": [],
        "model": "Net",
    } | more


class Zoo:
    """A manifest, a cache and a package folder of a test's own."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.cache = folder / "home/elu_zoo"
        self.package = folder / "site/elu_zoo/pretrained"
        self.checkout = folder / "site/pretrained"
        self.environ = monkeypatch.setenv
        self.publish({"net.small": record_of(CONTENT)})
        monkeypatch.setenv("ELU_ZOO_MANIFEST", str(folder / "manifest.json"))
        monkeypatch.setenv("KERAS_HOME", str(folder / "home"))
        monkeypatch.delenv("ELU_ZOO_MIRROR", raising=False)
        monkeypatch.delenv("ELU_ZOO_OFFLINE", raising=False)
        monkeypatch.setattr(weights, "_PACKAGE", self.package.parent)

    def publish(self, records, base_url=None):
        manifest = {"format": 1, "base_url": base_url, "weights": records}
        (self.folder / "manifest.json").write_text(json.dumps(manifest))

    def mirrors(self, *bases):
        self.environ("ELU_ZOO_MIRROR", " ".join(map(str, bases)))

    def put(self, folder, content=CONTENT):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(content)
        return folder / FILE

    def part(self):
        return self.cache / f"{FILE}.part"


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    return Zoo(tmp_path, monkeypatch)


def test_places_in_order(zoo, server, tmp_path):
    files = [zoo.put(zoo.cache), zoo.put(zoo.package), zoo.put(zoo.checkout)]
    files.append(zoo.put(tmp_path / "folder_mirror"))
    zoo.mirrors(files[-1].parent, f"{server.url}/mirror/")
    urls = [f"{server.url}/url{i}/{FILE}" for i in (1, 2)]
    zoo.publish({"net.small": record_of(CONTENT, urls=urls)}, f"{server.url}/base")
    for file in files:
        assert weights.fetch("net.small") == file
        file.unlink()
    assert server.requests == []

    for failing in range(4):
        server.requests.clear()
        places = ["mirror", "url1", "url2", "base"]
        places[:failing] = ["404"] * failing
        zoo.mirrors(f"{server.url}/{places[0]}")
        urls = [f"{server.url}/{place}/{FILE}" for place in places[1:3]]
        records = {"net.small": record_of(CONTENT, urls=urls)}
        zoo.publish(records, f"{server.url}/{places[3]}")
        assert weights.fetch("net.small") == zoo.cache / FILE
        assert [place for place, _ in server.requests] == places[: failing + 1]
        (zoo.cache / FILE).unlink()


BAD = [
    "truncates",
    "corrupts",
    "stalls",
    "404",
    "500",
    "shorter",
    "longer",
    "no_length",
]


@pytest.mark.parametrize("behaviour", BAD)
def test_bad_downloads_never_stay(zoo, server, monkeypatch, behaviour):
    if behaviour == "stalls":
        monkeypatch.setattr(weights, "TIMEOUT", 0.3)
    zoo.mirrors(f"{server.url}/{behaviour}")
    url = f"{server.url}/{behaviour}/{FILE}"
    with pytest.raises(OSError, match=re.escape(url)):
        weights.fetch("net.small")
    assert not (zoo.cache / FILE).exists()

    zoo.mirrors(f"{server.url}/{behaviour}", f"{server.url}/good")
    assert weights.fetch("net.small").read_bytes() == CONTENT
    assert not zoo.part().exists()

    server.requests.clear()
    zoo.mirrors(f"{server.url}/{behaviour}")
    assert weights.fetch("net.small").read_bytes() == CONTENT
    assert server.requests == []


def test_connection_refused(zoo):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        zoo.mirrors(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(OSError, match="refused"):
            weights.fetch("net.small")


@pytest.mark.parametrize("behaviour", ["truncates", "stalls"])
def test_resumes_where_it_ended(zoo, server, monkeypatch, behaviour):
    if behaviour == "stalls":
        monkeypatch.setattr(weights, "TIMEOUT", 0.3)
    half = len(CONTENT) // 2
    zoo.mirrors(f"{server.url}/{behaviour}")
    with pytest.raises(OSError):
        weights.fetch("net.small")
    assert zoo.part().read_bytes() == CONTENT[:half]
    zoo.mirrors(f"{server.url}/good")
    assert weights.fetch("net.small").read_bytes() == CONTENT
    assert server.requests == [(behaviour, None), ("good", f"bytes={half}-")]


@pytest.mark.parametrize(
    "behaviour, content, ranges",
    [
        ("ignores_ranges", CONTENT[:1000], ["bytes=1000-"]),
        ("refuses_ranges", CONTENT[:1000], ["bytes=1000-", None]),
        ("other_range", CONTENT[:1000], ["bytes=1000-", None]),
        ("good", OTHER[:1000], ["bytes=1000-", None]),
        ("good", OTHER, [None]),
        ("good", CONTENT, []),
        ("good", b"", [None]),
    ],
)
def test_starts_again_when_the_parts_do_not_fit(
    zoo, server, behaviour, content, ranges
):
    zoo.cache.mkdir(parents=True)
    zoo.part().write_bytes(content)
    zoo.mirrors(f"{server.url}/{behaviour}")
    assert weights.fetch("net.small").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ranges


def test_another_file_on_the_server_leaves_the_part(zoo, server):
    zoo.cache.mkdir(parents=True)
    zoo.part().write_bytes(CONTENT[:1000])
    zoo.mirrors(f"{server.url}/longer")
    with pytest.raises(OSError, match="300004 bytes, not 300000"):
        weights.fetch("net.small")
    assert zoo.part().read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_terminals(zoo, server, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    zoo.mirrors(f"{server.url}/good")
    weights.fetch("net.small")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (FILE in captured.err) == ("300k/300k" in captured.err) == terminal


def test_two_processes_share_one_download(zoo, server):
    zoo.mirrors(f"{server.url}/waits")
    code = (
        "from elu_zoo import weights; print('ready', flush=True); "
        "print(weights.fetch('net.small').stat().st_size)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
            cwd=pathlib.Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    server.gate.set()
    for process in processes:
        assert process.communicate(timeout=60)[0] == f"{len(CONTENT)}\n"
    assert server.requests == [("waits", None)]
    assert (zoo.cache / FILE).read_bytes() == CONTENT


def test_offline_opens_no_socket(zoo, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("a socket")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("ELU_ZOO_OFFLINE", "1")
    zoo.mirrors("http://127.0.0.1:9")
    with pytest.raises(OSError, match="ELU_ZOO_OFFLINE"):
        weights.fetch("net.small")
    assert weights.list_weights() == ["net.small"]
    packaged = zoo.put(zoo.package)
    assert weights.fetch("net.small") == packaged


def test_corrupt_files_are_passed_over_and_listed(zoo, server, tmp_path):
    bad = [zoo.put(folder, OTHER) for folder in (zoo.cache, zoo.package)]
    bad.append(zoo.put(tmp_path / "mirror", CONTENT[:9]))
    zoo.mirrors(bad[-1].parent, f"{server.url}/404")
    with pytest.raises(OSError) as caught:
        weights.fetch("net.small")
    lines = str(caught.value).splitlines()[1:]
    tried = [*bad[:2], zoo.checkout / FILE, bad[2], f"{server.url}/404/{FILE}"]
    for line, place in zip(lines, tried, strict=True):
        assert line.strip().startswith(f"{place}: ")
    assert "SHA-256" in lines[0] and "9 bytes" in lines[3] and "404" in lines[4]

    zoo.mirrors(f"{server.url}/good")
    assert weights.fetch("net.small") == zoo.cache / FILE
    assert (zoo.cache / FILE).read_bytes() == CONTENT
    assert (zoo.package / FILE).read_bytes() == OTHER


def test_a_file_that_changes_after_its_use_is_checked_again(zoo, server):
    zoo.mirrors(f"{server.url}/good")
    file = weights.fetch("net.small")
    file.write_bytes(OTHER)
    os.utime(file, (1, 1))
    assert weights.fetch("net.small").read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_cache_that_cannot_be_written(zoo, server, tmp_path):
    # A file in place of the folder: permissions do not stop a superuser.
    zoo.cache.parent.write_text("")
    zoo.mirrors(f"{server.url}/good")
    with pytest.raises(OSError, match="cannot be written.*KERAS_HOME"):
        weights.fetch("net.small")
    assert server.requests == []
    mirror = zoo.put(tmp_path / "mirror")
    zoo.mirrors(f"{server.url}/good", mirror.parent)
    assert weights.fetch("net.small") == mirror


def test_no_place_of_publication(zoo):
    with pytest.raises(OSError, match="(?s)Expected to find .*ELU_ZOO_MIRROR.*no URL"):
        weights.fetch("net.small")


def test_default_cache(zoo, server, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(zoo.folder / "user"))
    monkeypatch.setenv("USERPROFILE", str(zoo.folder / "user"))
    zoo.mirrors(f"{server.url}/good")
    assert weights.fetch("net.small") == zoo.folder / "user/.keras/elu_zoo" / FILE


def test_names(zoo, monkeypatch):
    names = ["elunet11.b", "elunet11.a", "mnist_classifier.mnist"]
    zoo.publish({name: record_of(CONTENT) for name in names})
    assert weights.list_weights() == sorted(names)
    assert weights.list_weights("ELUNet11") == ["elunet11.a", "elunet11.b"]
    assert weights.list_weights("MNISTClassifier") == ["mnist_classifier.mnist"]
    assert weights.get_record("elunet11.a")["name"] == "elunet11.a"
    with pytest.raises(ValueError, match="elunet11.a.*Received: 'elunet11.c'"):
        weights.get_record("elunet11.c")
    monkeypatch.setenv("ELU_ZOO_MANIFEST", str(zoo.folder / "none.json"))
    with pytest.raises(FileNotFoundError, match="none.json"):
        weights.list_weights()


def test_the_manifest_of_this_repository(monkeypatch):
    monkeypatch.delenv("ELU_ZOO_MANIFEST", raising=False)
    for name in weights.list_weights():
        record = weights.get_record(name)
        assert record["file"] == f"{name}-{record['sha256'][:8]}.weights.h5"
        assert len(record["class_names"]) == record["arguments"]["classes"]


# Reading and writing.


def network(units=4, classes=3, dropout=0.0, dtype=None, name="network", extra=False):
    with keras_policy(dtype or "float32"):
        x = inputs = keras.Input((5,))
        x = keras.layers.Normalization(name="preprocessing", mean=1.0, variance=2.0)(x)
        x = keras.layers.Dense(units, name="first")(x)
        x = keras.layers.BatchNormalization(name="norm")(x)
        if extra:
            x = keras.layers.Dense(units, name="extra")(x)
        x = keras.layers.Dropout(dropout, name="dropout")(x) if dropout else x
        x = keras.layers.Dense(classes, name="predictions")(x)
        return keras.Model(inputs, x, name=name)


@contextlib.contextmanager
def keras_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fill(model, seed):
    """Weights that bfloat16 can hold, so that rounding changes nothing."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.integers(-128, 128, variable.shape) / 64
        variable.assign(value.astype("float32"))
    return model


def values(model):
    return {
        (layer.name, i): np.array(keras.ops.cast(variable, "float32"))
        for layer in model.layers
        for i, variable in enumerate(layer.weights)
    }


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=str(key))


def save_plainly(model, path):
    model.save_weights(path)


@pytest.mark.parametrize("save", [weights.save_weights, save_plainly])
@pytest.mark.parametrize("dropouts", [(0.0, 0.5), (0.5, 0.0), (0.5, 0.5)])
def test_round_trip(tmp_path, save, dropouts):
    path = tmp_path / "a.weights.h5"
    source = fill(network(dropout=dropouts[0]), 0)
    save(source, path)
    target = fill(network(dropout=dropouts[1], name="other"), 1)
    weights.load_weights(target, path)
    assert_equal(values(target), values(source))


def test_frozen_layers_and_the_state_of_an_optimizer(tmp_path):
    path = tmp_path / "a.weights.h5"
    source = network()
    source.compile("adam", "mse", metrics=["mae"])
    source.fit(np.ones((4, 5)), np.ones((4, 3)), verbose=0)
    source.save_weights(path)
    with h5py.File(path) as file:
        assert "optimizer" in file
    target = fill(network(), 1)
    target.trainable = False
    weights.load_weights(target, path)
    assert_equal(values(target), values(source))


@pytest.mark.parametrize("save", [weights.save_weights, save_plainly])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_half_precision(tmp_path, save, dtype):
    path = tmp_path / "a.weights.h5"
    source = fill(network(dtype=dtype), 0)
    save(source, path)
    for target in (network(dtype=dtype), network()):
        weights.load_weights(target, path)
        assert_equal(values(target), values(source))


def test_more_than_ten_variables_in_a_layer(tmp_path):
    class Many(keras.layers.Layer):
        def build(self, shape):
            for i in range(12):
                self.add_weight(shape=(i + 1,), name=f"w{i}")

        def call(self, x):
            return x

    def build():
        inputs = keras.Input((1,))
        return keras.Model(inputs, Many(name="many")(inputs))

    source = fill(build(), 0)
    weights.save_weights(source, tmp_path / "a.weights.h5")
    target = fill(build(), 1)
    weights.load_weights(target, tmp_path / "a.weights.h5")
    assert_equal(values(target), values(source))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"units": 3},
            r"first: \[\(5, 4\), \(4,\)\] in the file, \[\(5, 3\), \(3,\)\]",
        ),
        ({"classes": 2}, "1 layers differ: predictions"),
        ({"extra": True}, "extra: not in the file"),
    ],
)
def test_a_misfit_assigns_nothing(tmp_path, arguments, message):
    path = tmp_path / "a.weights.h5"
    weights.save_weights(fill(network(), 0), path)
    target = fill(network(**arguments), 1)
    before = values(target)
    with pytest.raises(ValueError, match=message):
        weights.load_weights(target, path)
    assert_equal(values(target), before)

    weights.save_weights(target, path)
    smaller = fill(network(), 2)
    before = values(smaller)
    with pytest.raises(ValueError, match="layers differ"):
        weights.load_weights(smaller, path)
    assert_equal(values(smaller), before)


def test_skip(tmp_path):
    path = tmp_path / "a.weights.h5"
    source = fill(network(), 0)
    weights.save_weights(source, path)
    target = fill(network(classes=2), 1)
    before = values(target)
    weights.load_weights(target, path, skip=["pred", "preprocessing"])
    expected = {
        key: (before if key[0] == "predictions" else values(source))[key]
        for key in before
    }
    assert_equal(values(target), expected)


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "a.weights.h5"
    with pytest.raises(ValueError, match="cannot be read"):
        weights.load_weights(network(), path)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be read"):
        weights.load_weights(network(), path)
    weights.save_weights(network(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        weights.load_weights(network(), path)


def test_file_without_layer_names(tmp_path):
    path = tmp_path / "a.weights.h5"
    network().save_weights(path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    with pytest.raises(ValueError, match="Keras 3.6"):
        weights.load_weights(network(), path)


def test_links_to_other_files_are_not_followed(tmp_path):
    path, other = tmp_path / "a.weights.h5", tmp_path / "b.weights.h5"
    network().save_weights(path)
    network().save_weights(other)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(
            str(other), "/layers/dense/vars/0"
        )
    with pytest.raises(ValueError, match="first"):
        weights.load_weights(network(), path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        file.create_dataset(
            "layers/dense/vars/0", (5, 4), "float32", external=[(other, 0, 80)]
        )
    with pytest.raises(ValueError, match="no links.*dense/vars/0"):
        weights.load_weights(network(), path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        layout = h5py.VirtualLayout((5, 4), "float32")
        layout[:] = h5py.VirtualSource(other, "layers/dense/vars/0", (5, 4))
        file.create_virtual_dataset("layers/dense/vars/0", layout)
    with pytest.raises(ValueError, match="no links.*dense/vars/0"):
        weights.load_weights(network(), path)


def test_shapes_are_compared_before_anything_is_read(tmp_path):
    path = tmp_path / "a.weights.h5"
    network().save_weights(path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        # 2 PB, none of them stored.
        file.create_dataset("layers/dense/vars/0", (1 << 29, 1 << 20), chunks=True)
    with pytest.raises(ValueError, match="first: .*536870912"):
        weights.load_weights(network(), path)


def test_saved_files(tmp_path):
    model = network(units=9000, dropout=0.5)
    first, second, plain = (tmp_path / f"{i}.weights.h5" for i in range(3))
    weights.save_weights(model, first)
    model.get_layer("dropout").seed_generator.next()
    time.sleep(1.1)  # HDF5 can store times, in seconds.
    weights.save_weights(model, second)
    assert first.read_bytes() == second.read_bytes()
    model.save_weights(plain)
    assert first.stat().st_size < 0.75 * plain.stat().st_size
    assert sorted(tmp_path.iterdir()) == [first, second, plain]

    loaded = network(units=9000, dropout=0.5)
    loaded.load_weights(first)
    for key, value in values(model).items():
        expected = value.astype(ml_dtypes.bfloat16).astype("float32")
        np.testing.assert_array_equal(values(loaded)[key], expected)

    with pytest.raises(ValueError, match="weights.h5.*a.h5"):
        weights.save_weights(model, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_rounding_to_bfloat16():
    exponents = np.arange(2, 254, dtype="uint32") << 23
    mantissas = np.uint32(
        [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x10000, 0x18000, 0x17FFF, 0x7FFFFF]
    )
    positive = (exponents[:, None] | mantissas).ravel().view("float32")
    x = np.concatenate([positive, -positive])
    rounded = weights.round_to_bfloat16(x)
    assert rounded.dtype == np.float32
    assert not (rounded.view("uint32") & 0xFFFF).any()
    # In float64: 8 significant bits, ties to even.
    wide = x.astype("float64")
    step = 2.0 ** (np.floor(np.log2(np.abs(wide))) - 7)
    np.testing.assert_array_equal(rounded, np.rint(wide / step) * step)

    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(weights.round_to_bfloat16(special), special)
    assert weights.round_to_bfloat16(np.float32(1.003)).shape == ()
    np.testing.assert_array_equal(weights.round_to_bfloat16([1, 257]), [1, 257])


# The argument `weights` of the models.

TINY = {"width": 0.04, "classes": 7, "preprocessing": "rescale", "activation": "relu"}


@pytest.fixture
def tiny(zoo):
    model = elu_zoo.ELUNet11(**TINY, input_shape=(32, 32, 3))
    path = zoo.folder / "tiny.weights.h5"
    weights.save_weights(model, path)
    weights.load_weights(model, path)
    record = record_of(
        path.read_bytes(),
        model="ELUNet11",
        arguments=TINY,
        input_shape=[32, 32, 3],
        class_names=list("abcdefg"),
    )
    # An argument that the record does not name had its default.
    elu = record | {"arguments": {"classes": 7, "width": 0.04}}
    pyramid = elu | {"model": "ELUNet15"}
    zoo.publish(
        {
            "elunet11.tiny": record,
            "elunet18.other": record,
            "elunet11.elu": elu,
            "elunet15.pyramid": pyramid,
        }
    )
    zoo.put(zoo.package, path.read_bytes())
    return model


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")


def outputs(model):
    return keras.ops.convert_to_numpy(model(IMAGES))


@pytest.mark.parametrize("tag", ["tiny", "elunet11.tiny", "path"])
def test_model_with_weights(zoo, tiny, capsys, tag):
    if tag == "path":
        model = elu_zoo.ELUNet11(weights=zoo.folder / "tiny.weights.h5", **TINY)
    else:
        model = elu_zoo.ELUNet11(weights=tag)
    assert_equal(values(model), values(tiny))
    np.testing.assert_allclose(outputs(model), outputs(tiny), rtol=1e-6)
    assert capsys.readouterr() == ("", "")


def test_other_classes(tiny, capsys):
    model = elu_zoo.ELUNet11(weights="tiny", classes=5)
    assert model.output_shape == (None, 5)
    captured = capsys.readouterr()
    assert len((captured.out + captured.err).splitlines()) == 1
    assert "5 classes" in captured.out + captured.err
    trunk = {k: v for k, v in values(tiny).items() if k[0] != "predictions"}
    found = values(model)
    assert found.pop(("predictions", 0)).std() > 0
    assert not found.pop(("predictions", 1)).any()
    assert_equal(found, trunk)


def test_without_top_or_preprocessing(tiny):
    trunk = elu_zoo.ELUNet11(weights="tiny", include_top=False)
    expected = {k: v for k, v in values(tiny).items() if k[0] != "predictions"}
    assert_equal(values(trunk), expected)
    bare = elu_zoo.ELUNet11(weights="tiny", include_preprocessing=False)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(bare(IMAGES / np.float32(255))),
        outputs(tiny),
        rtol=1e-4,
    )


def test_preprocessing_with_statistics_can_be_left_out(zoo):
    arguments = {"width": 0.04, "classes": 7}
    full = elu_zoo.ELUNet11(**arguments)
    path = zoo.folder / "full.weights.h5"
    weights.save_weights(full, path)
    bare = elu_zoo.ELUNet11(weights=path, include_preprocessing=False, **arguments)
    weights.load_weights(full, path)
    expected = {k: v for k, v in values(full).items() if k[0] != "preprocessing"}
    assert_equal(values(bare), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weights": "tiny", "width": 0.5}, "made with width=0.04.*width=0.5"),
        ({"weights": "tiny", "width": 1.0}, "made with width=0.04.*width=1.0"),
        ({"weights": "tiny", "activation": "leaky_relu"}, "activation"),
        ({"weights": "elu", "activation": "relu"}, "activation='elu'.*'relu'"),
        ({"weights": "elu", "batch_normalization": True}, "batch_normalization=False"),
        ({"weights": "elu", "preprocessing": "rescale"}, "'standardize'.*'rescale'"),
        ({"weights": "imagenet"}, r"published yet.*elunet11\.tiny.*training\.publish"),
        ({"weights": "elunet18.other"}, "of another"),
        ({"weights": "none.weights.h5"}, "existing file"),
        ({"weights": "folder/none"}, "existing file"),
        ({"weights": 3}, "weights=3"),
    ],
)
def test_weights_that_do_not_fit(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        elu_zoo.ELUNet11(**arguments)


def test_a_pyramid_in_another_order_does_not_fit(tiny):
    with pytest.raises(ValueError, match=r"pyramid_levels=\(4, 2, 1\)"):
        elu_zoo.ELUNet15(weights="pyramid", pyramid_levels=(1, 2, 4))


def test_arguments_that_leave_the_weights_as_they_are(tiny):
    model = elu_zoo.ELUNet11(
        weights="tiny", dropout=0.1, kernel_initializer="he_normal", width=0.04
    )
    assert_equal(values(model), values(tiny))
