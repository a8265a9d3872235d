"""Starts the servers of elu_zoo/serving and makes requests for them."""

import base64
import contextlib
import importlib.util
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

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
SERVING = ROOT / "elu_zoo" / "serving"
# Without a proxy, whatever the environment says.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def python_with(package):
    """The first Python that has a server and TensorFlow, or None.

    Of those in the variable `ELU_ZOO_SERVER_PYTHON`, separated as in a PATH, then of
    this process.
    """
    named = os.environ.get("ELU_ZOO_SERVER_PYTHON", "").split(os.pathsep)
    find = "import importlib.util, sys; sys.exit(not all(map({}, {})))".format(
        "importlib.util.find_spec", [package, "tensorflow"]
    )
    for python in filter(None, named):
        if subprocess.run([python, "-c", find], timeout=60).returncode == 0:
            return python
    return sys.executable if importlib.util.find_spec(package) else None


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


@contextlib.contextmanager
def running(command, folder, ready, **environment):
    """Runs a server in `folder` until the block ends.

    Args:
        command: The command and its arguments.
        folder: Working directory; the output goes to its `log.txt`.
        ready: URL that answers as soon as the server does.
        **environment: Variables beside those of this process.

    Yields:
        The process.
    """
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(ready, process, log)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for(url, process, log):
    """Waits until a URL answers; raises with the log if the process ends before."""
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), OPEN(url, timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(
        f"The server is not ready ({process.poll()}):\n{log.read_text()}"
    )


@contextlib.contextmanager
def mlserver(folder, python, **environment):
    """Runs MLServer as docs/serving.md does; `folder` has the model in `served`.

    Yields:
        The process and the URL of the model.
    """
    for name in ("model-settings.json", "settings.json"):
        shutil.copy(SERVING / name, folder)
    http, grpc, metrics = free_ports(3)
    url = f"http://127.0.0.1:{http}/v2/models/elu"
    with running(
        [python, "-m", "elu_zoo.serving.mlserver", "."],
        folder,
        f"{url}/ready",
        MLSERVER_HOST="127.0.0.1",
        MLSERVER_HTTP_PORT=http,
        MLSERVER_GRPC_PORT=grpc,
        MLSERVER_METRICS_PORT=metrics,
        **environment,
    ) as process:
        yield process, url


@contextlib.contextmanager
def kserve(folder, python):
    """Runs KServe as docs/serving.md does; `folder` has the model in `served`.

    Yields:
        The process and the URL of the model.
    """
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/v1/models/elu"
    command = [python, "-m", "elu_zoo.serving.kserve", "--model_dir", "served"]
    options = ["--model_name", "elu", "--http_port", port, "--enable_grpc", "false"]
    with running([*command, *options], folder, url) as process:
        yield process, url


def post(url, body, headers=None, timeout=60):
    """Sends bytes, or anything else as JSON.

    Returns:
        The status and the text of the answer.
    """
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | (headers or {})
    request = urllib.request.Request(url, data, headers)
    try:
        with OPEN(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def encoded(items):
    """Each item as a base64 string."""
    return [base64.b64encode(item).decode() for item in items]


# What is wrong whatever the protocol.
BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "a list": [],
    "a string": "x",
    "null": None,
    "an empty object": {},
}
DATA = {
    "no ASCII": ["ü"],
    "a NUL": ["\0"],
    "no base64": ["%%%%"],
    "cut base64": ["a"],
    "a number": [1.5],
    "a null": [None],
    "a list": [["AAAA"]],
    "an object": [{}],
    "too many": ["AAAA"] * 1025,
}


class MLServer:
    """Requests and answers of the Open Inference Protocol."""

    path = "/infer"

    @staticmethod
    def request(items, **changes):
        """A request for encoded images, with other fields of its tensor."""
        tensor = {"name": "image_bytes", "shape": [len(items)], "datatype": "BYTES"}
        return {"inputs": [tensor | {"data": encoded(items)} | changes]}

    @staticmethod
    def rows(answer):
        """One dict per image."""
        outputs = {
            output["name"]: np.reshape(output["data"], output["shape"]).tolist()
            for output in answer["outputs"]
        }
        return [
            dict(zip(outputs, row, strict=True))
            for row in zip(*outputs.values(), strict=True)
        ]

    @classmethod
    def malformed(cls):
        """Requests by what is wrong with them."""
        one = [b"x"]
        data = {
            f"data: {name}": cls.request(one, shape=[len(data)], data=data)
            for name, data in DATA.items()
        }
        tensors = {
            "FP32": {"datatype": "FP32", "data": [1.5]},
            "unknown datatype": {"datatype": "IMAGE"},
            "wrong shape": {"shape": [2]},
            "no shape": {"shape": []},
            "negative shape": {"shape": [-1]},
            "huge shape": {"shape": [10**30]},
            "shape of many axes": {"shape": [1] * 10_000},
            "another name": {"name": "x" * 10_000},
        }
        return {
            **BODIES,
            **data,
            **{name: cls.request(one, **changes) for name, changes in tensors.items()},
            "two inputs": {"inputs": cls.request(one)["inputs"] * 2},
            "no inputs": {"inputs": []},
            "no data": {"inputs": [{"name": "image_bytes", "shape": [1]}]},
            "an id that is a header": cls.request(one) | {"id": "\r\nX: y"},
            "a surrogate": b'{"inputs": [{"name": "\\ud800"}]}',
        }


class KServe:
    """Requests and answers of TensorFlow Serving's REST interface."""

    path = ":predict"

    @staticmethod
    def request(items):
        """A request for encoded images."""
        return {"instances": [{"b64": item} for item in encoded(items)]}

    @staticmethod
    def rows(answer):
        """One dict per image."""
        return answer["predictions"]

    @classmethod
    def malformed(cls):
        """Requests by what is wrong with them."""
        one = [{"b64": "AAAA"}]
        return {
            **BODIES,
            **{
                f"data: {name}": {"instances": [{"b64": item} for item in data]}
                for name, data in DATA.items()
            },
            "strings": {"instances": ["AAAA"]},
            "numbers": {"instances": [[1.0, 2.0]]},
            "an object": {"instances": {}},
            "null instances": {"instances": None},
            "a named string": {"instances": [{"image_bytes": "AAAA"}]},
            "another signature": {"instances": one, "signature_name": "x"},
            "columns": {"inputs": one},
        }


PROTOCOLS = {"mlserver": MLServer, "kserve": KServe}
