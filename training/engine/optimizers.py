"""Muon for convolutions."""

import math

import keras
from keras import ops


class ConvMuon(keras.optimizers.Muon):
    """`keras.optimizers.Muon` that treats convolution kernels too.

    Keras's own orthogonalizes the updates of matrices only. Here a kernel of shape
    `(height, width, inputs, outputs)` counts as the matrix
    `(height · width · inputs, outputs)`; biases are left to Adam.

    Args:
        learning_rate: As in Keras; an orthogonal update of this spectral norm.
        bias_rate: Factor for the learning rate of Adam on the biases.
        rms_rate: As in Keras; its default there, 0.2, is meant for other rates.
        adam_weight_decay: As in Keras; biases are not decayed.
        **kwargs: Other arguments of `keras.optimizers.Muon`.
    """

    def __init__(
        self,
        learning_rate=0.02,
        bias_rate=0.05,
        rms_rate=None,
        adam_weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            adam_lr_ratio=bias_rate,
            rms_rate=rms_rate,
            adam_weight_decay=adam_weight_decay,
            **kwargs,
        )

    def _should_use_adamw(self, variable):
        return len(variable.shape) < 2

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = ops.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        if matrix.shape[0] < matrix.shape[1]:
            update = ops.transpose(self._orthogonalized(ops.transpose(matrix), steps))
        else:
            update = self._orthogonalized(matrix, steps)
        return ops.reshape(update, x.shape)

    def _orthogonalized(self, matrix, steps):
        """Keras's iteration, of matrices that are not wide.

        A step multiplies the matrix by a polynomial of its Gram matrix. All of these
        commute, so a tall matrix is needed at the beginning and the end only, and the
        steps are products of matrices as small as its number of columns.
        """
        rows, columns = matrix.shape
        if rows < 1.5 * columns:  # Then Keras's way has fewer operations.
            return super().zeropower_via_newtonschulz5(matrix, steps)
        matrix = matrix / (ops.norm(matrix) + 1e-7)
        gram = ops.matmul(ops.transpose(matrix), matrix)
        identity = ops.eye(columns, dtype=matrix.dtype)
        product = identity
        for _ in range(steps):
            factor = self.muon_a * identity + self.muon_b * gram
            factor = factor + self.muon_c * ops.matmul(gram, gram)
            product = ops.matmul(product, factor)
            gram = ops.matmul(factor, ops.matmul(gram, factor))
        return ops.matmul(matrix, product)

    def get_config(self):
        config = super().get_config()
        config["bias_rate"] = config.pop("adam_lr_ratio")
        return config
