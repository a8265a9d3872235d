"""Figure 6: 15 layers with ELU and with ReLU.

Section 4.3 of the paper trains on ImageNet. Here it is Tiny ImageNet and a quarter of
the width, by the recipe `elunet15_tiny_imagenet.py` with three epochs at 32 pixels and
a lower rate, which rises and falls once: the recipe's own peak makes the loss rise. The
error is measured at the end, at 64 pixels, twice the size of the training. ReLU starts
from He's initialization. Both networks of a seed take 0.74 PFLOP.
"""

from typing import Any

from training.paper.runs import compare, suited
from training.paper.units import UNITS

VARIANTS = {name: suited(UNITS[name]) for name in ("elu", "relu")}

EPOCHS = 3


def learning_rate(steps: int) -> Any:
    """One rise and fall of the rate.

    Args:
        steps: Number of steps of the run.

    Returns:
        A Keras schedule.
    """
    from training.engine.schedules import WarmupLinear

    return WarmupLinear(0.008, steps, warmup=0.2)


experiment = compare(
    *("figure6", "elunet15_tiny_imagenet", VARIANTS),
    epochs=EPOCHS,
    image_sizes={0: 32},
    learning_rate=learning_rate,
    evaluate_every=EPOCHS,
)
