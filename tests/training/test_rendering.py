import json
import pathlib
import re

import matplotlib
import pytest

from training.figures import INK
from training.rendering import (
    card,
    cards,
    plot,
    points,
    results_csv,
    robustness,
    updated,
)

ROOT = pathlib.Path(__file__).parents[2]


def test_readme_has_the_table_of_the_manifest():
    readme = (ROOT / "README.md").read_text()
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    assert readme == updated(readme, manifest), "run `python -m training.tables`"
    for name, record in manifest["weights"].items():
        assert f"`{name}`" in readme
        metrics = record["metrics"]
        if "error" in metrics:
            assert f"| {metrics['error']:.2%} (" in readme
        else:
            assert f"| {metrics['reconstruction_error']:.2f} (squared" in readme
        assert (ROOT / "pretrained" / record["file"]).stat().st_size == record["bytes"]
        written = (ROOT / "pretrained/cards" / f"{name}.md").read_text()
        assert written == cards(manifest)[name]
        if "error" in record["metrics"]:
            assert f"| test error | {record['metrics']['error']:.2%} |" in written


def test_the_results_are_those_of_the_manifest():
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    assert (ROOT / "docs/results/results.csv").read_text() == results_csv(manifest)
    # A forward pass is a third of a step; 157.6 M multiply-adds were counted by hand.
    record = manifest["weights"]["elunet11.cifar100"]
    assert record["multiply_adds"] == pytest.approx(157.6e6, rel=0.002)
    whole = 6 * record["multiply_adds"] * 50_000 * record["training"]["epochs"]
    assert 0.25 * whole < record["training"]["flop"] <= whole


def test_the_plot_is_that_of_the_manifest(tmp_path):
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    assert all(len(rows) > 1 for rows in points(manifest).values())
    plot(manifest, tmp_path / "error.svg")
    written = (ROOT / "docs/results/error.svg").read_text()
    names = [name for rows in points(manifest).values() for name, *_ in rows]
    assert all(name in written for name in names)
    assert "prefers-color-scheme:dark" in written and INK not in written
    (version,) = re.findall(r"Matplotlib v([0-9.]+),", written)
    if version != matplotlib.__version__:
        pytest.skip(f"Matplotlib {version} drew it; others draw a little differently")
    assert written == (tmp_path / "error.svg").read_text(), "run training.tables"


def test_the_card_sums_up_the_errors_on_corrupted_images(tmp_path):
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    name = "elunet11.cifar100"
    record = manifest["weights"][name]
    path = tmp_path / "corruptions.csv"
    rows = ["none,0,0.25", "fog,1,0.3", "fog,2,0.5", "motion_blur,1,0.5"]
    rows += ["motion_blur,2,0.9", "snow,1,0.6", "snow,2,0.6"]
    of = {"these": record["sha256"][:8], "others": "0" * 8}
    for weights, digest in of.items():
        lines = ["weights,corruption,severity,error,n"]
        for row in rows:
            lines.append(f"{digest},{row},2000")
        path.write_text("\n".join(lines) + "\n")
        found = robustness(path, record)
        if weights == "others":
            assert found is None
            continue
        figures = ROOT / "docs/results" / name / "evaluation.json"
        text = card(name, record, json.loads(figures.read_text()), "curve.svg", found)
        section = " ".join(text.split("## Robustness")[1].split("## ")[0].split())
        # The mean of 0.4, 0.7 and 0.6.
        assert "2,000 test images" in section and "averages 56.7%" in section
        assert "without corruption it is 25.0%" in section
        assert "| fog | 40.0% | snow | 60.0% |" in section
        assert "| motion blur | 70.0% | | |" in section
    assert robustness(tmp_path / "none.csv", record) is None
