import keras
import numpy as np
import pytest

import elu_zoo
from elu_zoo.optimizers import LayerwiseAdam, stack_factors


def compiled(optimizer):
    keras.utils.set_random_seed(0)
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def train(model, steps=range(2)):
    """Applies gradients that depend on the step alone."""
    for step in steps:
        rng = np.random.default_rng(step)
        gradients = [
            keras.ops.convert_to_tensor(rng.normal(size=v.shape).astype("float32"))
            for v in model.trainable_variables
        ]
        model.optimizer.apply(gradients, model.trainable_variables)


def weights(model):
    return {v.path: np.array(v) for v in model.trainable_variables}


def test_each_stack_moves_by_its_own_rate():
    # Adam's first step is the learning rate wherever the gradient is not tiny.
    model = compiled("sgd")
    factors = stack_factors(model, decay=0.5)
    assert factors == {f"^stack{i}_": 0.5 ** (7 - i) for i in range(1, 7)}
    factors["^stack2_"] = 0
    model.compile(LayerwiseAdam(1e-2, rate_factors=factors))
    before = weights(model)
    train(model, [0])
    for path, value in weights(model).items():
        stack = path.split("_")[0]
        expected = 1e-2 * factors.get(f"^{stack}_", 1.0)
        moved = np.abs(value - before[path])
        if expected == 0:
            assert not moved.any()
        else:
            assert np.median(moved) == pytest.approx(expected, rel=0.02), path


def test_factors_survive_saving_and_going_on(tmp_path):
    factors = {"^stack1_": 0.0, "^stack2_": 0.1}
    whole, part = (compiled(LayerwiseAdam(1e-3, rate_factors=factors)) for _ in "ab")
    start = weights(part)
    train(whole, range(4))
    train(part, range(2))
    part.save(tmp_path / "part.keras")
    again = keras.saving.load_model(tmp_path / "part.keras")
    assert again.optimizer.rate_factors == factors
    train(again, range(2, 4))
    expected = weights(whole)
    for path, value in weights(again).items():
        np.testing.assert_allclose(value, expected[path], atol=1e-6, err_msg=path)
        if "stack1_" in path:
            np.testing.assert_array_equal(value, start[path])


@pytest.mark.parametrize("decay", [None, 0.1])
@pytest.mark.parametrize("factors, rate", [({}, 1e-3), ({"kernel|bias": 0.5}, 5e-4)])
def test_at_one_rate_it_is_adam(factors, rate, decay):
    one = compiled(LayerwiseAdam(1e-3, factors, weight_decay=decay))
    other = compiled(keras.optimizers.Adam(rate, weight_decay=decay))
    for model in (one, other):
        model.optimizer.exclude_from_weight_decay(var_names=["bias"])
        train(model)
    for path, value in weights(one).items():
        np.testing.assert_allclose(value, weights(other)[path], atol=1e-7)


def test_weight_decay_does_not_move_what_has_factor_0():
    model = compiled(LayerwiseAdam(1e-2, {"^stack1_": 0}, weight_decay=0.1))
    before = weights(model)
    train(model)
    for path, value in weights(model).items():
        assert np.array_equal(value, before[path]) == path.startswith("stack1_")


def test_what_cannot_be():
    with pytest.raises(ValueError, match="'x': -1"):
        LayerwiseAdam(rate_factors={"x": -1})
    with pytest.raises(ValueError, match="decay=0"):
        stack_factors(elu_zoo.ELUNet11(width=0.05), 0)
