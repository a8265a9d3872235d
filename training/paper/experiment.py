"""What the command needs to know of an experiment of the paper."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One figure of the paper.

    Attributes:
        name: Name of its CSV and SVG files.
        variants: What is compared, such as activations; each is one run.
        run: Called with the data folder, the checkpoint folder, a variant, the seeds
            and whether it is a quick trial; returns rows, one per epoch and seed.
        draw: Called with the rows of the CSV and the path of the figure.
    """

    name: str
    variants: tuple[str, ...]
    run: Callable[..., list[dict[str, Any]]]
    draw: Callable[..., None]
