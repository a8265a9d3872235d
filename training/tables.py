"""Writes all that is made from the manifest and the results of pretrained weights.

    python -m training.tables

The table in README, the model cards, `docs/results/results.csv` and
`docs/results/error.png`. Run it after publishing; a test compares all but the last.
"""

import csv
import io
import json
import pathlib

from training.cards import card, hardware, over_seeds

ROOT = pathlib.Path(__file__).parents[1]
# The paper's figures, section 4.2, with the cost of its training from our recipes.
PAPER = {
    "cifar100": (
        ("paper, 11 layers", 15.6, 28.75),
        ("paper, 18 layers", 148, 24.28),
    )
}
BEGIN, END = "<!-- weights: python -m training.tables -->\n", "<!-- end -->\n"


def table(manifest):
    """The table of all weights of a manifest, as Markdown."""
    rows = [
        "| weights | data | test error (95 % interval) | seeds | top-5 error "
        "| parameters | multiply-adds | file | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in sorted(manifest["weights"].items()):
        metrics, training = record["metrics"], record["training"]
        low, high = metrics["error_interval"]
        mean, deviation, seeds = over_seeds(record)
        runs = f"{len(seeds)}" + (
            f": {mean:.1%} ± {deviation:.1%}" if len(seeds) > 1 else ""
        )
        rows.append(
            f"| [`{name}`](pretrained/cards/{name}.md) | {record['dataset']['name']} "
            f"| {metrics['error']:.2%} ({low:.1%}–{high:.1%}) | {runs} "
            f"| {metrics['top5_error']:.2%} | {record['parameters'] / 1e6:.2f} M "
            f"| {record['multiply_adds'] / 1e6:.0f} M | {record['bytes'] / 1e6:.1f} MB "
            f"| {training['epochs']} epochs, {training['flop'] / 1e15:.2f} PFLOP, "
            f"{training['seconds'] / 60:.0f} min, {hardware(record)} |"
        )
    return "\n".join(rows) + "\n"


def results_csv(manifest):
    """One row a weights file, best first, as text of a CSV file."""
    rows = []
    for name, record in manifest["weights"].items():
        metrics, training = record["metrics"], record["training"]
        mean, deviation, seeds = over_seeds(record)
        rows.append(
            {
                "weights": name,
                "dataset": record["dataset"]["name"],
                "top1_error": round(100 * metrics["error"], 2),
                "top5_error": round(100 * metrics["top5_error"], 2),
                "seed": training["seed"],
                "seeds": len(seeds),
                "top1_error_mean": round(100 * mean, 2),
                "top1_error_sd": "" if deviation is None else round(100 * deviation, 2),
                "parameters": record["parameters"],
                "multiply_adds": record["multiply_adds"],
                "image_size": record["input_shape"][0],
                "file_bytes": record["bytes"],
                "epochs": training["epochs"],
                "train_seconds": training["seconds"],
                "train_pflop": round(training["flop"] / 1e15, 3),
                "hardware": hardware(record),
            }
        )
    rows.sort(key=lambda row: (row["dataset"], row["top1_error"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plot(manifest, path):
    """Draws test error against the operations of the training, one axis a data set."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from elu_zoo.files import replacing

    records = manifest["weights"]
    names = sorted({record["dataset"]["name"] for record in records.values()})
    figure, axes = plt.subplots(
        1, len(names), figsize=(5 * len(names), 4), layout="constrained", squeeze=False
    )
    for axis, dataset in zip(axes[0], names, strict=True):
        points = {
            name: (record["training"]["flop"] / 1e15, 100 * record["metrics"]["error"])
            for name, record in records.items()
            if record["dataset"]["name"] == dataset
        }
        for name, (x, y) in points.items():
            axis.plot(x, y, "o")
            axis.annotate(name, (x, y), (0, 7), textcoords="offset points", ha="center")
        for name, x, y in PAPER.get(dataset, ()):
            axis.plot(x, y, "kx")
            axis.annotate(name, (x, y), (0, 7), textcoords="offset points", ha="center")
        axis.set_xscale("log")
        axis.margins(0.25)
        axis.set_xlabel("training (PFLOP)")
        axis.set_ylabel("test error (%)")
        axis.set_title(dataset)
        axis.grid(alpha=0.3, which="both")
    with replacing(path) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)


def updated(readme, manifest):
    """README with its table made anew."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(manifest) + END + after


def cards(manifest, results=ROOT / "docs/results"):
    """The model cards of all weights, by name."""
    return {
        name: card(
            name,
            record,
            json.loads((results / name / "evaluation.json").read_text()),
        )
        for name, record in manifest["weights"].items()
    }


def main():
    from elu_zoo.files import replacing

    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())
    readme = ROOT / "README.md"
    text = updated(readme.read_text(), manifest)
    with replacing(readme) as part:
        part.write_text(text)
    for name, content in cards(manifest).items():
        with replacing(ROOT / f"pretrained/cards/{name}.md") as part:
            part.write_text(content)
    results = ROOT / "docs/results"
    with replacing(results / "results.csv") as part:
        part.write_text(results_csv(manifest))
    plot(manifest, results / "error.png")


if __name__ == "__main__":
    main()
