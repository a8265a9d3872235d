"""Adam with a learning rate of its own for each stack."""

import re

import keras

from elu_zoo.errors import UserError
from elu_zoo.feature_extraction import find_trunk, stack_layers


@keras.saving.register_keras_serializable("elu_zoo")
class LayerwiseAdam(keras.optimizers.Adam):
    """Adam whose learning rate is scaled by layer, for fine-tuning.

    Discriminative learning rates (Howard & Ruder, 2018): early layers, which serve any
    images, move less than late ones. The factors are saved with the optimizer.

    Args:
        learning_rate: As in `keras.optimizers.Adam`.
        rate_factors: Dict of regular expressions, searched in the paths of the weights,
            and factors for the learning rate, weight decay included. The first that is
            found counts; a weight with none has factor 1, one with factor 0 does not
            move.
        **kwargs: As in `keras.optimizers.Adam`.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=5, width=0.1)
    >>> factors = stack_factors(model, decay=0.5)
    >>> factors["^stack6_"], factors["^stack1_"]
    (0.5, 0.015625)
    >>> model.compile(LayerwiseAdam(1e-3, rate_factors=factors))
    """

    def __init__(self, learning_rate=0.001, rate_factors=None, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.rate_factors = dict(rate_factors or {})
        for pattern, factor in self.rate_factors.items():
            if not factor >= 0:
                raise UserError(
                    "Expected factors of 0 or more for the learning rate. Received: "
                    f"rate_factors={{{pattern!r}: {factor!r}}}"
                )

    def build(self, variables):
        super().build(variables)
        self._factors = [self._factor(variable.path) for variable in variables]

    def _factor(self, path):
        for pattern, factor in self.rate_factors.items():
            if re.search(pattern, path):
                return float(factor)
        return 1.0

    def update_step(self, gradient, variable, learning_rate):
        factor = self._factors[self._get_variable_index(variable)]
        if not factor:
            return
        learning_rate *= factor
        if self.weight_decay is not None and self._use_weight_decay(variable):
            rate = keras.ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * (rate * self.weight_decay))
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        """Nothing: Keras would decay all weights at the one rate, here."""

    def get_config(self):
        return super().get_config() | {"rate_factors": self.rate_factors}


def stack_factors(model, decay):
    """Factors that fall from the output layer to the input.

    Args:
        model: Keras model made by a model function of `elu_zoo`.
        decay: Factor from each stack to the one before it, in (0, 1].

    Returns:
        A dict for `LayerwiseAdam`: `decay` for the last stack, `decay**2` for the one
        before it, and so on.

    Raises:
        UserError: If the model has no stacks or the decay is out of range.
    """
    if not 0 < decay <= 1:
        raise UserError(f"Expected decay in (0, 1]. Received: decay={decay!r}")
    names = list(stack_layers(find_trunk(model)))
    return {
        f"^{name}_": decay ** (len(names) - number) for number, name in enumerate(names)
    }
