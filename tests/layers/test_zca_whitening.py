import os
import pathlib

import keras
import numpy as np
import pytest

from elu_zoo import layers


def smooth_images(n, *shape):
    """Images whose neighbouring pixels are correlated, as natural ones are."""
    x = np.random.default_rng(0).normal(size=(n, *shape))
    return 20 * np.cumsum(np.cumsum(x, axis=1), axis=2) + 100


def cifar100(n):
    """The first training images, whole."""
    folder = os.environ.get("ELU_ZOO_DATA")
    path = pathlib.Path(folder or "", "cifar-100-binary", "train.bin")
    if not folder or not path.exists():
        pytest.skip("set ELU_ZOO_DATA to a folder that holds cifar-100-binary/")
    records = np.fromfile(path, "uint8", n * 3074).reshape(n, 3074)
    return records[:, 2:].reshape(n, 3, 32, 32).transpose(0, 2, 3, 1)


def check_covariance(x, bias, atol):
    layer = layers.ZCAWhitening(bias=bias)
    layer.adapt(x)
    y = np.asarray(layer(x.astype("float32"))).reshape(len(x), -1).astype("float64")
    x = x.reshape(len(x), -1).astype("float64")

    covariance = np.cov(x.T, bias=True)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    # The identity up to the regulariser: e / (e + bias) along each direction.
    shrunk = vectors * (eigenvalues / (eigenvalues + bias)) @ vectors.T
    whitened = np.cov(y.T, bias=True)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=atol)
    np.testing.assert_allclose(whitened, shrunk, atol=atol)
    return whitened, eigenvalues


@pytest.mark.parametrize("bias", [1e-2, 0.1, 100.0])
def test_covariance_of_made_up_images(bias):
    whitened, eigenvalues = check_covariance(smooth_images(2500, 4, 5, 2), bias, 2e-3)
    if bias < 1e-3 * eigenvalues.min():
        np.testing.assert_allclose(whitened, np.eye(40), atol=3e-3)


def test_covariance_of_cifar100_crops():
    x = cifar100(4000)[:, 12:20, 12:20]
    x = np.asarray(layers.GlobalContrastNormalization()(x))
    whitened, eigenvalues = check_covariance(x, 0.1, 2e-3)
    strong = np.sum(eigenvalues > 10)
    assert strong > 20
    assert np.sum(np.linalg.eigvalsh(whitened) > 0.98) >= strong


def test_the_matrix_is_symmetric_and_keeps_images_recognizable():
    x = smooth_images(1000, 4, 4, 1)
    layer = layers.ZCAWhitening()
    layer.adapt(x)
    matrix = np.asarray(layer.matrix)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    assert (np.diag(matrix) > 0).all()


def test_batches_do_not_matter():
    x = smooth_images(300, 3, 3, 1)
    matrices = []
    for batch_size in (7, 300):
        layer = layers.ZCAWhitening()
        layer.adapt(x, batch_size=batch_size)
        matrices.append(np.asarray(layer.matrix))
    np.testing.assert_allclose(*matrices, rtol=1e-5, atol=1e-6)


def test_fewer_images_than_pixels():
    x = smooth_images(5, 4, 4, 3)
    layer = layers.ZCAWhitening()
    layer.adapt(x)
    assert np.isfinite(np.asarray(layer(x))).all()


def test_identity_before_adapt():
    x = smooth_images(2, 4, 4, 3).astype("float32")
    np.testing.assert_allclose(layers.ZCAWhitening()(x), x, rtol=1e-6)


@pytest.mark.parametrize("bias", [0, -1.0])
def test_bad_bias(bias):
    with pytest.raises(ValueError, match="Expected bias to be positive. Received: "):
        layers.ZCAWhitening(bias=bias)


def test_unknown_size():
    with pytest.raises(ValueError, match="Expected images of a fixed size"):
        layers.ZCAWhitening()(keras.Input((None, None, 3)))
