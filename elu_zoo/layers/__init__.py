"""The paper's activations, spatial pyramid and preprocessing as Keras layers."""

from elu_zoo.layers.elu import ELU
from elu_zoo.layers.global_contrast_normalization import GlobalContrastNormalization
from elu_zoo.layers.shifted_relu import ShiftedReLU
from elu_zoo.layers.spatial_pyramid_pooling import SpatialPyramidPooling
from elu_zoo.layers.standardization import Standardization
from elu_zoo.layers.zca_whitening import ZCAWhitening

__all__ = [
    "ELU",
    "GlobalContrastNormalization",
    "ShiftedReLU",
    "SpatialPyramidPooling",
    "Standardization",
    "ZCAWhitening",
]
