"""Figure 6: 15 layers with ELU and with ReLU.

Section 4.3 of the paper trains on ImageNet. Here it is Tiny ImageNet and a quarter of
the width, by the recipe of the published weights, shortened. ReLU starts from He's
initialization.
"""

from training.paper.runs import compare, suited
from training.paper.units import UNITS

VARIANTS = {name: suited(UNITS[name]) for name in ("elu", "relu")}

experiment = compare(
    "figure6", "elunet15_tiny_imagenet", VARIANTS, epochs=3, image_sizes={0: 32}
)
