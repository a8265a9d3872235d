"""Beyond the paper: how far ELU networks train from four initializations.

The paper's recipe with SGD, compressed to two epochs at 16 pixels, without dropout and
whitening, and without normalization: networks of 5, 11 and 18 layers that start from
He's initialization, the paper's; from LeCun's; from the zoo's, which differs from
LeCun's in the output layer; and from weights whose variance, 1.55 over the number of
inputs, keeps the second moment of ELU's outputs: of a standard normal net input it is
0.645. The errors in the CSV are of images of 32 pixels, twice as large as those of the
training. All twelve runs of a seed take about ten minutes on two cores.
"""

import dataclasses
import functools
from typing import Any

from training.paper.depth import at_each_depth, draw_depths
from training.paper.runs import Variant, compare
from training.paper.units import Unit

KEEPING = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1.55, "mode": "fan_in", "distribution": "truncated_normal"},
}
STARTS: dict[str, tuple[Unit, Any]] = {
    "he": (Unit("elu", "He", "#CC79A7", "D"), "he_normal"),
    "lecun": (Unit("elu", "LeCun", "#56B4E9", "P"), "lecun_normal"),
    "zoo": (Unit("elu", "zoo", "#0072B2", "o"), None),
    "keeping": (Unit("elu", "1.55 / inputs", "#009E73", "s"), KEEPING),
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
