"""The benchmarks run and write what they measured; no figure is asserted."""

import csv
import importlib
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from environment import on_backend
from made_up import write_cifar100

from training.benchmarks import (
    exports,
    keras_networks,
    memory,
    networks,
    performance,
    startup,
    workers,
)

STEP = ["--batch-size", "8", "--width", "0.03"]
# Stands in for a process of the benchmark `networks`: every batch takes a second.
WORKER = "import sys\nfor line in sys.stdin: print(1.0, flush=True)"
CASES = [("elunet11_cifar100", 32, (16,))]


pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="they time TensorFlow"
)


def called(function, *arguments):
    return function(*arguments)


@pytest.mark.parametrize(
    "name, arguments, ratio, count",
    [
        ("elu_op", [], "elu_to_relu", 2),
        ("input_pipeline", ["--images", "8"], "run_to_better", 4),
        ("step_overhead", STEP, "whole_seconds", 1),
        ("scaling", ["--width", "0.03"], "images_per_second", 3),
        ("step_profile", STEP, "step_milliseconds", 11),
        ("exported_files", ["--width", "0.03"], "ratio", 6),
        ("networks", ["--cases", "0"], "elu_to_it", 2),
        ("startup", [], "to_import_keras", 2),
    ],
)
def test_a_short_run(name, arguments, ratio, count, tmp_path, monkeypatch, capsys):
    benchmark = importlib.import_module(f"training.benchmarks.{name}")
    files = [("saved_model", "float32"), ("onnx", "float16")]
    small = {
        "SHAPES": [(2, 4, 4, 8)],
        "CASES": networks.CASES if name == "networks" else CASES,
        "THREADS": [1],
        "NETWORKS": {"ELUNet11": [{"size": 16, "batch": n} for n in (2, 4)]},
        "PROCESSES": [1],
        "VARIANTS": dict.fromkeys(("elu", "relu"), [sys.executable, "-c", WORKER]),
        "PROGRAMS": {name: "pass" for name in list(startup.PROGRAMS)[:2]},
    }
    monkeypatch.setattr(exports, "FILES", files)
    monkeypatch.setattr(startup, "in_a_process", lambda *_: None)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    monkeypatch.setattr("training.benchmarks.scaling.in_a_process", called)
    for constant, value in small.items():
        monkeypatch.setattr(benchmark, constant, value, raising=False)
    file = tmp_path / "rows.csv"
    benchmark.main([*arguments, "--rounds", "1", "--csv", str(file)])
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == count and all(float(row[ratio]) > 0 for row in rows)
    assert f"{rows[0]['processor']}, " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["train", "predict"])
@pytest.mark.parametrize("variant", ["elu", "relu_normalized", "keras"])
def test_networks_compute_a_batch(kind, variant):
    before = keras.config.dtype_policy()
    case = {"kind": kind, "model": "ELUNet11", "size": 16, "batch": 4}
    case |= {"dtype": "bfloat16", "arguments": {"width": 0.03}}
    try:
        result = networks.compute(variant, case)()
    finally:
        keras.config.set_dtype_policy(before)
    assert np.shape(result) == ((1, 3) if kind == "train" else (4, 100))
    assert np.isfinite(result).all()


@pytest.mark.parametrize(
    "name, arguments", [("ELUNet11", {}), ("ELUNet15", {"stem_strides": 1})]
)
def test_stock_layers_compute_the_same_function(name, arguments):
    import elu_zoo

    images = np.random.default_rng(0).normal(size=(2, 17, 17, 3)).astype("float32")
    arguments |= {"input_shape": (17, 17, 3), "classifier_activation": None}
    arguments |= {"width": 0.05, "classes": 7}
    ours = getattr(elu_zoo, name)(include_preprocessing=False, **arguments)
    stock = keras_networks.stock_network(name, **arguments)
    stock.set_weights(ours.get_weights())
    outputs = keras.Sequential(stock.layers[1:])(images)  # Without its preprocessing.
    np.testing.assert_allclose(outputs, ours(images), rtol=1e-4, atol=1e-5)


def test_memory_is_compared(monkeypatch, capsys):
    monkeypatch.setattr(memory, "PEERS", pathlib.Path("no such file"))
    command = [sys.executable, "-c", WORKER]
    monkeypatch.setattr(memory, "PROGRAMS", {"keras": command})
    assert memory.peak("keras", "{}") > 1
    monkeypatch.setattr(memory, "peak", lambda name, case: 9.0 if "{}" in case else 1)
    memory.main([])
    assert "keras  8  1.0" in capsys.readouterr().out


# A process of its own, with JAX as the backend of Keras.
COMPILE = """
import json, sys
from training.benchmarks import memory
cases = json.loads(sys.argv[1])
print(json.dumps([memory.report("elu", case) for case in cases]))
"""


@pytest.mark.slow
def test_memory_by_the_report_of_the_compiler():
    pytest.importorskip("jax", reason="needs jax")
    import elu_zoo

    case = {"model": "ELUNet11", "size": 32, "batch": 64, "dtype": "float32"}
    case["arguments"] = {"width": 0.1}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE]
        + [json.dumps([case | {"kind": kind} for kind in ("train", "predict")])],
        cwd=workers.ROOT,
        env=on_backend("jax"),
        stdout=subprocess.PIPE,
        check=True,
    )
    train, predict = json.loads(result.stdout)
    megabytes = 4e-6 * elu_zoo.ELUNet11(width=0.1).count_params()
    images = 64 * 32 * 32 * 3e-6
    # The step replaces weights and momentum; the loss is a result of its own.
    assert train["arguments"] == pytest.approx(2 * megabytes + images, rel=0.01)
    assert train["shared"] == pytest.approx(2 * megabytes, rel=0.01)
    assert predict["arguments"] == pytest.approx(megabytes + images, rel=0.01)
    assert predict["results"] == pytest.approx(64 * 100 * 4e-6)
    # The first layer's activations outlive the forward pass, of inference they do not.
    assert train["temporary"] > predict["temporary"] > 0


def test_compiled_networks_are_compared(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")  # Restored afterwards.
    monkeypatch.setattr(memory, "planned", lambda case: {"keras": {"megabytes": 2.4}})
    memory.main(["--compiler"])
    assert (
        "predict  ELUNet15  48  64  bfloat16  keras  2  1.0" in capsys.readouterr().out
    )


def test_errors_of_exported_files(tmp_path, monkeypatch):
    from training.benchmarks import exported_errors

    write_cifar100(tmp_path, train=20, test=20)
    monkeypatch.setattr(exports, "FILES", [("onnx", "int8")])
    file = tmp_path / "rows.csv"
    exported_errors.main(
        [*("--data", str(tmp_path), "--width", "0.03"), "--csv", str(file)]
    )
    with file.open(newline="") as opened:
        (row,) = csv.DictReader(opened)
    assert row["images"] == "20" and 0 < float(row["megabytes"]) < 0.2
    assert float(row["error"]) > 50 and abs(float(row["above_model"])) <= 10


def test_time_to_accuracy(tmp_path, capsys):
    from training.benchmarks import time_to_accuracy
    from training.engine.run import load_run

    write_cifar100(tmp_path, train=40, test=40)
    file, folders = tmp_path / "rows.csv", ["--data", str(tmp_path), "--runs"]
    command = [*folders, str(tmp_path / "runs"), "--smoke", "--csv", str(file)]
    time_to_accuracy.main([*command, "--seeds", "2"])
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    run = load_run(tmp_path / "runs/elunet11_cifar100_fast-1-smoke")
    assert run.settings["seed"] == int(rows[1]["seed"]) == 1
    assert int(rows[1]["seconds"]) == round(run.rows[-1]["seconds"])
    data, model = run.load_data("test", tmp_path), run.build_model()
    images = np.asarray(data.images)
    first, second = (
        np.asarray(model(view), "float64") for view in (images, images[:, :, ::-1])
    )
    for name, expected in (("error", first), ("error_mirrored", first + second)):
        share = np.mean(expected.argmax(-1) != data.labels)
        assert float(rows[1][name]) == pytest.approx(share, abs=1e-4)
    mirrored = time_to_accuracy.with_mirror_image(model)(images)
    np.testing.assert_allclose(mirrored, (first + second) / 2, rtol=1e-4, atol=1e-7)
    assert np.abs(first - second).max() > 1e-4
    assert f"n = 2, {rows[0]['pflop']} PFLOP" in capsys.readouterr().out


def test_the_transfer_study_ends_with_what_finetune_kept(monkeypatch):
    """Its rows are the start, each epoch and the end, measured on other images."""
    from training.benchmarks import transfer

    rng = np.random.default_rng(0)
    parts = []
    for count in (20, 12):
        labels = np.arange(count) % 2
        images = rng.integers(0, 90, (count, 32, 32, 3)).astype("uint8")
        images[..., 0] += (90 * labels[:, None, None]).astype("uint8")
        parts.append((images, labels))
    ends, accuracy = [], transfer.accuracy

    def noted(model, data):
        ends.append((model.predict(data[0], verbose=0).argmax(-1) == data[1]).mean())
        return accuracy(model, data)

    for name, value in dict(STEPS=8, STEPS_PER_EPOCH=2, accuracy=noted).items():
        monkeypatch.setattr(transfer, name, value)
    method = (True, 0.5, {})
    rows = transfer.measure("elunet11.cifar100", (*parts, None), method, 0, True)
    assert [row["stage"] for row in rows] == ["0", "1", "1", "2", "2", "end"]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(ends, abs=1e-4)
    losses = [float(row["calibrated_validation_loss"]) for row in rows]
    assert losses[-1] <= min(losses) + 1e-4
    assert transfer.kept_accuracy(rows) == pytest.approx(ends[-1], abs=1e-4)
    assert [row["kept"] for row in rows].count("yes") == 1


def test_the_page_on_performance_has_the_committed_figures():
    page = performance.PAGE.read_text("utf-8")
    assert performance.rendered(page) == page
    assert all(f"<!-- {name}: " in page for name in performance.TABLES)


PEER = """
import sys, numpy as np, torch
from training.benchmarks.pytorch_networks import network
data = np.load(sys.argv[1])
model = network(sys.argv[2], **eval(sys.argv[3]))
images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2)
model(images)
with torch.no_grad():
    for i, parameter in enumerate(model.parameters()):
        array = data[str(i)]
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
        parameter.copy_(torch.from_numpy(array.transpose(axes)))
    np.save(sys.argv[4], model(images).numpy())
"""


@pytest.mark.skipif(not workers.PEERS.exists(), reason="needs `make peers`")
@pytest.mark.parametrize(
    "name, arguments", [("ELUNet11", {}), ("ELUNet15", {"stem_strides": 1})]
)
def test_pytorch_computes_the_same_function(name, arguments, tmp_path):
    import elu_zoo

    images = np.random.default_rng(0).normal(size=(2, 17, 17, 3)).astype("float32")
    arguments = {"width": 0.05, "classes": 7} | arguments
    model = getattr(elu_zoo, name)(
        input_shape=(17, 17, 3),
        include_preprocessing=False,
        classifier_activation=None,
        **arguments,
    )
    weights = {str(i): np.asarray(w) for i, w in enumerate(model.trainable_weights)}
    np.savez(tmp_path / "data.npz", images=images, **weights)
    subprocess.run(
        [*(workers.PEERS, "-c", PEER, tmp_path / "data.npz", name)]
        + [json.dumps(arguments), tmp_path / "logits.npy"],
        cwd=workers.ROOT,
        env=os.environ | {"PYTHONPATH": str(workers.ROOT)},
        check=True,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), model(images), rtol=1e-4, atol=1e-5
    )
