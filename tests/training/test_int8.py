"""Weights in 8 bits for the demo of the site."""

import numpy as np
import pytest

from training.demo import quantized

onnx = pytest.importorskip("onnx")


def network(kernel, matrix, bias):
    """A convolution, its mean over the image, and a matrix product."""
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["probabilities"]),
    ]
    arrays = {"kernel": kernel, "matrix": matrix, "bias": bias}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", 1, [None, 4, 6, 6])],
        [helper.make_tensor_value_info("probabilities", 1, [None, 50])],
        [numpy_helper.from_array(x, name) for name, x in arrays.items()],
    )
    opset = [helper.make_opsetid("", 15)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def test_each_output_channel_is_rounded_by_its_own_scale(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    kernel = (
        rng.normal(size=(32, 4, 3, 3))
        * np.geomspace(1e-3, 1e3, 32)[:, None, None, None]
    )
    kernel[5] = 0
    matrix = rng.normal(size=(32, 50)) * np.geomspace(1e-3, 1, 50)
    kernel, matrix = kernel.astype("float32"), matrix.astype("float32")
    bias = rng.normal(size=50).astype("float32")
    model = network(kernel, matrix, bias)
    plain = len(model.SerializeToString())
    quantized.round_weights(model.graph)
    onnx.save(model, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < 0.4 * plain

    def rounded(array, axes):
        step = np.abs(array.astype("float64")).max(axes, keepdims=True) / 127
        return np.rint(array / np.where(step, step, 1)) * step

    x = rng.normal(size=(2, 4, 6, 6)).astype("float32")
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    mean = np.einsum("nchwij,ocij->no", windows, rounded(kernel, (1, 2, 3))) / 16
    expected = mean @ rounded(matrix, 0) + bias
    session = runtime.InferenceSession(tmp_path / "small.onnx")
    (got,) = session.run(None, {"image": x})
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_only_measured_weights_lose_nothing(tmp_path, monkeypatch):
    path = tmp_path / "int8.csv"
    monkeypatch.setattr(quantized, "rows", lambda read=quantized.rows: read(path))
    assert not quantized.loses_nothing("a.weights.h5")
    path.write_text("weights,above_published\na.weights.h5,0.1\nb.weights.h5,0.2\n")
    names = ("a.weights.h5", "b.weights.h5", "c.weights.h5")
    assert [quantized.loses_nothing(name) for name in names] == [True, False, False]
