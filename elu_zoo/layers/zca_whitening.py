from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="elu_zoo")
class ZCAWhitening(keras.layers.Layer):
    """Decorrelates pixels and channels, staying as near to the image as possible.

    An image x, flattened, becomes `(x - mean) @ V diag(1 / sqrt(e + bias)) V^T`, with
    V and e the eigenvectors and eigenvalues of the covariance of the images given to
    `adapt`. As in Goodfellow et al., "Maxout Networks" (2013), whose preprocessing
    the paper uses after `GlobalContrastNormalization`. Until `adapt` or loaded weights
    replace it, the layer is the identity. Mean and matrix are non-trainable float32
    weights: 38 MB for 32x32x3. Computed in float32, whatever the layer's dtype. Input
    and output have the same shape, which is fixed but for the batch.

    Args:
        bias: positive float added to every eigenvalue; along directions of a variance
            far below it, whitened images keep a variance far below 1.

    Raises:
        ValueError: if `bias` is not positive, or the size of the images is not fixed.

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

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = tuple(input_shape[1:])
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

    def call(self, inputs):
        dtype = keras.backend.result_type("float32", self.compute_dtype)
        x = keras.ops.reshape(keras.ops.cast(inputs, dtype), (-1, self.mean.shape[0]))
        x = x - keras.ops.cast(self.mean, dtype)
        x = keras.ops.matmul(x, keras.ops.cast(self.matrix, dtype))
        x = keras.ops.reshape(x, (-1, *inputs.shape[1:]))
        return keras.ops.cast(x, self.compute_dtype)

    def adapt(self, images: np.ndarray, batch_size: int = 1000) -> None:
        """Learns mean and matrix from `images`, in float64.

        Takes about a minute for 50,000 images of 32x32x3.

        Args:
            images: NumPy array (a memory-mapped one is read in parts) with the shape
                of the layer's input, preprocessed as the layer's input is.
            batch_size: int, the number of images read at a time.
        """
        if not self.built:
            self.build((None, *images.shape[1:]))

        def batches():
            for start in range(0, len(images), batch_size):
                batch = np.asarray(images[start : start + batch_size], "float64")
                yield batch.reshape(len(batch), -1)

        mean = sum(x.sum(axis=0) for x in batches()) / len(images)
        covariance = sum((x - mean).T @ (x - mean) for x in batches()) / len(images)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        scales = 1 / np.sqrt(np.maximum(eigenvalues, 0) + self.bias)
        self.mean.assign(mean)
        self.matrix.assign(vectors * scales @ vectors.T)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bias": self.bias}
