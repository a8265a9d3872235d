"""Beyond the paper: ELU and ReLU in networks of 5, 11 and 18 layers at equal cost.

The abstract says that ELUs generalize better than ReLUs in networks of more than five
layers. Here the networks see the same images in the same order, on CIFAR-100, by the
recipe of the 18-layer network, shortened and without dropout. The 5 layers are the
11-layer table without its 1×1 convolutions; they and the 18 are hidden layers, the 11
include the output layer, as the paper counts. The widths are such that a training step
takes the same number of operations, without Muon's: 49 TFLOP a run. All six runs of a
seed are meant to take about half an hour on two cores.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from elu_zoo.architectures import ARCHITECTURES, Stack
from training.figures import INK, drawing
from training.paper import plots
from training.paper.runs import Variant, compare, suited
from training.paper.units import UNITS, Unit


class Network(NamedTuple):
    """A network of the experiment.

    Attributes:
        model: Its model function.
        width: Argument of the model function.
        stacks: Stacks that replace the model's, if any.
    """

    model: str
    width: float
    stacks: tuple[Stack, ...] | None = None


*HIDDEN, _, OUTPUT = ARCHITECTURES["elunet11"].stacks
FIVE = (*(tuple(row for row in stack if row[2] > 1) for stack in HIDDEN), OUTPUT)
NETWORKS = {
    5: Network("ELUNet11", 0.63, FIVE),
    11: Network("ELUNet11", 0.6),
    18: Network("ELUNet18", 0.197),
}
LINES = {name: UNITS[name] for name in ("elu", "relu")}
SETTINGS: dict[str, Any] = {
    "batch_size": 512,
    "epochs": 8,
    "image_sizes": {0: 16, 6: 24, 7: 32},
}
TFLOP = 49
"""Cost of a run in trillions of operations, without Muon's."""
CHANCE = math.log(100)
"""Loss of a network that knows nothing of the classes of CIFAR-100."""


def at_each_depth(variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """Combines variants with the network of each depth.

    Args:
        variants: The variants by name.

    Returns:
        The combinations by name and number of layers, such as `"elu 11"`.
    """
    return {
        f"{name} {layers}": variant._replace(
            arguments={**variant.arguments, "width": network.width},
            model=network.model,
            stacks=network.stacks,
        )
        for layers, network in NETWORKS.items()
        for name, variant in variants.items()
    }


def draw_depths(
    lines: Mapping[str, Unit],
    last: tuple[str, str],
    title: str,
    rows: list[dict[str, Any]],
    path: pathlib.Path,
) -> None:
    """Draws the training loss by step, a panel per depth, and the end by depth.

    A run that diverges ends with a cross.

    Args:
        lines: Labels and colors by the first part of a variant's name.
        last: Field that is drawn by depth, of the last row of each run; its label.
        title: Title of the figure.
        rows: Rows of the CSV.
        path: SVG file to write.
    """
    ends = [
        row | dict(zip(("variant", "layers"), row["variant"].split(), strict=True))
        for row in {(row["variant"], row["seed"]): row for row in rows}.values()
    ]
    low, high = plots.loss_range(rows)
    with drawing(path, len(NETWORKS) + 1, title, columns=2) as (*losses, end):
        for axis, (layers, network) in zip(losses, NETWORKS.items(), strict=True):
            for name, unit in lines.items():
                drawn = (rows, f"{name} {layers}", unit, "step", "train_loss")
                plots.band(axis, *drawn)
                plots.crosses(axis, *drawn, high)
            axis.set_title(f"{layers} layers, {network.width} of the width")
            axis.set_xlabel("step")
            axis.axhline(CHANCE, color=INK, linewidth=0.8)
            axis.set_ylim(low, high)
        for axis in losses[::2]:  # Those at the left.
            axis.set_ylabel("training loss")
        # A part of the variants may be missing from a panel.
        max(losses, key=lambda axis: len(axis.lines)).legend()
        for name, unit in lines.items():
            plots.band(end, ends, name, unit, "layers", last[0])
        end.set_xticks(list(NETWORKS))
        if last[0] == "train_loss" and end.get_ylim()[1] > high:
            end.set_ylim(low, high)
        end.set_xlabel("layers")
        end.set_ylabel(last[1])


experiment = dataclasses.replace(
    compare(
        *("depth", "elunet18_cifar100"),
        at_each_depth({name: suited(unit) for name, unit in LINES.items()}),
        **SETTINGS,
        dropout={},
        # Before the last epoch the images are smaller than those of the evaluation.
        evaluate_every=SETTINGS["epochs"],
    ),
    draw=functools.partial(
        draw_depths,
        LINES,
        ("error", "error on held-out images"),
        f"CIFAR-100, 8 epochs at 16 to 32 pixels, {TFLOP} TFLOP a run",
    ),
)
