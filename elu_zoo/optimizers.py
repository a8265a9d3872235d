"""Adam with a separate learning rate for each stack."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from elu_zoo._typing import Tensor
from elu_zoo.errors import UserError
from elu_zoo.feature_extraction import find_trunk, stack_layers


@keras.saving.register_keras_serializable("elu_zoo")
class LayerwiseAdam(keras.optimizers.Adam):
    """Adam whose learning rate is scaled by layer, for fine-tuning.

    Discriminative learning rates (Howard & Ruder, 2018): early layers, whose features
    suit images of every kind, change less than late ones. The factors are saved with
    the optimizer.

    Args:
        learning_rate: As in `keras.optimizers.Adam`.
        rate_factors: Dict from regular expressions to factors of 0 or more. The first
            expression found in the path of a weight scales its learning rate and weight
            decay. A weight that none matches has factor 1; a weight with factor 0 is
            frozen.
        **kwargs: As in `keras.optimizers.Adam`.

    Raises:
        UserError: If a factor is negative.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=5, width=0.1)
    >>> factors = stack_factors(model, decay=0.5)
    >>> factors["^stack6_"], factors["^stack1_"]
    (0.5, 0.015625)
    >>> model.compile(LayerwiseAdam(1e-3, rate_factors=factors))
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        rate_factors: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rate_factors = dict(rate_factors or {})
        for pattern, factor in self.rate_factors.items():
            if not factor >= 0:
                raise UserError(
                    "Expected factors of 0 or more for the learning rate. Received: "
                    f"rate_factors={{{pattern!r}: {factor!r}}}"
                )

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        self._factors = [self._factor(variable.path) for variable in variables]

    def _factor(self, path: str) -> float:
        for pattern, factor in self.rate_factors.items():
            if re.search(pattern, path):
                return float(factor)
        return 1.0

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        factor = self._factors[self._get_variable_index(variable)]
        if not factor:
            return
        learning_rate *= factor
        if self.weight_decay is not None and self._use_weight_decay(variable):
            rate = keras.ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * (rate * self.weight_decay))
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Does nothing: here Keras would decay all weights at one rate."""

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rate_factors": self.rate_factors}


def stack_factors(model: keras.Model, decay: float) -> dict[str, float]:
    """Learning-rate factors that decrease from the output layer to the input.

    Args:
        model: Keras model made by a model function of `elu_zoo`.
        decay: Ratio between the factor of a stack and that of the next, in (0, 1].

    Returns:
        The `rate_factors` of `LayerwiseAdam`: `decay` for the last stack, `decay**2`
        for the one before it, and so on.

    Raises:
        UserError: If the model has no stacks, or `decay` is out of range.

    Example:

    >>> import elu_zoo
    >>> factors = stack_factors(elu_zoo.ELUNet11(width=0.05), decay=0.5)
    >>> factors["^stack6_"], factors["^stack5_"]
    (0.5, 0.25)
    """
    if not 0 < decay <= 1:
        raise UserError(f"Expected decay in (0, 1]. Received: decay={decay!r}")
    names = list(stack_layers(find_trunk(model)))
    return {
        f"^{name}_": decay ** (len(names) - number) for number, name in enumerate(names)
    }
