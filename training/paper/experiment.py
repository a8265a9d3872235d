"""What the command needs to know of an experiment of the paper."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One figure of the paper.

    Attributes:
        name: Name of its CSV and SVG files.
        variants: What is compared, such as activations.
        run: Called with the data folder, the checkpoint folder, a variant, the seeds
            and whether it is a quick trial; returns rows, each with its seed.
        draw: Called with the rows of the CSV, their values strings, and the path of the
            figure.
        together: Whether `run` trains all seeds at once. Otherwise it is called with
            one at a time, so that all variants of a seed come before the next seed.
    """

    name: str
    variants: tuple[str, ...]
    run: Callable[..., list[dict[str, Any]]]
    draw: Callable[..., None]
    together: bool = False
