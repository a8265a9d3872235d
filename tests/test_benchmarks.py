"""The benchmarks run and write what they measured; no figure is asserted."""

import csv
import importlib

import keras
import pytest

STEP = ["--batch-size", "8", "--width", "0.03"]
CASES = [("elunet11_cifar100", 32, (16,))]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="they time TensorFlow"
)
@pytest.mark.parametrize(
    "name, arguments, ratio, count",
    [
        ("elu_op", [], "elu_to_relu", 2),
        ("input_pipeline", ["--images", "8"], "run_to_better", 4),
        ("step_overhead", STEP, "whole_seconds", 1),
        ("exported_files", ["--width", "0.03"], "ratio", 6),
    ],
)
def test_a_short_run(name, arguments, ratio, count, tmp_path, monkeypatch, capsys):
    benchmark = importlib.import_module(f"training.benchmarks.{name}")
    files = [("saved_model", "float32"), ("onnx", "float16")]
    small = {"SHAPES": [(2, 4, 4, 8)], "CASES": CASES, "FILES": files, "THREADS": [1]}
    for constant, value in small.items():
        monkeypatch.setattr(benchmark, constant, value, raising=False)
    file = tmp_path / "rows.csv"
    benchmark.main([*arguments, "--rounds", "1", "--csv", str(file)])
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == count and all(float(row[ratio]) > 0 for row in rows)
    assert f"{rows[0]['processor']}, " in capsys.readouterr().out
