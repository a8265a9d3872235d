"""A real server on localhost: image bytes over HTTP, the model's answers back."""

import base64
import importlib.util
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
from PIL import Image

import elu_zoo

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="SavedModels are TensorFlow's"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("mlserver") is None,
        reason="needs MLServer: pip install 'mlserver>=1.7'",
    ),
]
DOCS = pathlib.Path(__file__).parents[1] / "docs/serving/mlserver"
NAMES = ["ant", "bee", "cat", "dog"]
# Straight to localhost, whatever proxy the environment names.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return elu_zoo.ELUNet11(width=0.1, classes=4)


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(DOCS, folder, dirs_exist_ok=True)
    elu_zoo.export_saved_model(model, folder / "served", class_names=NAMES, top=3)
    http, grpc, metrics = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from mlserver.cli import main; main()",
                "start",
                ".",
            ],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    base = f"http://127.0.0.1:{http}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                OPENER.open(f"{base}/v2/models/elu/ready", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"MLServer did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.3)
        yield f"{base}/v2/models/elu/infer"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def post(url, contents):
    body = {
        "inputs": [
            {
                "name": "image_bytes",
                "shape": [len(contents)],
                "datatype": "BYTES",
                "data": [base64.b64encode(c).decode() for c in contents],
            }
        ]
    }
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with OPENER.open(request, timeout=60) as response:
        outputs = json.load(response)["outputs"]
    return {o["name"]: np.reshape(o["data"], o["shape"]) for o in outputs}


def picture(seed, kind):
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype("uint8")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue(), np.asarray(Image.open(stream).convert("RGB"))


@pytest.mark.parametrize("count", [1, 5])
def test_the_server_answers_as_the_model_in_this_process(model, url, count):
    contents, pixels = zip(*(picture(i, "JPEG") for i in range(count)), strict=True)
    answer = post(url, contents)
    expected = np.asarray(model(np.stack(pixels)))
    order = np.argsort(-expected)[:, :3]
    np.testing.assert_allclose(
        answer["probabilities"], np.take_along_axis(expected, order, 1), atol=1e-5
    )
    assert answer["classes"].tolist() == np.array(NAMES)[order].tolist()
    assert answer["valid"].astype(bool).all()


def test_one_bad_image_leaves_its_batch_alone(model, url):
    content, pixels = picture(0, "PNG")
    answer = post(url, [content, b"no image", content])
    assert answer["valid"].astype(bool).ravel().tolist() == [True, False, True]
    expected = np.sort(np.asarray(model(pixels[None]))[0])[::-1][:3]
    for row in (0, 2):
        np.testing.assert_allclose(answer["probabilities"][row], expected, atol=1e-5)
    assert not answer["probabilities"][1].any()
