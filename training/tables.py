"""Writes the table of pretrained weights in README from the manifest.

    python -m training.tables

Run it after publishing; a test compares.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
BEGIN, END = "<!-- weights: python -m training.tables -->\n", "<!-- end -->\n"


def table(manifest):
    """The table of all weights of a manifest, as Markdown."""
    rows = [
        "| weights | data | test error (95 % interval) | top-5 error | parameters "
        "| file | trained for |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, record in sorted(manifest["weights"].items()):
        metrics, training = record["metrics"], record["training"]
        low, high = metrics["error_interval"]
        machine = training["machine"]
        where = machine["accelerator"] or f"{machine['cores']} CPU cores"
        rows.append(
            f"| [`{name}`](pretrained/cards/{name}.md) | {record['dataset']['name']} "
            f"| {metrics['error']:.2%} ({low:.1%}–{high:.1%}) "
            f"| {metrics['top5_error']:.2%} | {record['parameters'] / 1e6:.2f} M "
            f"| {record['bytes'] / 1e6:.1f} MB "
            f"| {training['epochs']} epochs, {training['seconds'] / 60:.0f} min, "
            f"{where} |"
        )
    return "\n".join(rows) + "\n"


def updated(readme, manifest):
    """README with its table made anew."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(manifest) + END + after


def main():
    from elu_zoo.files import replacing

    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    readme = ROOT / "README.md"
    text = updated(readme.read_text(), manifest)
    with replacing(readme) as part:
        part.write_text(text)


if __name__ == "__main__":
    main()
