"""A zoo of a test's own: a manifest, weights files, a cache."""

import hashlib
import json

import keras
import numpy as np

from elu_zoo import weights

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
FILE = "net.small-0.weights.h5"


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
        self.checkout.parent.mkdir()
        (self.checkout.parent / "setup.py").touch()
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
        self.environ("ELU_ZOO_MIRROR", "\n".join(map(str, bases)))

    def put(self, folder, content=CONTENT):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(content)
        return folder / FILE


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
