"""The servers of elu_zoo/serving answer as the model does, and mend nothing in silence.

Each runs in the first Python that has it and TensorFlow: of those in the variable
`ELU_ZOO_SERVER_PYTHON`, separated like a PATH, then of this process.
"""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

import keras
import load
import numpy as np
import pytest
import servers
from PIL import Image
from servers import KServe, MLServer, post

import elu_zoo
from elu_zoo.serving import saved_model

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="SavedModels are TensorFlow's"
)
NAMES = ["ant", "bee", "cat", "döner"]
JUNK = b"no image"


def python_with(package):
    return servers.python_with(package) or pytest.skip(
        f"no Python with {package}: install it into this one, or name another in "
        "ELU_ZOO_SERVER_PYTHON"
    )


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


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """Folder with the exported model in `served`."""
    folder = tmp_path_factory.mktemp("server")
    elu_zoo.export_saved_model(model, folder / "served", class_names=NAMES, top=3)
    return folder


def test_a_version_is_served_once_it_is_copied_whole(
    served, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(saved_model, "SECONDS_BETWEEN_LOOKS", 0.1)
    first, second = tmp_path / "1", tmp_path / "2"
    shutil.copytree(served / "served/1", first)

    def wait_for(condition):
        give_up = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < give_up
            time.sleep(0.05)

    model = saved_model.ServedModel(tmp_path)
    try:
        half = shutil.ignore_patterns("variables")
        shutil.copytree(first, second, ignore=half)
        wait_for(lambda: "Version 2 cannot be loaded" in caplog.text)
        shutil.copytree(first / "variables", second / "variables")
        wait_for(lambda: model.version == 2)
        # A newer one that is whole is served although the newest is not.
        shutil.copytree(first, tmp_path / "4", ignore=half)
        shutil.copytree(first, tmp_path / "part")
        os.rename(tmp_path / "part", tmp_path / "3")
        wait_for(lambda: model.version == 3)
        shutil.rmtree(tmp_path / "4")
        shutil.rmtree(tmp_path / "3")
        wait_for(lambda: model.version == 2)
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        other.export(str(tmp_path / "5"), verbose=False)
        wait_for(lambda: "Expected the signature serve_bytes" in caplog.text)
        assert model.version == 2
        shutil.rmtree(tmp_path / "5")
    finally:
        model.close()
    # One that starts serves the newest version that is whole.
    shutil.copytree(first, tmp_path / "3", ignore=half)
    model = saved_model.ServedModel(tmp_path)
    model.close()
    assert model.version == 2
    shutil.rmtree(first)
    shutil.rmtree(second)
    with pytest.raises(FileNotFoundError, match="without one that can be loaded"):
        saved_model.ServedModel(tmp_path)


def dockerfile():
    """Instructions of the Dockerfile: their names and the rest of their lines."""
    text = (servers.SERVING / "Dockerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.split(maxsplit=1) for line in lines]


def container(folder):
    """Environment with a Python of its own, in which this one's packages are there."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True
    )
    pip = folder / "venv" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {pip.parent}/python -m pip "$@"\n')
    pip.chmod(0o755)
    site = pathlib.Path(
        sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    )
    site.joinpath("outer.pth").write_text(sysconfig.get_path("purelib"))
    path = f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    # Build with the setuptools that is here, without a network.
    return {"PATH": path, "PYTHONPATH": "", "PIP_NO_BUILD_ISOLATION": "0"}


def copy(sources, target, work):
    """COPY: of a folder its content, of a file the file."""
    for source in sources:
        path = servers.ROOT / source
        if path.is_dir():
            shutil.copytree(path, work / target)
        else:
            (work / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, work / target)


@pytest.fixture(scope="module")
def built(served, tmp_path_factory):
    """The container as `docker build` would leave it: folder, environment, command.

    Without Docker: COPY and RUN in a folder and a Python of their own. Not tested: the
    base image, USER, and that pip finds the packages for it.
    """
    if servers.python_with("mlserver") != sys.executable:
        pytest.skip("no MLServer in this Python")
    root = tmp_path_factory.mktemp("container")
    work, environment = root / "server", container(root)
    shutil.copytree(served / "served", work / "served")
    for instruction, rest in dockerfile():
        if instruction == "COPY":
            *sources, target = rest.split()
            copy(sources, target, work)
        elif instruction == "RUN":
            command = ["bash", "-euc", rest]
            process = subprocess.run(
                command, cwd=work, env=os.environ | environment, capture_output=True
            )
            assert process.returncode == 0, process.stderr
        elif instruction == "CMD":
            command = json.loads(rest)
    assert not (work / "package").exists()
    return work, environment, command


@pytest.fixture(scope="module")
def running_mlserver(built):
    folder, environment, command = built
    assert command == ["python", "-m", "elu_zoo.serving.mlserver", "."]
    python = str(folder.parent / "venv" / "bin" / "python")
    with servers.mlserver(folder, python, **environment) as process_and_url:
        yield process_and_url


@pytest.fixture(scope="module")
def mlserver(running_mlserver):
    """URL of a running MLServer's model."""
    return running_mlserver[1]


def infer(url, items):
    status, answer = post(f"{url}/infer", MLServer.request(items))
    assert status == 200, answer
    outputs = json.loads(answer)["outputs"]
    assert [output["name"] for output in outputs] == [
        "classes",
        "probabilities",
        "valid",
    ]
    return {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in outputs}


def test_mlserver_answers_as_the_model_does(mlserver, pictures, expected):
    answer = infer(mlserver, [pictures[0], JUNK, b"", pictures[2]])
    assert answer["valid"].tolist() == [True, False, False, True]
    assert answer["classes"].tolist() == [
        *(expected[0][0], [""] * 3, [""] * 3, expected[0][2])
    ]
    np.testing.assert_allclose(
        answer["probabilities"][[0, 3]], expected[1][[0, 2]], atol=1e-5
    )


@pytest.mark.parametrize("count", [0, 130, 1024])
def test_mlserver_takes_batches_of_any_size(mlserver, pictures, expected, count):
    items = [pictures[i % 3] for i in range(count)]
    answer = infer(mlserver, items)
    assert answer["probabilities"].shape == (count, 3)
    rows = [expected[1][i % 3] for i in range(count)]
    np.testing.assert_allclose(
        answer["probabilities"], np.reshape(rows, (count, 3)), atol=1e-5
    )


def test_mlserver_names_inputs_and_outputs(mlserver):
    with servers.OPEN(mlserver) as answer:
        metadata = json.load(answer)
    described = [(t["name"], t["datatype"], t["shape"]) for t in metadata["outputs"]]
    assert described == [
        ("classes", "BYTES", [-1, 3]),
        ("probabilities", "FP32", [-1, 3]),
        ("valid", "BOOL", [-1]),
    ]
    (only,) = metadata["inputs"]
    assert (only["name"], only["datatype"], only["shape"]) == (
        *("image_bytes", "BYTES", [-1]),
    )


def assert_400_and_one_line(url, requests):
    """Checks the status and that nothing of the server shows; returns the messages."""
    for name, request in requests.items():
        status, answer = post(url, request)
        assert (name, status) == (name, 400), answer
        message = json.loads(answer)["error"]
        assert len(message) < 400 and "\n" not in message, (name, message)
        assert "Traceback" not in message and ".py" not in message, (name, message)


def test_mlserver_says_what_is_wrong_with_a_request(mlserver):
    url, one = f"{mlserver}/infer", MLServer.request([b"x"])
    assert_400_and_one_line(url, MLServer.malformed())
    status, answer = post(f"{mlserver}/infer_stream", one)
    assert status == 404, answer
    status, answer = post(url, one, {"Content-Type": "text/plain"})
    assert status == 400 and len(answer) < 400, answer
    models = mlserver.replace("/v2/models/", "/v2/repository/models/")
    for verb in ("load", "unload"):
        status, answer = post(f"{models}/{verb}", {})
        assert status == 403 and "to load or unload" in json.loads(answer)["error"]
    assert post(url, one)[0] == 200


def assert_holds_under_load(server, process, url, folder, model):
    """The last test of a server: it ends with SIGTERM."""
    names = [f"new {name}" for name in NAMES]
    # Exporting takes long beside so many clients; here it is done before.
    version = elu_zoo.export_saved_model(model, folder.parent / "new", names, top=3)
    report = load.put_under_load(
        process,
        url,
        server,
        folder / "1",
        lambda: pathlib.Path(version).rename(folder / "2"),
        seconds=6,
        clients=8,
    )
    assert report["wrong"] == [] and report["answered"] > 0 and report["refused"] > 0
    assert report["versions"] == ["1", "2"]
    assert report["lost_at_sigterm"] == 0 < report["answered_after_sigterm"]
    assert report["exit_status"] in (0, -signal.SIGTERM)


def test_mlserver_under_load(running_mlserver, built, model):
    folder = built[0] / "served"
    assert_holds_under_load("mlserver", *running_mlserver, folder, model)


@pytest.fixture(scope="module")
def running_kserve(served):
    with servers.kserve(served, python_with("kserve")) as process_and_url:
        yield process_and_url


@pytest.fixture(scope="module")
def kserve(running_kserve):
    """URL of a running KServe's model."""
    return running_kserve[1]


def test_kserve_answers_as_tensorflow_serving_does(kserve, pictures, expected):
    items = [pictures[0], JUNK, *pictures[1:]]
    request = KServe.request(items) | {"signature_name": "serve_bytes"}
    status, answer = post(f"{kserve}:predict", request)
    assert status == 200, answer
    rows = json.loads(answer)["predictions"]
    junk = rows.pop(1)
    assert junk == {"classes": [""] * 3, "probabilities": [0.0] * 3, "valid": False}
    for row, names, scores in zip(rows, *expected, strict=True):
        assert row["classes"] == names and row["valid"]
        np.testing.assert_allclose(row["probabilities"], scores, atol=1e-5)


def test_kserve_takes_no_images(kserve):
    status, answer = post(f"{kserve}:predict", {"instances": []})
    assert (status, json.loads(answer)) == (200, {"predictions": []})


def test_kserve_says_what_is_wrong_with_a_request(kserve):
    assert_400_and_one_line(f"{kserve}:predict", KServe.malformed())
    url = kserve.replace("/v1/", "/v2/")
    assert_400_and_one_line(f"{url}/infer", {"V2": {}})


def test_kserve_under_load(running_kserve, served, model):
    assert_holds_under_load("kserve", *running_kserve, served / "served", model)
