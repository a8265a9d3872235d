"""Learning-rate schedules that Keras does not have."""

import keras
from keras import ops

from elu_zoo.errors import UserError


class WarmupLinear(keras.optimizers.schedules.LearningRateSchedule):
    """From 0 linearly up to a peak, then linearly down to 0.

    Args:
        peak: The highest learning rate.
        steps: Steps of the whole run.
        warmup: Share of the steps that go up.

    Example:

    >>> schedule = WarmupLinear(0.02, steps=1000, warmup=0.2)
    >>> [round(float(schedule(step)), 4) for step in (0, 100, 200, 600, 1000)]
    [0.0, 0.01, 0.02, 0.01, 0.0]
    """

    def __init__(self, peak, steps, warmup=0.2):
        if not 0 < warmup < 1:
            raise UserError(
                f"Expected warmup to be between 0 and 1. Received: warmup={warmup!r}"
            )
        self.peak, self.steps, self.warmup = peak, steps, warmup

    def __call__(self, step):
        done = ops.cast(step, "float32") / self.steps
        up = done / self.warmup
        down = (1 - done) / (1 - self.warmup)
        return self.peak * ops.maximum(ops.minimum(up, down), 0.0)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def warmup_cosine(peak, steps, warmup=0.05):
    """From 0 linearly up to a peak, then half a cosine down to 0.

    Keras's `CosineDecay`, with the warmup as a share of the run.

    Args:
        peak: The highest learning rate.
        steps: Steps of the whole run.
        warmup: Share of the steps that go up.

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


def piecewise(rates, of, steps):
    """Learning rates that change at given iterations, such as the paper's.

    In a run of another length, because of its batch size or number of epochs, each rate
    has the same share of the steps.

    Args:
        rates: Dict of learning rates by the first iteration that has them; the first is
            iteration 0.
        of: Iterations of the run that `rates` is for.
        steps: Steps of this run.

    Returns:
        A `keras.optimizers.schedules.PiecewiseConstantDecay`.

    Raises:
        UserError: If `rates` has one rate only, does not begin at iteration 0, or has
            iterations beyond `of`.

    Example:

    >>> schedule = piecewise({0: 0.1, 30: 0.01}, of=40, steps=400)
    >>> [round(float(schedule(step)), 4) for step in (0, 299, 300, 399)]
    [0.1, 0.1, 0.01, 0.01]
    """
    first, *later = sorted(rates)
    if first != 0 or not later or later[-1] >= of:
        raise UserError(
            "Expected two rates or more, from iteration 0 on, all within the run. "
            f"Received: rates={rates!r}, of={of!r}"
        )
    # Keras's boundaries are the last steps of a rate, not the first of the next.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(iteration * steps / of) - 1 for iteration in later],
        [rates[iteration] for iteration in (0, *later)],
    )


class Consecutive(keras.optimizers.schedules.LearningRateSchedule):
    """Schedules one after the other, each with its own count of the steps.

    Args:
        schedules: Dict of Keras learning-rate schedules by the first step that has
            them; the first is step 0.

    Raises:
        UserError: If `schedules` does not begin at step 0.

    Example:

    >>> once = WarmupLinear(0.02, steps=1000, warmup=0.2)
    >>> again = WarmupLinear(0.01, steps=500, warmup=0.2)
    >>> schedule = Consecutive({0: once, 1000: again})
    >>> [round(float(schedule(step)), 4) for step in (200, 600, 1000, 1100, 1500)]
    [0.02, 0.01, 0.0, 0.01, 0.0]
    """

    def __init__(self, schedules):
        if 0 not in schedules:
            raise UserError(
                "Expected schedules to begin at step 0. "
                f"Received: schedules of steps {sorted(schedules)}"
            )
        self.schedules = dict(sorted(schedules.items()))

    def __call__(self, step):
        first, *later = self.schedules
        rate = self.schedules[first](step)
        for first in later:
            rate = ops.where(step < first, rate, self.schedules[first](step - first))
        return rate

    def get_config(self):
        return {"schedules": self.schedules}


class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule times a factor, for another batch size than the recipe's.

    Args:
        schedule: Keras learning-rate schedule.
        factor: Number.

    Example:

    >>> schedule = Scaled(WarmupLinear(0.02, steps=1000, warmup=0.2), factor=4.0)
    >>> round(float(schedule(200)), 4)
    0.08
    """

    def __init__(self, schedule, factor):
        self.schedule, self.factor = schedule, factor

    def __call__(self, step):
        return self.schedule(step) * self.factor

    def get_config(self):
        return {"schedule": self.schedule, "factor": self.factor}
