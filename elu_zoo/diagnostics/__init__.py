"""Measures the quantities of the paper's theory in any Keras model.

Section 3 of "Fast and Accurate Deep Network Learning by Exponential Linear Units"
(Clevert et al., 2016): mean activations, bias shift and the unit natural gradient.
"""

from elu_zoo.diagnostics.activation_statistics import ActivationStatistics
from elu_zoo.diagnostics.natural_gradient import (
    UnitNaturalGradient,
    unit_natural_gradient,
)

__all__ = ["ActivationStatistics", "UnitNaturalGradient", "unit_natural_gradient"]
