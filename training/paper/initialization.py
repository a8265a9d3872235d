"""Beyond the paper: how far ELU networks train from three initializations.

The paper's recipe with SGD, compressed to two epochs at 16 pixels, without dropout and
whitening, and without normalization: networks of 5, 11 and 18 layers that start from
He's initialization, the paper's; from LeCun's; and from the zoo's, which differs from
LeCun's in the output layer. The errors in the CSV are of images of 32 pixels, twice as
large as those of the training. All nine runs of a seed are meant to take ten minutes on
two cores.
"""

import dataclasses
import functools

from training.paper.depth import at_each_depth, draw_depths
from training.paper.runs import Variant, compare
from training.paper.units import Unit

STARTS = {
    "he": (Unit("elu", "He", "#CC79A7", "D"), "he_normal"),
    "lecun": (Unit("elu", "LeCun", "#56B4E9", "P"), "lecun_normal"),
    "zoo": (Unit("elu", "zoo", "#0072B2", "o"), None),
}
LINES = {name: unit for name, (unit, _) in STARTS.items()}
COMMON = {"preprocessing": "standardize", "dropout": None}

experiment = dataclasses.replace(
    compare(
        *("initialization", "elunet11_cifar100_paper"),
        at_each_depth(
            {
                name: Variant(unit, {"kernel_initializer": start, **COMMON})
                for name, (unit, start) in STARTS.items()
            }
        ),
        log_every=10,
        epochs=2,
        image_sizes={0: 16},
        evaluate_every=2,
    ),
    draw=functools.partial(
        draw_depths,
        LINES,
        ("train_loss", "training loss at the end"),
        "CIFAR-100, ELU without normalization, SGD, 2 epochs at 16 pixels",
    ),
)
