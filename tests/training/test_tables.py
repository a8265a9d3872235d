import json
import pathlib

from training.tables import updated

ROOT = pathlib.Path(__file__).parents[2]


def test_readme_has_the_table_of_the_manifest():
    readme = (ROOT / "README.md").read_text()
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    assert readme == updated(readme, manifest), "run `python -m training.tables`"
    for name, record in manifest["weights"].items():
        assert f"`{name}`" in readme
        assert f"{record['metrics']['error']:.2%}" in readme
        assert (ROOT / "pretrained" / record["file"]).stat().st_size == record["bytes"]
        assert (ROOT / "pretrained/cards" / f"{name}.md").is_file()
