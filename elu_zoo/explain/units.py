"""What units respond to: filters of the first layer, and images that excite a unit."""

import keras
import numpy as np

from elu_zoo._inspection import to_numpy
from elu_zoo.errors import UserError
from elu_zoo.feature_extraction import features


def first_layer_filters(model: keras.Model) -> np.ndarray:
    """Turns the kernels of the first layer into images.

    Args:
        model: A model of this package.

    Returns:
        A float32 array of shape `(units, height, width, channels)`. Each filter is
        scaled so that weight 0 becomes 0.5, and its largest weight in magnitude 0 or 1.
        Those of a fully-connected layer are as large as the model's images.

    Raises:
        UserError: If the model has no Conv2D or Dense layer.

    Example:

    >>> import elu_zoo
    >>> first_layer_filters(elu_zoo.ELUNet11(width=0.05)).shape
    (10, 5, 5, 3)
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            kernels = np.moveaxis(to_numpy(layer.kernel, "float32"), -1, 0)
            if kernels.ndim == 2:
                kernels = kernels.reshape(-1, *model.input_shape[1:])
            largest = np.abs(kernels).max((1, 2, 3), keepdims=True)
            return 0.5 + kernels / np.where(largest > 0, 2 * largest, 1)
    raise UserError(
        f"Expected a model with a Conv2D or Dense layer. Received: {model!r}"
    )


def exciting_images(
    model: keras.Model,
    images: np.ndarray,
    stack: str,
    count: int = 8,
    batch_size: int = 250,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the images that excite each unit of a stack most.

    Args:
        model: A model of this package.
        images: Array of shape `(n, height, width, channels)`, as the model takes it.
        stack: Name of the stack, such as `"stack3"`.
        count: Number of images per unit.
        batch_size: Images per batch.

    Returns:
        `(numbers, activations)`, both of shape `(units, count)`, the strongest first:
        the images' indices, and the unit's largest activation in each image.

    Raises:
        UserError: If there are fewer images than `count`, or the model has no such
            stack.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(width=0.05)
    >>> numbers, _ = exciting_images(model, np.zeros((9, 32, 32, 3)), "stack1")
    >>> numbers.shape
    (10, 8)
    """
    if not 0 < count <= len(images):
        raise UserError(
            f"Expected count to be from 1 to the number of images, {len(images)}. "
            f"Received: count={count}"
        )
    outputs = features(model, [stack])
    strongest = []
    for start in range(0, len(images), batch_size):
        x = outputs.predict_on_batch(images[start : start + batch_size])[stack]
        strongest.append(x.reshape(len(x), -1, x.shape[-1]).max(1))
    activations = np.concatenate(strongest).T.astype("float32")
    numbers = np.argsort(-activations, axis=1, kind="stable")[:, :count]
    return numbers, np.take_along_axis(activations, numbers, 1)
