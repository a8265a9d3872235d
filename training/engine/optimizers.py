"""Muon for convolutions."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from elu_zoo.errors import UserError


class _Muon312(keras.optimizers.Muon):
    """The class of Keras 3.12, made to do what later ones do without `rms_rate`."""

    def __init__(
        self,
        *args: Any,
        rms_rate: None = None,
        adam_weight_decay: None = None,
        weight_decay: float | None = 0.004,
        ns_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        if rms_rate is not None or adam_weight_decay is not None:
            raise UserError(
                "Expected rms_rate=None and adam_weight_decay=None with Keras 3.12. "
                f"Received: {rms_rate=}, {adam_weight_decay=}"
            )
        super().__init__(*args, weight_decay=weight_decay, ns_steps=ns_steps, **kwargs)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # It looks for the path of the variable, which TensorFlow's do not have.
        variable = self._trainable_variables[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate)

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any) -> None:
        # It multiplies the rate by this.
        rows, columns = variable.shape[:2]
        lr = lr / max(1, rows / columns) ** 0.5
        super()._muon_update_step(gradient, variable, lr)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        kernels = [v for v in variables if not self._should_use_adamw(v)]
        super()._apply_weight_decay(kernels)


NEW = hasattr(keras.optimizers.Muon, "lr_adjust")
Muon: Any = keras.optimizers.Muon if NEW else _Muon312


class ConvMuon(Muon):
    """`keras.optimizers.Muon` that orthogonalizes updates of convolution kernels too.

    Keras's class treats matrices only. Here a kernel of shape
    `(height, width, inputs, outputs)` counts as a matrix of shape
    `(height · width · inputs, outputs)`; biases are left to Adam (Jordan et al., 2024,
    "Muon: An optimizer for hidden layers in neural networks").

    Args:
        learning_rate: As in Keras: the spectral norm of an update.
        bias_rate: Factor for Adam's learning rate on the biases.
        rms_rate: As in Keras, whose default of 0.2 is meant for other learning rates.
        adam_weight_decay: As in Keras; biases are not decayed.
        newton_schulz_dtype: Dtype of the products of matrices, `"float32"` or
            `"bfloat16"`, which is faster where the processor multiplies in it.
        **kwargs: Other arguments of `keras.optimizers.Muon`.

    Raises:
        UserError: If `newton_schulz_dtype` is neither.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.02,
        bias_rate: float = 0.05,
        rms_rate: float | None = None,
        adam_weight_decay: float | None = None,
        newton_schulz_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        if newton_schulz_dtype not in ("float32", "bfloat16"):
            raise UserError(
                'Expected newton_schulz_dtype to be "float32" or "bfloat16". '
                f"Received: newton_schulz_dtype={newton_schulz_dtype!r}"
            )
        super().__init__(
            learning_rate,
            adam_lr_ratio=bias_rate,
            rms_rate=rms_rate,
            adam_weight_decay=adam_weight_decay,
            **kwargs,
        )
        self.newton_schulz_dtype = newton_schulz_dtype

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return len(variable.shape) < 2

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        """Orthogonalizes an update.

        Args:
            x: Tensor of two or more axes; all but the last count as rows of a matrix.
            steps: Number of Newton–Schulz steps.

        Returns:
            A tensor of the same shape.
        """
        matrix = ops.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        if matrix.shape[0] < matrix.shape[1]:
            update = ops.transpose(self._orthogonalized(ops.transpose(matrix), steps))
        else:
            update = self._orthogonalized(matrix, steps)
        return ops.reshape(update, x.shape)

    def _orthogonalized(self, matrix: Any, steps: int) -> Any:
        """Keras's iteration, for matrices with no more columns than rows.

        A step multiplies the matrix by a polynomial of its Gram matrix. These
        polynomials commute, so a tall matrix is needed only at the beginning and the
        end of some steps, which multiply square matrices of its number of columns.
        """
        dtype = matrix.dtype
        matrix = matrix / (ops.norm(matrix) + 1e-7)
        matrix = ops.cast(matrix, self.newton_schulz_dtype)
        rows, columns = matrix.shape
        for count in self._groups(rows, columns, steps):
            gram = ops.matmul(ops.transpose(matrix), matrix)
            product = factor = self._polynomial(gram)
            for _ in range(count - 1):
                gram = ops.matmul(factor, ops.matmul(gram, factor))
                factor = self._polynomial(gram)
                product = ops.matmul(product, factor)
            matrix = ops.matmul(matrix, product)
        return ops.cast(matrix, dtype)

    def _groups(self, rows: int, columns: int, steps: int) -> list[int]:
        """How many steps to compute from each Gram matrix of the tall matrix."""
        if rows < 1.5 * columns:  # Separate steps need fewer operations.
            return [1] * steps
        if self.newton_schulz_dtype == "float32":
            return [steps]
        # Rounding makes eigenvalues of the Gram matrix negative, and steps from there
        # move them away from 0. After three they are still small.
        return [min(3, steps - done) for done in range(0, steps, 3)]

    def _polynomial(self, gram: Any) -> Any:
        """What a step multiplies the matrix by."""
        identity = self.muon_a * ops.eye(gram.shape[0], dtype=gram.dtype)
        return identity + self.muon_b * gram + self.muon_c * ops.matmul(gram, gram)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        config["bias_rate"] = config.pop("adam_lr_ratio")
        config["newton_schulz_dtype"] = self.newton_schulz_dtype
        return config
