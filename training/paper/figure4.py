"""Figures 4 and 5: the units on CIFAR-100, with and without batch normalization.

Section 4.2 of the paper: 11 layers, everything by the paper's recipe, ten runs of
165,000 steps. Here the schedule is compressed to three epochs of 45,000 images; the
eight networks of a seed take 1 PFLOP.
"""

import dataclasses
import pathlib
from typing import Any

from training.benchmarks.measuring import write_csv
from training.paper.runs import Variant, compare, draw_curves, normalized
from training.paper.units import NORMALIZED, UNITS

VARIANTS = {name: Variant(unit, {"activation": name}) for name, unit in UNITS.items()}
VARIANTS |= {f"{name}{NORMALIZED}": normalized(VARIANTS[name]) for name in UNITS}


def signed_ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tests whether the last errors of ELU and of each other variant differ.

    Args:
        rows: Rows of the CSV.

    Returns:
        For each other variant with the same seeds as ELU: `variant`, `pairs`, the mean
        `difference` of the error to ELU's, and `p` of the two-sided Wilcoxon
        signed-rank test over pairs of the same seed. With n pairs it is at least
        2 / 2**n, so fewer than six never reach 0.05.
    """
    import numpy as np
    from scipy.stats import wilcoxon

    last: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["error"] != "":
            last.setdefault(row["variant"], {})[row["seed"]] = float(row["error"])
    elu = last.pop("elu", {})
    tests = []
    for variant, errors in last.items():
        seeds = sorted(elu.keys() & errors.keys())
        if seeds:
            differences = np.array([errors[seed] - elu[seed] for seed in seeds])
            tests.append(
                {
                    "variant": variant,
                    "pairs": len(seeds),
                    "difference": round(float(differences.mean()), 5),
                    "p": round(float(wilcoxon(differences).pvalue), 5),
                }
            )
    return tests


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the curves, and writes the tests beside them.

    Args:
        rows: Rows of the CSV.
        path: SVG file to write.
    """
    draw_curves(VARIANTS, rows, path)
    if tests := signed_ranks(rows):
        write_csv(path.with_name(f"{path.stem}_tests.csv"), tests)


experiment = dataclasses.replace(
    compare("figure4", "elunet11_cifar100_paper", VARIANTS, epochs=3), draw=draw
)
