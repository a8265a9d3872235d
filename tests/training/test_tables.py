import json
import pathlib

import pytest

from training.figures import INK
from training.tables import cards, error_text, plot, points, results_csv, updated

ROOT = pathlib.Path(__file__).parents[2]


def test_readme_has_the_table_of_the_manifest():
    readme = (ROOT / "README.md").read_text()
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    assert readme == updated(readme, manifest), "run `python -m training.tables`"
    for name, record in manifest["weights"].items():
        assert f"`{name}`" in readme
        assert error_text(record) in readme
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
    assert written == (tmp_path / "error.svg").read_text(), "run training.tables"
    names = [name for rows in points(manifest).values() for name, *_ in rows]
    assert all(name in written for name in names)
    assert "prefers-color-scheme:dark" in written and INK not in written
