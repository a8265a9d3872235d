import numpy as np

from elu_zoo import layers


def test_values():
    x = np.array([[-np.inf, -1.5, -1, -0.5, 0, 2, np.inf, np.nan]], "float32")
    expected = [[-1, -1, -1, -0.5, 0, 2, np.inf, np.nan]]
    np.testing.assert_array_equal(layers.ShiftedReLU()(x), expected)
