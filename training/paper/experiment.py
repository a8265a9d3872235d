"""What every experiment of the paper is to the command."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One figure of the paper.

    Attributes:
        name: Name of its CSV and SVG files.
        variants: What is compared, such as activations; each is one run.
        run: Called with data folder, checkpoint folder, variant, seeds and whether it
            is a quick try; returns rows, one per epoch and seed.
        draw: Called with the rows of the CSV and the path of the figure.
    """

    name: str
    variants: tuple[str, ...]
    run: Callable
    draw: Callable
