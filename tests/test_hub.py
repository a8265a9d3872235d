"""Weights on the Hugging Face Hub, here a server of the tests' own."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from hub_server import Hub
from publishing import assert_equal, values

import elu_zoo
from elu_zoo import _fetching, _hub, weights
from elu_zoo._weight_files import load_weights, save_weights
from elu_zoo.cli.common import known_model
from elu_zoo.errors import UserError
from elu_zoo.heads import HEAD
from training import hub, publish

constants = pytest.importorskip("huggingface_hub.constants")
ROOT = pathlib.Path(__file__).parents[1]
FILE = "elunet11.tiny-0.weights.h5"
NAMES = ["cat", "dog", "owl"]


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    # The library reads its variables once, when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.delenv("ELU_ZOO_OFFLINE", raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network and the files of its repository."""
    model = elu_zoo.ELUNet11(width=0.05, classes=3)
    path = tmp_path_factory.mktemp("small") / FILE
    save_weights(model, path)
    load_weights(model, path)
    content = path.read_bytes()
    record = {
        "model": "ELUNet11",
        "arguments": {"width": 0.05, "classes": 3},
        "input_shape": [32, 32, 3],
        "class_names": NAMES,
        "file": FILE,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    return model, {_hub.RECORD: json.dumps(record).encode(), FILE: content}


def test_a_model_of_the_hub_is_the_published_one(server, small):
    model, files = small
    first = server.commit("owner/net", files)
    server.commit("owner/net", {})
    address = f"hf://owner/net@{first}"
    for loaded in (elu_zoo.load(address), elu_zoo.ELUNet11(weights=address)):
        assert_equal(values(loaded), values(model))
        record = elu_zoo.get_record(loaded)
        assert record.name == address and record.class_names == tuple(NAMES)


def test_class_names_tell_the_number_of_classes(server, small):
    model, files = small
    record = json.loads(files[_hub.RECORD]) | {"arguments": {"width": 0.05}}
    server.commit("owner/net", files | {_hub.RECORD: json.dumps(record).encode()})
    assert_equal(values(elu_zoo.load("hf://owner/net")), values(model))
    del record["class_names"]
    server.commit("owner/net", files | {_hub.RECORD: json.dumps(record).encode()})
    with pytest.raises(UserError, match="state the number of classes"):
        elu_zoo.load("hf://owner/net")
    trunk = elu_zoo.ELUNet11(weights="hf://owner/net", include_top=False)
    trained = {key: array for key, array in values(model).items() if key[0] != HEAD}
    assert_equal(values(trunk), trained)


def test_an_output_layer_starts_from_the_classes_of_the_hub(server, small):
    model, files = small
    server.commit("owner/net", files)
    tuned = elu_zoo.load("hf://owner/net", classes=["owl", "cat"])
    kernel = model.get_layer("predictions").get_weights()[0]
    np.testing.assert_allclose(
        tuned.get_layer("predictions").get_weights()[0], kernel[:, [2, 0]], atol=1e-6
    )


def test_commands_take_addresses():
    assert known_model("hf://owner/net") == "hf://owner/net"


def test_offline_the_cache_serves(server, small, monkeypatch):
    _, files = small
    server.commit("owner/net", files)
    record = elu_zoo.get_record("hf://owner/net")
    _fetching.fetch(record.name)
    server.requests.clear()
    monkeypatch.setenv("ELU_ZOO_OFFLINE", "1")
    assert elu_zoo.get_record("hf://owner/net") == record
    assert _fetching.fetch(record.name).read_bytes() == files[FILE]
    with pytest.raises(OSError, match="record.json at hf://owner/other"):
        elu_zoo.get_record("hf://owner/other")
    assert server.requests == []


def test_a_wrong_hash_is_refused_and_a_damaged_cache_mended(server, small):
    _, files = small
    server.commit("owner/net", files | {FILE: files[FILE][::-1]})
    with pytest.raises(OSError, match="different SHA-256"):
        elu_zoo.load("hf://owner/net")
    server.commit("owner/net", files)
    record = elu_zoo.get_record("hf://owner/net")
    path = _fetching.fetch(record.name)
    path.resolve().write_bytes(b"damaged")
    assert _fetching.fetch(record.name).read_bytes() == files[FILE]


@pytest.mark.parametrize(
    "address, record, error, message",
    [
        ("hf://net", None, UserError, "an address hf://owner/name"),
        ("hf://owner/../net", None, UserError, "an address hf://owner/name"),
        ("hf://owner/none", None, OSError, "hf://owner/none, in the cache or on"),
        ("hf://owner/net@v2", {}, OSError, "hf://owner/net@v2"),
        ("hf://owner/net", [1], UserError, "to be a record of weights"),
        ("hf://owner/net", {"input_shape": 3}, UserError, "to be a record"),
        ("hf://owner/net", {"file": "../a.weights.h5"}, UserError, "the same folder"),
        (
            "hf://owner/net",
            {"file": FILE, "class_names": ["\033]0;title"]},
            UserError,
            "one line of UTF-8 text",
        ),
        (
            "hf://owner/net",
            {"model": "ELUNet18", "file": FILE},
            UserError,
            "belong to 'ELUNet18'",
        ),
    ],
)
def test_bad_addresses_and_records(server, address, record, error, message):
    if record is not None:
        server.commit("owner/net", {_hub.RECORD: json.dumps(record).encode()})
    with pytest.raises(error, match=message):
        elu_zoo.ELUNet11(weights=address)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'elu-zoo\[hub\]'"):
        hub.upload("any", "owner/x", ROOT / "pretrained", ROOT / "docs/results")
    with pytest.raises(UserError, match=r"pip install 'elu-zoo\[hub\]'"):
        elu_zoo.load("hf://owner/net")


def test_publishing_to_the_hub(server, capsys, tmp_path):
    yaml = pytest.importorskip("yaml")
    name = "mnist_classifier.mnist"
    old = {"old.weights.h5": b"old", "notes.txt": b"notes"}
    server.commit("owner/mnist", old)
    publish.main(["--name", name, "--to-hub", "owner/mnist"])
    address = capsys.readouterr().out.strip()
    commit, files = server.find("owner/mnist", "main")
    assert address == f"hf://owner/mnist@{commit}"
    record = weights.get_record(name)
    assert "old.weights.h5" not in files and files["notes.txt"] == b"notes"
    assert hashlib.sha256(files[record.file]).hexdigest() == record.sha256

    facts = yaml.safe_load(server.headers[-1])
    (entry,) = facts["model-index"]
    (result,) = entry["results"]
    assert facts["license"] == "apache-2.0" and entry["name"] == name
    assert facts["pipeline_tag"] == result["task"]["type"] == "image-classification"
    assert result["metrics"][0]["value"] == round(1 - record.metrics["error"], 4)
    card = files["README.md"].decode()
    assert "](../" not in card and "](curve.svg)" in card and "curve.svg" in files

    assert_equal(values(elu_zoo.load(address)), values(elu_zoo.load(name)))
    # With nothing new, nothing is committed.
    publish.main(["--name", name, "--to-hub", "owner/mnist"])
    with pytest.raises(UserError, match="published weights"):
        hub.upload("net.none", "owner/x", ROOT / "pretrained", tmp_path)


def test_huggingface_hubs_variables_hold_for_commands(server, small, tmp_path):
    _, files = small
    server.commit("owner/net", files)
    command = [sys.executable, "-m", "elu_zoo", "fetch", "hf://owner/net"]
    environment = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "KERAS_BACKEND": keras.backend.backend(),
    }
    for offline in ("0", "1"):
        result = subprocess.run(
            [*command, "--to", str(tmp_path / offline)],
            cwd=ROOT,
            env=os.environ | environment | {"HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert (tmp_path / offline / FILE).read_bytes() == files[FILE]
