"""Renders everything made from the manifest and the results of pretrained weights.

    python -m training.tables

That is the table in the README, the model cards, `docs/results/results.csv`,
`docs/results/error.svg` and the learning curves. `training.publish` renders all but the
curves after adding weights.
"""

import json
from collections.abc import Sequence

from training.commands import parse, parser
from training.rendering import ROOT, draw_curves, render


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parse(parser("training.tables", __doc__), argv)
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    results = ROOT / "docs/results"
    render(manifest, ROOT / "pretrained", results, ROOT / "README.md")
    draw_curves(results)


if __name__ == "__main__":
    main()
