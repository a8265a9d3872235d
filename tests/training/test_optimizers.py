import keras
import numpy as np
import pytest

from elu_zoo.errors import UserError
from training.engine.optimizers import ConvMuon
from training.engine.schedules import WarmupLinear


def orthogonalized(matrix, steps=5):
    """Newton-Schulz of Jordan et al. (2024) in float64."""
    x = matrix / np.linalg.norm(matrix)
    if x.shape[0] > x.shape[1]:
        return orthogonalized(matrix.T, steps).T
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(3, 3, 8, 12), (40, 12)])
def test_muon_on_a_kernel_follows_the_formula(shape):
    rng = np.random.default_rng(0)
    value = rng.normal(size=shape).astype("float32")
    gradients = rng.normal(size=(3, *value.shape)).astype("float32")
    kernel = keras.Variable(value)
    optimizer = ConvMuon(0.02, momentum=0.9, weight_decay=0.1)
    optimizer.build([kernel])
    expected, momentum = value.astype("float64"), 0.0
    for gradient in gradients.astype("float64"):
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))])
        expected = expected * (1 - 0.02 * 0.1)
        momentum = 0.9 * momentum + gradient
        update = orthogonalized((gradient + 0.9 * momentum).reshape(-1, 12))
        expected = expected - 0.02 * update.reshape(value.shape)
    np.testing.assert_allclose(np.asarray(kernel), expected, atol=2e-6)


@pytest.mark.parametrize("shape", [(200, 40), (40, 200), (50, 40), (3, 3, 30, 40)])
def test_updates_are_those_of_keras_of_any_shape(shape):
    matrix = np.random.default_rng(0).normal(size=(np.prod(shape[:-1]), shape[-1]))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    # As gradients are: most of their singular values are close to 0.
    values = np.exp(-np.linspace(0, 12, min(matrix.shape)))
    gradient = (left * values) @ right
    update = ConvMuon().zeropower_via_newtonschulz5(
        keras.ops.array(gradient.reshape(shape), "float32"), 5
    )
    assert tuple(update.shape) == shape
    error = np.asarray(update).reshape(gradient.shape) - orthogonalized(gradient)
    assert np.linalg.norm(error) < 1e-3 * np.linalg.norm(orthogonalized(gradient))


@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (120, 100), (3, 3, 40, 96)])
@pytest.mark.parametrize("lowest", [1, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("ones", [1, 10])
def test_updates_in_bfloat16_are_nearly_those_of_float64(shape, lowest, ones):
    matrix = np.random.default_rng(0).normal(size=(np.prod(shape[:-1]), shape[-1]))
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values[:] = lowest  # Like rounding noise beside large directions.
    values[:ones] = 1
    gradient = (left * values) @ right
    update = ConvMuon(newton_schulz_dtype="bfloat16").zeropower_via_newtonschulz5(
        keras.ops.array(gradient.reshape(shape), "float32"), 5
    )
    assert keras.backend.standardize_dtype(update.dtype) == "float32"
    update = np.asarray(update).reshape(gradient.shape)
    assert np.linalg.svd(update, compute_uv=False).max() < 1.4
    # Directions below the rounding of the largest are noise in any implementation.
    large = left[:, :ones].T @ update @ right[:ones].T
    expected = left[:, :ones].T @ orthogonalized(gradient) @ right[:ones].T
    np.testing.assert_allclose(large, expected, atol=0.12)
    if lowest >= 1e-2:
        cosine = np.vdot(update, orthogonalized(gradient)) / (
            np.linalg.norm(update) * np.linalg.norm(orthogonalized(gradient))
        )
        assert cosine > 0.99


def test_newton_schulz_dtype_out_of_range():
    with pytest.raises(UserError, match="float16"):
        ConvMuon(newton_schulz_dtype="float16")


def test_an_orthogonal_update_has_singular_values_near_one():
    gradient = np.random.default_rng(0).normal(size=(2, 2, 16, 24)).astype("float32")
    update = ConvMuon().zeropower_via_newtonschulz5(
        keras.ops.convert_to_tensor(gradient), 5
    )
    singular = np.linalg.svd(np.asarray(update).reshape(64, 24), compute_uv=False)
    assert 0.6 < singular.min() and singular.max() < 1.3


def test_biases_follow_adam_without_decay():
    bias = keras.Variable(np.ones(4, "float32"))
    optimizer = ConvMuon(0.02, bias_rate=0.5, weight_decay=0.1)
    optimizer.build([bias])
    optimizer.apply([keras.ops.convert_to_tensor(np.full(4, 3.0, "float32"))])
    np.testing.assert_allclose(np.asarray(bias), 1 - 0.01, atol=1e-6)


def test_muon_config_round_trip():
    optimizer = ConvMuon(
        0.03, bias_rate=0.2, momentum=0.8, newton_schulz_dtype="bfloat16"
    )
    again = ConvMuon.from_config(optimizer.get_config())
    assert again.adam_lr_ratio == 0.2 and again.momentum == 0.8
    assert again.newton_schulz_dtype == "bfloat16"


@pytest.mark.parametrize("step, expected", [(0, 0), (10, 0.5), (20, 1), (60, 0.5)])
def test_warmup_linear(step, expected):
    schedule = WarmupLinear(1.0, steps=100, warmup=0.2)
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


def test_warmup_out_of_range():
    with pytest.raises(ValueError, match="warmup=0"):
        WarmupLinear(1.0, 10, warmup=0)
