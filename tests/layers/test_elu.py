import numpy as np
import pytest

from elu_zoo import layers


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_values(alpha):
    x = np.linspace(-5, 5, 101).astype("float32").reshape(1, 101)
    expected = np.where(x > 0, x, alpha * np.expm1(x.astype("float64")))
    np.testing.assert_allclose(layers.ELU(alpha)(x), expected, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), "1"])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="positive finite number. Received: alpha="):
        layers.ELU(alpha)
