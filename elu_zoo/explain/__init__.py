"""What a network sees: heat maps over images, filters, images that excite a unit."""

from elu_zoo.explain.heat_maps import (
    METHODS,
    check_method,
    deletion_curve,
    grad_cam,
    heat_map,
    integrated_gradients,
    occlusion,
)
from elu_zoo.explain.pictures import overlay, picture
from elu_zoo.explain.units import exciting_images, first_layer_filters

__all__ = [
    "METHODS",
    "check_method",
    "deletion_curve",
    "exciting_images",
    "first_layer_filters",
    "grad_cam",
    "heat_map",
    "integrated_gradients",
    "occlusion",
    "overlay",
    "picture",
]
