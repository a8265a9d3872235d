"""Renders the manifest: model cards, the table in the README, CSV file and plot."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from elu_zoo import datasets
from elu_zoo.architectures import reconstructs
from elu_zoo.files import replacing
from training import figures
from training.summary import cost, error_text, hardware, over_seeds

if TYPE_CHECKING:
    import jinja2
    from matplotlib.axes import Axes

# A point of the plot: name, PFLOP, error in percent, its interval or `None`.
Point = tuple[str, float, float, tuple[float, float] | None]

ROOT = pathlib.Path(__file__).parents[1]
# The paper's test errors, section 4.2; the cost is that of our recipes.
PAPER = {
    "cifar100": (
        ("paper, 11 layers", 15.6, 28.75),
        ("paper, 18 layers", 148, 24.28),
    )
}
BEGIN, END = "<!-- weights: python -m training.tables -->\n", "<!-- end -->\n"


def render(
    manifest: Mapping,
    pretrained: pathlib.Path,
    results: pathlib.Path,
    readme: pathlib.Path | None = None,
) -> None:
    """Writes everything that is made from a manifest.

    Args:
        manifest: Content of `manifest.json`.
        pretrained: Folder of the manifest; the cards go to `cards`.
        results: Folder of the evaluations; the CSV and the plot go there.
        readme: Path of the README whose table is replaced, or `None`.
    """
    texts = {
        pretrained / "cards" / f"{name}.md": text
        for name, text in cards(manifest, results).items()
    }
    texts[results / "results.csv"] = results_csv(manifest)
    if readme:
        texts[readme] = updated(readme.read_text("utf-8"), manifest)
    (pretrained / "cards").mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with replacing(path) as part:
            part.write_text(text, "utf-8")
    plot(manifest, results / "error.svg")


def robustness(path: pathlib.Path, record: Mapping) -> dict | None:
    """Summarizes the errors on corrupted images.

    Args:
        path: CSV file of `training.benchmarks.corruptions`.
        record: Record of the weights.

    Returns:
        `n`, the error without corruption `clean`, and `errors`, the mean over the
        severities by corruption; `None` if the file is not there, or of other weights.
    """
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["weights"] == record["sha256"][:8]]
    errors: dict[str, list[float]] = {}
    for row in rows:
        errors.setdefault(row["corruption"], []).append(float(row["error"]))
    means = {name: statistics.mean(values) for name, values in errors.items()}
    if not means:
        return None
    return {"n": int(rows[0]["n"]), "clean": means.pop("none"), "errors": means}


def card(
    name: str,
    record: Mapping,
    metrics: Mapping,
    curve: str,
    corrupted: Mapping | None = None,
    units: bool = False,
) -> str:
    """Renders the model card of published weights by the template `card.md.jinja`.

    Args:
        name: Name of the weights.
        record: Their record in the manifest.
        metrics: Their metrics, a result of `elu_zoo.evaluation.measure`.
        curve: File name of the learning curve among the results.
        corrupted: Their errors on corrupted images, a result of `robustness`.
        units: Whether the results have the drawing of `training.units`.

    Returns:
        The card as Markdown.
    """
    mean, deviation, seeds = over_seeds(record)
    ranked = sorted(metrics.get("class_error", {}).items(), key=lambda item: item[1])
    shown = min(8, len(ranked) // 2)
    arguments = record["arguments"].items()
    text = _template().render(
        name=name,
        record=record,
        metrics=metrics,
        curve=curve,
        corrupted=corrupted,
        units=units,
        mean=mean,
        deviation=deviation,
        seeds=seeds,
        training=record["training"],
        machine=record["training"]["machine"],
        hardware=hardware(record),
        on_disk=record["dataset"]["name"] not in datasets.CATALOGUE,
        side=record["preprocessing"]["crop"],
        resized_from=record.get("resized_from"),
        made_with=[f"{k}={v!r}" for k, v in arguments if k != "classes"],
        input=_input(record),
        reconstructs=reconstructs(record["model"]),
        calibrated_on=record.get("calibrated_on", 0),
        digits=0 if metrics.get("error", 1) > 0.1 else 1,
        extremes=list(zip(ranked[:shown], ranked[::-1][:shown], strict=True)),
        options="".join(
            f" --{option.replace('_', '-')} {value}"
            for option, value in record.get("recipe_changes", {}).items()
        ),
    )
    return "\n\n".join(map(_filled, text.split("\n\n")))


def _input(record: Mapping) -> str:
    *size, channels = record["input_shape"]
    if None not in size:
        return f"{'×'.join(map(str, size))}×{channels}"
    best = record["preprocessing"]["crop"]
    return f"images of any size, best {best}×{best}×{channels}"


def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["percent"] = lambda x, digits=2: f"{x:.{digits}%}"
    return environment.get_template("card.md.jinja")


def _filled(block: str) -> str:
    """Wraps a paragraph; tables, code and headings stay as they are."""
    if block.startswith(("#", "|", "!", "    ")):
        return block
    return textwrap.fill(
        block, 88, break_long_words=False, break_on_hyphens=False
    ) + "\n" * block.endswith("\n")


def cards(
    manifest: Mapping, results: pathlib.Path = ROOT / "docs/results"
) -> dict[str, str]:
    """Renders the model cards of all weights.

    Args:
        manifest: Content of `manifest.json`.
        results: Folder of the evaluations.

    Returns:
        The cards by the name of the weights.
    """
    return {
        name: card(
            name,
            record,
            json.loads((results / name / "evaluation.json").read_text()),
            next(path.name for path in (results / name).glob("curve.*")),
            robustness(results / name / "corruptions.csv", record),
            (results / name / "units.svg").is_file(),
        )
        for name, record in manifest["weights"].items()
    }


def table(manifest: Mapping) -> str:
    """Renders the table of all weights.

    Args:
        manifest: Content of `manifest.json`.

    Returns:
        The table as Markdown.
    """
    rows = [
        "| weights | data | test error (95% interval) | seeds | top-5 error "
        "| parameters | multiply-adds | file | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in sorted(manifest["weights"].items()):
        metrics, training = record["metrics"], cost(record)
        mean, deviation, seeds = over_seeds(record)
        unit = "{:.1%} ± {:.1%}" if "error" in metrics else "{:.2f} ± {:.2f}"
        runs = f"{len(seeds)}" + (
            f": {unit.format(mean, deviation)}" if len(seeds) > 1 else ""
        )
        top5 = f"{metrics['top5_error']:.2%}" if "error" in metrics else "–"
        rows.append(
            f"| [`{name}`](pretrained/cards/{name}.md) | {record['dataset']['name']} "
            f"| {error_text(record['metrics'])} | {runs} "
            f"| {top5} | {record['parameters'] / 1e6:.2f} M "
            f"| {record['multiply_adds'] / 1e6:.3g} M | {record['bytes'] / 1e6:.1f} MB "
            f"| {training['epochs']} epochs, {training['flop'] / 1e15:.3g} PFLOP, "
            f"{training['seconds'] / 60:.0f} min, {hardware(record)} |"
        )
    return "\n".join(rows) + "\n"


def updated(readme: str, manifest: Mapping) -> str:
    """Replaces the table in the README.

    Args:
        readme: Content of the README.
        manifest: Content of `manifest.json`.

    Returns:
        The new content.
    """
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(manifest) + END + after


def results_csv(manifest: Mapping) -> str:
    """One row per weights file, as text of a CSV file."""
    rows = []
    for name, record in manifest["weights"].items():
        metrics, training = record["metrics"], record["training"] | cost(record)
        mean: float | None
        mean, deviation, seeds = over_seeds(record)
        if "error" not in metrics:
            mean = deviation = None
        rows.append(
            {
                "weights": name,
                "dataset": record["dataset"]["name"],
                "top1_error": _percent(metrics.get("error")),
                "top5_error": _percent(metrics.get("top5_error")),
                "reconstruction_error": metrics.get("reconstruction_error", ""),
                "seed": training["seed"],
                "seeds": len(seeds),
                "top1_error_mean": _percent(mean),
                "top1_error_sd": _percent(deviation),
                "parameters": record["parameters"],
                "multiply_adds": record["multiply_adds"],
                "image_size": record["preprocessing"]["crop"],
                "file_bytes": record["bytes"],
                "epochs": training["epochs"],
                "train_seconds": training["seconds"],
                "train_pflop": float(f"{training['flop'] / 1e15:.4g}"),
                "hardware": hardware(record),
            }
        )
    rows.sort(key=lambda row: (row["dataset"], row["weights"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _percent(share: float | None) -> float | str:
    return "" if share is None else round(100 * share, 2)


def points(manifest: Mapping) -> dict[str, list[Point]]:
    """Collects the points of the plot.

    Args:
        manifest: Content of `manifest.json`.

    Returns:
        Points by data set, without data sets that have only one; the interval of the
        paper's errors is `None`.
    """
    panels: dict[str, list[Point]] = {}
    for name, record in sorted(manifest["weights"].items()):
        metrics = record["metrics"]
        if "error" not in metrics:
            continue
        low, high = metrics["error_interval"]
        panels.setdefault(record["dataset"]["name"], []).append(
            (
                name,
                cost(record)["flop"] / 1e15,
                100 * metrics["error"],
                (100 * low, 100 * high),
            )
        )
    for dataset, rows in panels.items():
        rows += [(*row, None) for row in PAPER.get(dataset, ())]
    return {name: rows for name, rows in sorted(panels.items()) if len(rows) > 1}


def plot(manifest: Mapping, path: pathlib.Path) -> None:
    """Draws test error against the operations of training, one panel per data set.

    Args:
        manifest: Content of `manifest.json`.
        path: Path of the SVG file. Nothing is written if no data set has two points.
    """
    panels = points(manifest)
    if not panels:
        return
    with figures.drawing(path, len(panels)) as axes:
        for axis, (dataset, rows) in zip(axes, panels.items(), strict=True):
            _draw(axis, dataset, rows)


def _draw(axis: Axes, dataset: str, rows: Sequence[Point]) -> None:
    for name, x, y, interval in rows:
        ours = interval is not None
        error = [[y - interval[0]], [interval[1] - y]] if interval else None
        axis.errorbar(
            x,
            y,
            yerr=error,
            fmt="o" if ours else "D",
            color=figures.BLUE if ours else figures.ORANGE,
            capsize=3,
        )
        # Names of neighbors would cover each other if all were above their points.
        above = y == max(row[2] for row in rows if (row[3] is not None) == ours)
        offset = 0, 9 if above else -20
        axis.annotate(name, (x, y), offset, textcoords="offset points", ha="center")
    axis.set_xscale("log")
    axis.margins(x=0.35)
    # With room for the names above the points.
    axis.set_ylim(0, 1.2 * max(y for _, _, y, _ in rows))
    axis.set_xlabel("training (PFLOP)")
    axis.set_ylabel("test error (%)")
    axis.set_title(dataset)


def draw_curves(results: pathlib.Path) -> None:
    """Redraws the learning curves of all kept runs.

    Args:
        results: Folder of the results.
    """
    from training.engine import runlog
    from training.engine.objectives import objective_of

    for path in sorted(results.glob("**/curve.svg")):
        facts = json.loads(path.with_name("run.json").read_text("utf-8"))
        settings = facts["settings"]
        runlog.plot(
            runlog.read(path.with_name("log.csv")),
            path,
            settings,
            facts["input_shape"][0],
            objective_of(settings["model"]).curves,
        )
