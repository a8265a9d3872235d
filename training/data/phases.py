"""Values that change during a run, by the first epoch or step that has them."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def counted_from_start(image_sizes: Mapping[int, int], epochs: int) -> dict[int, int]:
    """Replaces epochs counted from the end by epochs counted from the start.

    Args:
        image_sizes: Sides in pixels by epoch, as in a recipe.
        epochs: Number of epochs of the run.

    Returns:
        A dict of sizes, ordered by epoch. In a run too short for all of them, the sizes
        counted from the end take precedence.

    Example:

    >>> counted_from_start({0: 24, 4: 32, -2: 48}, epochs=10)
    {0: 24, 4: 32, 8: 48}
    >>> counted_from_start({0: 24, 4: 32, -2: 48}, epochs=5)
    {0: 24, 3: 48}
    """
    ends = {max(0, epochs + k): v for k, v in image_sizes.items() if k < 0}
    last = min(ends, default=epochs)
    begins = {k: v for k, v in image_sizes.items() if 0 <= k < last}
    return dict(sorted((begins | ends).items()))


def phase_at(phases: Mapping[int, Value], position: int) -> Value:
    """Returns the value in force at an epoch or step.

    Args:
        phases: Values by the first epoch or step that has them.
        position: Epoch or step, not before the first of `phases`.

    Returns:
        One of the values.

    Example:

    >>> phase_at({0: 24, 8: 32}, 9)
    32
    """
    return phases[max(first for first in phases if first <= position)]
