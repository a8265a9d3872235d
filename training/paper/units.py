"""The units that the paper compares: their names, colours and order in every figure."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of the paper.

    Attributes:
        activation: As in the model functions' argument `activation`.
        label: As the paper writes it.
        color: From Okabe & Ito's palette, which colour-blind readers can tell apart.
        marker: Of the points of a curve, for print without colours.
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
