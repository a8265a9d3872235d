"""Beyond the paper: ELU and the units of today, under the recipe of the zoo.

The 11-layer network on CIFAR-100 with each unit, and with batch normalization before
ELU and before ReLU, by the zoo's fast recipe, shortened. It has no teacher, which would
itself be an ELU network. SELU and ELU start from LeCun's initialization, the others
from He's; Muon, which orthogonalizes each update, makes the scale matter less than SGD
does. As everywhere in the zoo, pooling comes before the unit, which for units that are
not increasing (GELU, SiLU, Mish) is not the same as pooling after it. The error is
measured at the end: before, the images are smaller than those that it is measured on.
The nine networks of a seed take 0.98 PFLOP.
"""

from training.paper.runs import compare, normalized, suited
from training.paper.units import NORMALIZED, UNITS, Unit

TODAY = (
    *(UNITS[name] for name in ("elu", "leaky_relu", "relu")),
    Unit("gelu", "GELU", "#CC79A7", "D"),
    Unit("silu", "SiLU", "#56B4E9", "P"),
    Unit("mish", "Mish", "#8C6D31", "X"),
    Unit("selu", "SELU", "#7F7F7F", "*"),
)

VARIANTS = {unit.activation: suited(unit) for unit in TODAY}
VARIANTS |= {f"{n}{NORMALIZED}": normalized(VARIANTS[n]) for n in ("elu", "relu")}

EPOCHS = 6

experiment = compare(
    *("activations", "elunet11_cifar100_fast", VARIANTS),
    epochs=EPOCHS,
    image_sizes={0: 16, 4: 24, 5: 32},
    evaluate_every=EPOCHS,
)
