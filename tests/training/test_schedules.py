"""The schedules against their formulas."""

import math

import keras
import numpy as np
import pytest

from training.engine.schedules import (
    Consecutive,
    WarmupLinear,
    piecewise,
    warmup_cosine,
)

PAPER = {0: 0.01, 35_000: 0.005, 85_000: 0.0005, 135_000: 0.00005}


def rates_of(schedule, steps):
    """The rates that an optimizer uses at steps, asked for as the optimizer does."""
    return np.array([float(schedule(keras.ops.array(s, "int32"))) for s in steps])


def test_the_papers_phases_have_exactly_the_papers_iterations():
    schedule = piecewise(PAPER, of=165_000, steps=165_000)
    begins = [*PAPER, 165_000]
    for begin, end in zip(begins, begins[1:], strict=False):
        steps = [begin, begin + 1, (begin + end) // 2, end - 1]
        np.testing.assert_allclose(rates_of(schedule, steps), PAPER[begin], rtol=1e-6)


def test_every_step_of_a_short_run_has_the_rate_of_its_phase():
    schedule = piecewise(PAPER, of=165_000, steps=330)
    expected = [
        PAPER[max(first for first in PAPER if first <= 500 * step)]
        for step in range(330)
    ]
    np.testing.assert_allclose(rates_of(schedule, range(330)), expected, rtol=1e-6)


def test_an_optimizer_does_the_first_step_at_iteration_0():
    weight = keras.Variable(np.zeros(1, "float32"))
    optimizer = keras.optimizers.SGD(piecewise({0: 1.0, 2: 0.1}, of=4, steps=4))
    optimizer.build([weight])
    values = []
    for _ in range(4):
        optimizer.apply([keras.ops.ones(1)])
        values.append(-float(weight[0]))
    np.testing.assert_allclose(values, [1, 2, 2.1, 2.2], rtol=1e-6)


@pytest.mark.parametrize(
    "rates", [{0: 0.1}, {1: 0.1, 2: 0.01}, {0: 0.1, 10: 0.01}, {0: 0.1, 11: 0.01}]
)
def test_rates_outside_of_the_run(rates):
    with pytest.raises(ValueError, match="of=10"):
        piecewise(rates, of=10, steps=10)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3])
def test_warmup_cosine(warmup):
    peak, steps = 0.3, 200
    up = round(warmup * steps)

    def formula(step):
        if step < up:
            return peak * step / up
        return peak * (1 + math.cos(math.pi * (step - up) / (steps - up))) / 2

    schedule = warmup_cosine(peak, steps, warmup)
    expected = [formula(step) for step in range(steps + 1)]
    np.testing.assert_allclose(
        rates_of(schedule, range(steps + 1)), expected, atol=1e-7
    )


def test_consecutive_schedules_each_count_their_own_steps():
    def triangle(step, peak, length, up):
        return peak * (step / up if step < up else (length - step) / (length - up))

    schedule = Consecutive(
        {
            120: WarmupLinear(0.1, steps=80, warmup=0.25),
            0: WarmupLinear(0.3, steps=120, warmup=0.5),
        }
    )
    expected = [triangle(step, 0.3, 120, 60) for step in range(120)]
    expected += [triangle(step, 0.1, 80, 20) for step in range(81)]
    np.testing.assert_allclose(rates_of(schedule, range(201)), expected, atol=1e-7)


def test_consecutive_schedules_begin_at_step_0():
    with pytest.raises(ValueError, match=r"\[10\]"):
        Consecutive({10: WarmupLinear(0.1, steps=10)})


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warmup_that_is_no_share(warmup):
    with pytest.raises(ValueError, match="warmup="):
        warmup_cosine(0.1, 100, warmup)
