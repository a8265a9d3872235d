"""Renders the tables and figures of docs/performance.md from the CSV files.

    python -m training.benchmarks.performance

The CSV files in docs/results are those that the benchmarks in `FILES` wrote. The
command replaces what stands between the markers of docs/performance.md and draws the
SVG files beside the CSV files.
"""

import csv
import functools
import pathlib
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from training.benchmarks.measuring import ROOT, spread
from training.figures import BLUE, GREEN, INK, ORANGE, drawing

RESULTS = ROOT / "docs/results"
PAGE = ROOT / "docs/performance.md"
Row = Mapping[str, str]

FILES = (
    "elu_op",
    "networks",
    "memory",
    "memory_compiler",
    "exported_files",
    "exported_errors",
    "startup",
    "step_profile",
    "step_overhead",
    "time_to_accuracy",
    "scaling",
)
VERSIONS = (
    "tensorflow",
    "jax",
    "pytorch",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
)

STEP = {"kind": "train", "dtype": "bfloat16"}
STEP11, STEP18, STEP15 = (STEP | {"model": f"ELUNet{n}"} for n in (11, 18, 15))


class Bar(NamedTuple):
    """A goal.

    Attributes:
        what: What is compared.
        file: Name of the CSV file, without its extension.
        where: Columns and their values in the rows that count. The worst one does.
        column: Column of the ratio.
        goal: The ratio to reach.
        at_most: Whether the ratio should be at most the goal, not at least.
    """

    what: str
    file: str
    where: Mapping[str, str]
    column: str
    goal: float
    at_most: bool = True

    def measured(self) -> Row | None:
        """Returns the worst row, or `None` without one."""
        worst = max if self.at_most else min
        return worst(
            select(self.file, **self.where),
            key=lambda row: float(row[self.column]),
            default=None,
        )

    def cells(self) -> list[str]:
        """Returns a row of the table."""
        sign, row = "≤" if self.at_most else "≥", self.measured()
        if row is None:
            return [self.what, "–", f"{sign} {self.goal}", "not measured"]
        value = float(row[self.column])
        met = value <= self.goal if self.at_most else value >= self.goal
        cell = f"{value:.2f}"
        if f"{self.column}_low" in row:
            low, high = (float(row[f"{self.column}_{end}"]) for end in ("low", "high"))
            cell += f" ({low:.2f}–{high:.2f})"
        return [self.what, cell, f"{sign} {self.goal}", "met" if met else "not met"]


def _op(shape: str, to: str = "relu", goal: float = 1.05, of: str = "forward") -> Bar:
    what = f"ELU, eager, {of}, {shape.replace('x', '×')}: time relative to `tf.nn.{to}`"
    column = "elu_to_tf_elu" if to == "elu" else "elu_to_relu"
    return Bar(what, "elu_op", {"shape": shape, "pass": of}, column, goal)


def _step(what: str, where: Mapping[str, str], pytorch: float) -> list[Bar]:
    return [
        Bar(
            f"{what}: speed relative to {name}",
            *("networks", {**where, "variant": variant}, "elu_to_it", goal, False),
        )
        for name, variant, goal in (
            ("PyTorch", "pytorch", pytorch),
            ("compiled PyTorch", "pytorch_compiled", pytorch),
            ("ReLU", "relu", 0.97),
        )
        if where["kind"] == "train" or variant != "relu"
    ]


def _start(program: str, goal: float) -> Bar:
    what = f"`{program}`" if program.startswith("import") else program
    where = {"program": program}
    return Bar(
        f"{what}: time relative to `import keras`",
        "startup",
        where,
        "to_import_keras",
        goal,
    )


def _memory(by: str, file: str) -> Bar:
    what = f"Memory of the training step, 18 layers, {by}: relative to Keras's layers"
    where = {"kind": "train", "model": "ELUNet18", "variant": "elu_zoo"}
    return Bar(what, file, where, "to_keras", 0.8)


BARS = [
    _op("64x56x56x256"),
    _op("128x32x32x192"),
    _op("64x56x56x256", of="forward+backward"),
    _op("128x32x32x192", of="forward+backward"),
    _op("64x16x16x192", goal=1.3),
    _op("1x32x32x3", "elu", 2),
    *_step("Training step, 11 layers, batch 128, bfloat16", STEP11, 1.5),
    *_step("The same in float32", STEP11 | {"dtype": "float32"}, 1.5),
    *_step("Training step, 18 layers, batch 64, bfloat16", STEP18, 1.3),
    *_step("Training step, 15 layers, batch 64, bfloat16", STEP15, 1.3),
    *_step(
        *("Inference, 11 layers, batch 128, bfloat16", STEP11 | {"kind": "predict"}, 2)
    ),
    _start("import elu_zoo", 1.05),
    _start("first prediction, elu_zoo", 1.2),
    _memory("of the process", "memory"),
    _memory("by the compiler's report", "memory_compiler"),
]


def main() -> None:
    """Runs the command."""
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")
    for file, column, title in (
        ("elu_op", "elu_to_relu", "time of ELU, relative to ReLU"),
        ("networks", "elu_to_it", "speed with ELU, relative to the variant"),
    ):
        draw_ratios(RESULTS / f"{file}.svg", file, column, title)
    draw_files(RESULTS / "exported_files.svg")


def rendered(page: str) -> str:
    """Renders the tables of a page again.

    Args:
        page: Text of the page.

    Returns:
        The text with the tables between their markers.
    """
    for name, render in TABLES.items():
        lines = "".join(f"{line}\n" for line in render())
        pattern = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end -->)"
        page = re.sub(pattern, rf"\g<1>{lines}\g<2>", page, flags=re.S)
    return page


@functools.cache
def rows_of(file: str) -> list[Row]:
    """Reads a CSV file of docs/results; without it there are no rows."""
    path = RESULTS / f"{file}.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def select(file: str, **where: str) -> list[Row]:
    """Selects the rows of a CSV file that have the given values."""
    return [row for row in rows_of(file) if where.items() <= row.items()]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def bars() -> Iterator[str]:
    """Yields the table of the goals."""
    header = ["what", "measured (quartiles)", "goal", ""]
    cells = [bar.cells() for bar in BARS]
    return table(header, [*cells, _time_to_accuracy_bar(), *_files_bars()])


def _time_to_accuracy_bar() -> list[str]:
    """The goal of the speed run."""
    # Half of the operations of the zoo's first run that reached the paper's error.
    what, goal = "Training to the paper's 28.75%, 11 layers on CIFAR-100: PFLOP", 0.655
    rows = rows_of("time_to_accuracy")
    if not rows:
        return [what, "–", f"≤ {goal}", "not measured"]
    error = statistics.mean(float(row["error"]) for row in rows)
    pflop = float(rows[0]["pflop"])
    met = "met" if pflop <= goal and error <= 0.2875 else "not met"
    return [what, f"{pflop:.2f} ({100 * error:.2f}% error)", f"≤ {goal}", met]


def _files_bars() -> Iterator[list[str]]:
    """The goals of the exported files, whose ratio is of two maxima."""
    peers = [("onnx", "float32"), ("openvino", "float32"), ("openvino", "float16")]
    for batch in ("1", "32"):
        rows = select("exported_files", batch=batch, threads="2")
        speeds = {
            (row["format"], row["dtype"]): float(row["images_per_second"])
            for row in rows
        }
        what = (
            f"The fastest exported file, batch {batch}, two threads: speed relative to "
            "the best of onnxruntime and OpenVINO in float32 and bfloat16"
        )
        if not speeds:
            yield [what, "–", "≥ 1.0", "not measured"]
            continue
        best = max(speeds, key=speeds.__getitem__)
        ratio = speeds[best] / max(speeds[peer] for peer in peers)
        met = "met" if ratio >= 1 else "not met"
        yield [what, f"{ratio:.2f} ({' '.join(best)})", "≥ 1.0", met]


def files(threads: str) -> Iterator[str]:
    """Yields the table of the exported files: size, error, and speed by batch size."""
    batches = ("1", "8", "32")
    header = ["format", "dtype", "MB", "error", *(f"batch {n}" for n in batches)]
    lines = []
    for row in select("exported_files", batch="1", threads=threads):
        key = {name: row[name] for name in ("format", "dtype")}
        known = select("exported_errors", **key)
        cells = [known[0]["megabytes"], f"{known[0]['error']}%"] if known else []
        lines.append([*key.values(), *(cells or ["–", "–"])])
        for batch in batches:
            (row,) = select("exported_files", **key, threads=threads, batch=batch)
            times = f"{float(row['p50_ms']):.3g} / {float(row['p99_ms']):.3g} ms"
            lines[-1].append(f"{times}, {float(row['images_per_second']):,.0f}/s")
    return table(header, lines)


def networks() -> Iterator[str]:
    """Yields the table of training steps and inference."""
    header = ["", "network", "batch", "dtype", "variant", "images/s", "ELU to variant"]
    return table(
        header,
        [
            [
                *(row[name] for name in ("kind", "model", "batch", "dtype", "variant")),
                row["images_per_second"],
                f"{row['elu_to_it']} ({row['elu_to_it_low']}–{row['elu_to_it_high']})",
            ]
            for row in rows_of("networks")
        ],
    )


def profile() -> Iterator[str]:
    """Yields the table of where a training step's time goes."""
    shares: dict[str, dict[str, str]] = {}
    for row in rows_of("step_profile"):
        case = f"{row['recipe']}, {row['image_size']} px"
        share = f"{100 * float(row['share']):.1f}%"
        shares.setdefault(row["kind"], {})[case] = share
    cases = list(next(iter(shares.values()), {}))
    rows = [[kind, *by_case.values()] for kind, by_case in shares.items()]
    return table(["", *cases], rows)


def overhead() -> Iterator[str]:
    """Yields the table of the share of a training step that is not arithmetic."""
    header = ["recipe", "image size", "batch", "not arithmetic"]
    names = ("recipe", "image_size", "batch_size")
    return table(
        header,
        [
            [
                *(row[name] for name in names),
                f"{100 * float(row['not_arithmetic']):.1f}%",
            ]
            for row in rows_of("step_overhead")
        ],
    )


def time_to_accuracy() -> Iterator[str]:
    """Yields the table of the runs to the paper's error."""
    names = ("error", "error_mirrored")
    rows = rows_of("time_to_accuracy")

    def line(label: str, some: Sequence[Mapping[str, str]]) -> list[str]:
        minutes = statistics.mean(float(row["seconds"]) for row in some) / 60
        errors = [spread([float(row[name]) for row in some]) for name in names]
        return [label, some[0]["cores"], f"{minutes:.0f}", some[0]["pflop"], *errors]

    lines = [line(row["seed"], [row]) for row in rows]
    if len(rows) > 1:
        lines.append(line("mean ± sd", rows))
    header = ["seed", "cores", "minutes", "PFLOP", "test error"]
    return table([*header, "with the mirror image"], lines)


def scaling() -> Iterator[str]:
    """Yields the table of inference over sizes, threads and processes."""
    header = ["network", "image size", "batch", "threads", "processes", "images/s"]
    names = (
        *("model", "image_size", "batch_size", "threads", "processes"),
        *("images_per_second", "to_prediction"),
    )
    rows = [[row[name] for name in names] for row in rows_of("scaling")]
    return table([*header, "measured / fitted time"], rows)


def memory(file: str = "memory", **more: str) -> Iterator[str]:
    """Yields the table of the memory of training steps and inference.

    Args:
        file: Name of the CSV file, without its extension.
        **more: Headers of more columns by their names.
    """
    columns = ("kind", "model", "batch", "variant", "megabytes", *more, "to_keras")
    header = ["", "network", "batch", "variant", "MB", *more.values()]
    rows = [[row[name] for name in columns] for row in rows_of(file)]
    return table([*header, "to Keras's layers"], rows)


def start() -> Iterator[str]:
    """Yields the table of cold processes."""
    return table(
        ["process", "seconds", "to `import keras`"],
        [
            [row["program"], row["seconds"], row["to_import_keras"]]
            for row in rows_of("startup")
        ],
    )


def machine() -> Iterator[str]:
    """Yields what the numbers were measured on, from the first row of each file."""
    for file in FILES:
        for row in rows_of(file)[:1]:
            facts = [f"{row['processor']} ({row['processor_family_model']})"]
            facts += [f"{row['cores']} cores"]
            facts += [f"{name} {row[name]}" for name in VERSIONS if row.get(name)]
            yield f"- [`{file}.csv`](results/{file}.csv): {', '.join(facts)}"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "bars": bars,
    "one thread": functools.partial(files, "1"),
    "two threads": functools.partial(files, "2"),
    "networks": networks,
    "profile": profile,
    "overhead": overhead,
    "time to accuracy": time_to_accuracy,
    "scaling": scaling,
    "memory": memory,
    "compiler's memory": functools.partial(
        memory, "memory_compiler", temporary="temporary"
    ),
    "start": start,
    "machine": machine,
}


def draw_ratios(path: pathlib.Path, file: str, column: str, title: str) -> None:
    """Draws ratios as bars with their quartiles.

    Args:
        path: Path of the SVG file.
        file: Name of the CSV file, without its extension.
        column: Column of the ratio.
        title: Title of the figure.
    """
    # A network's ratio to itself says nothing.
    rows = [row for row in rows_of(file) if row.get("variant") != "elu"]
    if not rows:
        return
    labels = [
        f"{row['shape']} {row['pass']}"
        if file == "elu_op"
        else f"{row['kind']} {row['model']} {row['dtype']}: {row['variant']}"
        for row in rows
    ]
    values = [float(row[column]) for row in rows]
    spread = [
        [
            abs(float(row[f"{column}_{end}"]) - v)
            for row, v in zip(rows, values, strict=True)
        ]
        for end in ("low", "high")
    ]
    with drawing(path, 1, title) as (axes,):
        axes.figure.set_size_inches(8, 1 + 0.36 * len(rows))
        axes.barh(labels, values, xerr=spread, color=BLUE, ecolor=INK, capsize=3)
        axes.axvline(1, color=ORANGE)
        axes.invert_yaxis()


def draw_files(path: pathlib.Path) -> None:
    """Draws the speed of the exported files by batch size, with one thread.

    Args:
        path: Path of the SVG file.
    """
    batches = {"1": BLUE, "8": ORANGE, "32": GREEN}
    if not rows_of("exported_files"):
        return
    with drawing(path, 1, "images per second, 1 thread") as (axes,):
        for i, (batch, color) in enumerate(batches.items()):
            rows = select("exported_files", batch=batch, threads="1")
            axes.barh(
                [4 * n + i for n in range(len(rows))],
                [float(row["images_per_second"]) for row in rows],
                height=1,
                color=color,
                label=f"batch {batch}",
            )
        axes.figure.set_size_inches(8, 6)
        names = [f"{row['format']} {row['dtype']}" for row in rows]
        axes.set_yticks([4 * n + 1 for n in range(len(rows))], names)
        axes.invert_yaxis()
        axes.legend()


if __name__ == "__main__":
    main()
