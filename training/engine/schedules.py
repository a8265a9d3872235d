"""Learning-rate schedules that Keras does not have."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
from keras import ops

from elu_zoo.errors import UserError

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule


class WarmupLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 to a peak, then falls linearly to 0.

    Args:
        peak: The highest learning rate.
        steps: Number of steps of the whole run.
        warmup: Share of the steps before the peak.

    Raises:
        UserError: If `warmup` is not between 0 and 1.

    Example:

    >>> schedule = WarmupLinear(0.02, steps=1000, warmup=0.2)
    >>> [round(float(schedule(step)), 4) for step in (0, 100, 200, 600, 1000)]
    [0.0, 0.01, 0.02, 0.01, 0.0]
    """

    def __init__(self, peak: float, steps: int, warmup: float = 0.2) -> None:
        if not 0 < warmup < 1:
            raise UserError(
                f"Expected warmup to be between 0 and 1. Received: warmup={warmup!r}"
            )
        self.peak, self.steps, self.warmup = peak, steps, warmup

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, a float32 scalar."""
        done = ops.cast(step, "float32") / self.steps
        up = done / self.warmup
        down = (1 - done) / (1 - self.warmup)
        return self.peak * ops.maximum(ops.minimum(up, down), 0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def warmup_cosine(
    peak: float, steps: int, warmup: float = 0.05
) -> keras.optimizers.schedules.CosineDecay:
    """Makes a schedule that rises linearly from 0, then falls as half a cosine to 0.

    It is Keras's `CosineDecay`, with the warmup as a share of the run.

    Args:
        peak: The highest learning rate.
        steps: Number of steps of the whole run.
        warmup: Share of the steps before the peak.

    Returns:
        A `keras.optimizers.schedules.CosineDecay`.

    Raises:
        UserError: If the warmup is not shorter than the run.

    Example:

    >>> schedule = warmup_cosine(0.02, steps=1000, warmup=0.2)
    >>> [round(float(schedule(step)), 4) for step in (0, 100, 200, 600, 1000)]
    [0.0, 0.01, 0.02, 0.01, 0.0]
    """
    up = round(warmup * steps)
    if not 0 <= up < steps:
        raise UserError(
            "Expected warmup to be a share of the run, from 0 to below 1. Received: "
            f"warmup={warmup!r}, steps={steps!r}"
        )
    if up == 0:
        return keras.optimizers.schedules.CosineDecay(peak, steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - up, warmup_target=peak, warmup_steps=up
    )


def piecewise(
    rates: Mapping[int, float], of: int, steps: int
) -> keras.optimizers.schedules.PiecewiseConstantDecay:
    """Makes a schedule of constant rates that change at given iterations.

    Section 4.2 of the paper has such rates. In a run of a different length, because of
    its batch size or number of epochs, each rate keeps its share of the steps.

    Args:
        rates: Learning rates by the first iteration that has them; the first is
            iteration 0.
        of: Number of iterations of the run that `rates` is for.
        steps: Number of steps of this run.

    Returns:
        A `keras.optimizers.schedules.PiecewiseConstantDecay`.

    Raises:
        UserError: If `rates` has only one rate, does not begin at iteration 0, or has
            iterations beyond `of`.

    Example:

    >>> schedule = piecewise({0: 0.1, 30: 0.01}, of=40, steps=400)
    >>> [round(float(schedule(step)), 4) for step in (0, 299, 300, 399)]
    [0.1, 0.1, 0.01, 0.01]
    """
    first, *later = sorted(rates)
    if first != 0 or not later or later[-1] >= of:
        raise UserError(
            "Expected at least two rates, from iteration 0 on, all within the run. "
            f"Received: rates={rates!r}, of={of!r}"
        )
    # Keras's boundaries are the last steps of a rate, not the first of the next one.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(iteration * steps / of) - 1 for iteration in later],
        [rates[iteration] for iteration in (0, *later)],
    )


class Consecutive(keras.optimizers.schedules.LearningRateSchedule):
    """Runs schedules one after the other; each counts its own steps from 0.

    Args:
        schedules: Keras learning-rate schedules by the first step that has them; the
            first is step 0.

    Raises:
        UserError: If `schedules` does not begin at step 0.

    Example:

    >>> once = WarmupLinear(0.02, steps=1000, warmup=0.2)
    >>> again = WarmupLinear(0.01, steps=500, warmup=0.2)
    >>> schedule = Consecutive({0: once, 1000: again})
    >>> [round(float(schedule(step)), 4) for step in (200, 600, 1000, 1100, 1500)]
    [0.02, 0.01, 0.0, 0.01, 0.0]
    """

    def __init__(self, schedules: Mapping[int, Schedule]) -> None:
        if 0 not in schedules:
            raise UserError(
                "Expected schedules to begin at step 0. "
                f"Received: schedules of steps {sorted(schedules)}"
            )
        self.schedules = dict(sorted(schedules.items()))

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, a float32 scalar."""
        first, *later = self.schedules
        rate = self.schedules[first](step)
        for first in later:
            rate = ops.where(step < first, rate, self.schedules[first](step - first))
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"schedules": self.schedules}


class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """Multiplies a schedule by a factor, for a batch size that is not the recipe's.

    Args:
        schedule: Keras learning-rate schedule.
        factor: Factor for its learning rates.

    Example:

    >>> schedule = Scaled(WarmupLinear(0.02, steps=1000, warmup=0.2), factor=4.0)
    >>> round(float(schedule(200)), 4)
    0.08
    """

    def __init__(self, schedule: Schedule, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, a float32 scalar."""
        return self.schedule(step) * self.factor

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"schedule": self.schedule, "factor": self.factor}
