"""ZCA whitening as a layer."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from elu_zoo._typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="elu_zoo")
class ZCAWhitening(keras.layers.Layer):
    """Decorrelates pixels and channels while staying as close to the image as possible.

    A flattened image x becomes `(x - mean) @ V diag(1 / sqrt(e + bias)) V^T`, where V
    and e are the eigenvectors and eigenvalues of the covariance of the images passed to
    `adapt`. This is the preprocessing of Goodfellow et al., "Maxout Networks" (2013),
    which the paper uses after `GlobalContrastNormalization`. The layer is the identity
    until `adapt` or loaded weights replace its mean and matrix, which are non-trainable
    float32 weights: 38 MB for images of 32x32x3. It computes in float32, whatever its
    dtype. Input and output have the same shape, fixed except for the batch.

    Args:
        bias: Positive float added to every eigenvalue. Directions whose variance is far
            below it keep a variance far below 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `bias` is not positive, or the size of the images is not fixed.

    Example:

    >>> import numpy as np
    >>> images = np.random.default_rng(0).normal(size=(500, 2, 2, 1))
    >>> images[:, 0] += 3 * images[:, 1]
    >>> layer = ZCAWhitening(bias=1e-6)
    >>> layer.adapt(images)
    >>> covariance = np.cov(np.asarray(layer(images)).reshape(500, 4).T)
    >>> bool(np.allclose(covariance, np.eye(4), atol=0.01))
    True
    """

    def __init__(self, bias: float = 0.1, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if not bias > 0:
            raise ValueError(f"Expected bias to be positive. Received: bias={bias}")
        self.bias = float(bias)

    def build(self, input_shape: Shape) -> None:
        shape: tuple[Any, ...] = tuple(input_shape[1:])
        if None in shape:
            raise ValueError(
                "Expected images of a fixed size, because each pixel has its own "
                f"weights. Received: input_shape={input_shape}"
            )
        size = int(np.prod(shape))
        options = {"dtype": "float32", "autocast": False, "trainable": False}
        self.mean = self.add_weight((size,), "zeros", name="mean", **options)
        self.matrix = self.add_weight(
            (size, size), "identity", name="matrix", **options
        )

    def call(self, inputs: Tensor) -> Tensor:
        dtype = keras.backend.result_type("float32", self.compute_dtype)
        x = keras.ops.reshape(keras.ops.cast(inputs, dtype), (-1, self.mean.shape[0]))
        x = x - keras.ops.cast(self.mean, dtype)
        x = keras.ops.matmul(x, keras.ops.cast(self.matrix, dtype))
        x = keras.ops.reshape(x, (-1, *inputs.shape[1:]))
        return keras.ops.cast(x, self.compute_dtype)

    def adapt(self, images: np.ndarray, batch_size: int = 1000) -> None:
        """Computes mean and matrix from `images`, in float64.

        Takes about a minute for 50,000 images of 32x32x3.

        Args:
            images: NumPy array with the shape of the layer's input, preprocessed as
                that input is; a memory-mapped array is read in parts.
            batch_size: Int, the number of images read at a time.
        """
        if not self.built:
            self.build((None, *images.shape[1:]))

        def batches() -> Iterator[np.ndarray]:
            for start in range(0, len(images), batch_size):
                batch = np.asarray(images[start : start + batch_size], "float64")
                yield batch.reshape(len(batch), -1)

        mean = sum(x.sum(axis=0) for x in batches()) / len(images)
        covariance = sum((x - mean).T @ (x - mean) for x in batches()) / len(images)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        scales = 1 / np.sqrt(np.maximum(eigenvalues, 0) + self.bias)
        self.mean.assign(mean)
        self.matrix.assign(vectors * scales @ vectors.T)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bias": self.bias}
