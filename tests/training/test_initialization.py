import keras
import numpy as np

import elu_zoo
from training.engine.initialization import whitening_stem


def test_the_stem_whitens_patches():
    rng = np.random.default_rng(0)
    white = rng.normal(size=(40, 20, 20, 3))
    smooth = white + np.roll(white, 1, 1) + np.roll(white, 1, 2)
    images = (smooth @ rng.normal(size=(3, 3)) * 10 + 120).astype("float32")
    model = elu_zoo.ELUNet11(
        input_shape=(20, 20, 3), include_preprocessing=False, dropout=None
    )
    convolution = model.get_layer("stack1_conv1")
    before = np.array(convolution.kernel)
    centered = images - images.mean()
    whitening_stem(scale=0.5, epsilon=0.0)(model, centered)
    kernel = np.array(convolution.kernel, "float64")
    np.testing.assert_array_equal(kernel[..., 150:], before[..., 150:])
    np.testing.assert_array_equal(kernel[..., 75:150], -kernel[..., :75])
    # An independent convolution: all inner 5x5 patches against the filters.
    patches = np.stack(
        [
            centered[:, i : i + 16, j : j + 16].reshape(-1, 3)
            for i in range(5)
            for j in range(5)
        ],
        axis=1,
    ).reshape(-1, 75)
    responses = patches.astype("float64") @ kernel[..., :75].reshape(75, 75)
    second_moments = responses.T @ responses / len(responses)
    np.testing.assert_allclose(second_moments, 0.25 * np.eye(75), atol=2e-3)


def test_few_filters_take_the_most_important_components():
    images = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype("float32")
    model = elu_zoo.ELUNet11(
        input_shape=(12, 12, 3), include_preprocessing=False, width=0.05
    )
    whitening_stem()(model, images)
    assert np.isfinite(np.array(model.get_layer("stack1_conv1").kernel)).all()
    assert keras.ops.shape(model(images)) == (8, 100)
