"""Learning-rate schedules that Keras does not have."""

import keras
from keras import ops


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
            raise ValueError(
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
