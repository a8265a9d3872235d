"""Starts the servers of elu_zoo/serving and compares their answers with the model's.

Each runs in the first Python that has it and TensorFlow: of those in the variable
`ELU_ZOO_SERVER_PYTHON`, separated like a PATH, then of this process.
"""

import base64
import contextlib
import io
import json
import os
import pathlib
import shutil
import signal
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

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="SavedModels are TensorFlow's"
)
SERVING = pathlib.Path(__file__).parents[1] / "elu_zoo" / "serving"
NAMES = ["ant", "bee", "cat", "döner"]
JUNK = b"no image"
# Without a proxy, whatever the environment says.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return elu_zoo.ELUNet11(width=0.05, classes=4)


@pytest.fixture(scope="module")
def pictures():
    """JPEG bytes of the model's size."""
    pictures = []
    for seed in range(3):
        blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3))
        stream = io.BytesIO()
        image = Image.fromarray(blocks.astype("uint8")).resize((32, 32))
        image.save(stream, "JPEG")
        pictures.append(stream.getvalue())
    return pictures


@pytest.fixture(scope="module")
def expected(model, pictures):
    """Class names and probabilities that the model itself gives, best first."""
    images = np.stack([Image.open(io.BytesIO(picture)) for picture in pictures])
    probabilities = np.asarray(model(images.astype("float32")))
    order = np.argsort(-probabilities)[:, :3]
    names = [[NAMES[i] for i in row] for row in order]
    return names, np.take_along_axis(probabilities, order, 1)


def python_with(package):
    named = os.environ.get("ELU_ZOO_SERVER_PYTHON", "").split(os.pathsep)
    find = "import importlib.util, sys; sys.exit(not all(map({}, {})))".format(
        "importlib.util.find_spec", [package, "tensorflow"]
    )
    for python in [*filter(None, named), sys.executable]:
        if subprocess.run([python, "-c", find], timeout=60).returncode == 0:
            return python
    pytest.skip(
        f"no Python with {package}: install it into this one, or name another in "
        "ELU_ZOO_SERVER_PYTHON"
    )


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


@contextlib.contextmanager
def running(command, folder, ready, **environment):
    """Runs a server in `folder` until the block ends; `ready` is a URL."""
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(ready, process, log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for(url, process, log):
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), OPEN(url, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"The server is not ready ({process.poll()}):\n{log.read_text()}")


def post(url, request):
    """Status and JSON answer."""
    data = json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with OPEN(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def encoded(items):
    return [base64.b64encode(item).decode() for item in items]


@pytest.fixture(scope="module")
def mlserver(model, tmp_path_factory):
    """URL of a running MLServer's model."""
    python = python_with("mlserver")
    folder = tmp_path_factory.mktemp("mlserver")
    shutil.copytree(SERVING / "mlserver", folder, dirs_exist_ok=True)
    elu_zoo.export_saved_model(model, folder / "served", class_names=NAMES, top=3)
    http, grpc, metrics = free_ports(3)
    url = f"http://127.0.0.1:{http}/v2/models/elu"
    with running(
        [python, "-c", "from mlserver.cli import main; main()", "start", "."],
        folder,
        f"{url}/ready",
        MLSERVER_HOST="127.0.0.1",
        MLSERVER_HTTP_PORT=http,
        MLSERVER_GRPC_PORT=grpc,
        MLSERVER_METRICS_PORT=metrics,
        MLSERVER_PARALLEL_WORKERS="0",
    ):
        yield url


def infer(url, items):
    tensor = {
        "name": "image_bytes",
        "shape": [len(items)],
        "datatype": "BYTES",
        "data": encoded(items),
    }
    status, answer = post(f"{url}/infer", {"inputs": [tensor]})
    assert status == 200, answer
    return {
        output["name"]: np.reshape(output["data"], output["shape"])
        for output in answer["outputs"]
    }


def test_mlserver_answers_as_the_model_does(mlserver, pictures, expected):
    answer = infer(mlserver, pictures)
    assert answer["classes"].tolist() == expected[0]
    np.testing.assert_allclose(answer["probabilities"], expected[1], atol=1e-5)
    assert answer["valid"].all()


def test_mlserver_answers_for_the_good_images_of_a_batch(mlserver, pictures, expected):
    answer = infer(mlserver, [pictures[0], JUNK, b"", pictures[2]])
    assert answer["valid"].ravel().tolist() == [True, False, False, True]
    assert answer["classes"].tolist() == [
        *(expected[0][0], [""] * 3, [""] * 3, expected[0][2])
    ]
    np.testing.assert_allclose(
        answer["probabilities"][[0, 3]], expected[1][[0, 2]], atol=1e-5
    )


def test_mlserver_survives_an_empty_batch(mlserver, pictures):
    tensor = {"name": "image_bytes", "shape": [0], "datatype": "BYTES", "data": []}
    status, answer = post(f"{mlserver}/infer", {"inputs": [tensor]})
    assert status < 500, answer
    assert infer(mlserver, pictures[:1])["valid"].all()


def test_mlserver_says_what_is_wrong_with_a_request(mlserver):
    tensor = {"name": "picture", "shape": [1], "datatype": "BYTES", "data": [""]}
    status, answer = post(f"{mlserver}/infer", {"inputs": [tensor]})
    assert status == 400
    assert "picture" in answer["error"]


@pytest.fixture(scope="module")
def kserve(model, tmp_path_factory):
    """URL of a running KServe model."""
    python = python_with("kserve")
    folder = tmp_path_factory.mktemp("kserve")
    elu_zoo.export_saved_model(model, folder / "served", class_names=NAMES, top=3)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/v1/models/elu"
    command = [python, SERVING / "kserve" / "model.py", "--model_dir", "served"]
    options = ["--model_name", "elu", "--http_port", port]
    with running([*command, *options, "--enable_grpc", "false"], folder, url):
        yield url


def test_kserve_answers_as_tensorflow_serving_does(kserve, pictures, expected):
    items = [pictures[0], JUNK, *pictures[1:]]
    instances = [{"b64": item} for item in encoded(items)]
    status, answer = post(
        f"{kserve}:predict", {"signature_name": "serve_bytes", "instances": instances}
    )
    assert status == 200, answer
    junk = answer["predictions"].pop(1)
    assert junk == {"classes": [""] * 3, "probabilities": [0.0] * 3, "valid": False}
    for row, names, scores in zip(answer["predictions"], *expected, strict=True):
        assert row["classes"] == names and row["valid"]
        np.testing.assert_allclose(row["probabilities"], scores, atol=1e-5)


def test_kserve_takes_no_images(kserve):
    status, answer = post(f"{kserve}:predict", {"instances": []})
    assert (status, answer) == (200, {"predictions": []})


def test_kserve_says_what_is_wrong_with_a_request(kserve):
    status, answer = post(f"{kserve}:predict", {"instances": ["no dict"]})
    assert status == 400
    assert "b64" in answer["error"]
