"""The units that the paper compares: their names, colors and order in every figure."""

import dataclasses

NORMALIZED = " with batch normalization"
"""Ending of the names of variants that have it."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of the paper.

    Attributes:
        activation: As the model functions' argument `activation`.
        label: Name in the paper.
        color: From Okabe & Ito's palette, which color-blind readers can tell apart.
        marker: Marker of the points of a curve, for print without colors.
    """

    activation: str
    label: str
    color: str
    marker: str


UNITS = {
    unit.activation: unit
    for unit in (
        Unit("elu", "ELU", "#0072B2", "o"),
        Unit("shifted_relu", "SReLU", "#E69F00", "s"),
        Unit("leaky_relu", "LReLU", "#009E73", "^"),
        Unit("relu", "ReLU", "#D55E00", "v"),
    )
}
