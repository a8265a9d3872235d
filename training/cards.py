"""Model cards, made from a record of the manifest and its evaluation."""

import statistics
import textwrap


def over_seeds(record):
    """The test error of all seeds that were run.

    Args:
        record: Record of the manifest.

    Returns:
        `(mean, standard deviation, seeds)`; the deviation of a single seed is `None`.

    Example:

    >>> record = {"metrics": {"error": 0.3}, "training": {"seed": 0}}
    >>> over_seeds(record)
    (0.3, None, [0])
    >>> mean, deviation, seeds = over_seeds(
    ...     record | {"other_seeds": [{"seed": 1, "error": 0.2}]}
    ... )
    >>> round(mean, 4), round(deviation, 4), seeds
    (0.25, 0.0707, [0, 1])
    """
    own = {"seed": record["training"]["seed"], "error": record["metrics"]["error"]}
    runs = [own, *record.get("other_seeds", ())]
    errors = [run["error"] for run in runs]
    deviation = statistics.stdev(errors) if len(errors) > 1 else None
    return statistics.mean(errors), deviation, [run["seed"] for run in runs]


def hardware(record):
    """What weights were trained on, by their record."""
    machine = record["training"]["machine"]
    return (
        machine["accelerator"] or f"{machine['cores']} cores of {machine['processor']}"
    )


def card(name, record, figures):
    """The model card of published weights.

    Args:
        name: Name of the weights.
        record: Their record in the manifest.
        figures: Their evaluation, as `elu_zoo.evaluation.measure` gives it.

    Returns:
        A string of Markdown.
    """
    from training.data.sources import RECORDS

    tag = name.split(".", 1)[1]
    training, machine = record["training"], record["training"]["machine"]
    low, high = figures["error_interval"]
    ranked = sorted(figures["class_error"].items(), key=lambda item: item[1])
    times = training["starts"] - 1
    resumed = (
        f"It was interrupted and resumed {times} time{'s' * (times > 1)}, from its "
        "last checkpoint."
        if times
        else "It ran without interruption."
    )
    device = hardware(record)
    backend = machine["backend"]
    mean, deviation, seeds = over_seeds(record)
    if len(seeds) == 1:
        runs = "One run with one seed: the interval says nothing of other seeds."
    else:
        runs = (
            f"Test error of the runs with seeds {', '.join(map(str, seeds))}: "
            f"{mean:.2%} ± {deviation:.2%} (mean ± standard deviation). The weights "
            f"are those of seed {seeds[0]}, the first."
        )
    options = "".join(
        f" --{option.replace('_', '-')} {value}"
        for option, value in record.get("recipe_changes", {}).items()
    )
    others = [f"{k}={v!r}" for k, v in record["arguments"].items() if k != "classes"]
    made_with = f"; made with `{', '.join(others)}`" if others else ""
    on_disk = record["dataset"]["name"] in RECORDS
    command = "python -m training.evaluate" if on_disk else "elu-zoo evaluate"
    side = record["input_shape"][0]
    resized_from = record.get("resized_from")
    resized, image_size, curve = "", "", ""
    if resized_from:
        curve = f"\n\nThe evaluations of the run were at {resized_from}×{resized_from}."
        resized = f", resized from {resized_from}×{resized_from} to {side}×{side}"
        image_size = f" --image-size {side}"
    limited_by = record.get("limited_by")
    limited = f"{limited_by}\n\n" if limited_by else ""
    text = f"""# {name}

`elu_zoo.{record["model"]}(weights="{tag}")`

{record["parameters"]:,} parameters, {record["multiply_adds"] / 1e6:.0f} M multiply-adds
an image, {record["bytes"] / 1e6:.1f} MB, input
{"×".join(map(str, record["input_shape"]))}, {len(record["class_names"])} classes. The
architecture and the absence of normalization are those of Clevert et al.
(2016){made_with}.

## Results

{figures["n"]:,} images of the test split of {record["dataset"]["name"]}{resized}, one
view of each, no test-time augmentation, weights as published (rounded to bfloat16),
evaluated in float32.

| measure | value |
|---|---|
| test error | {figures["error"]:.2%} |
| 95 % interval (Wilson, of the test images) | {low:.2%} to {high:.2%} |
| top-5 error | {figures["top5_error"]:.2%} |
| cross-entropy | {figures["loss"]:.3f} |
| expected calibration error (15 bins) | {figures["calibration_error"]:.2%} |

{runs}

    {command} {name} --data DIR

## Training

{training["examples"]:,} images, {training["epochs"]} epochs, seed {training["seed"]},
{training["precision"]}, {training["flop"] / 1e15:.2f} PFLOP in
{training["seconds"] / 60:.0f} minutes on {device}
(Keras {machine["keras"]}, {backend} {machine[backend]}). {resumed} Recipe:
[`{record["recipe"]}`](../../{record["recipe"]}); the recipe as run, the log and all
figures: [`docs/results/{name}`](../../docs/results/{name}).

![Learning curve](../../docs/results/{name}/curve.png){curve}

    python -m training.train {record["recipe"]}{options} --data DIR --out RUN
    python -m training.publish RUN --name {name} --data DIR{image_size}

## Data and terms

{record["dataset"]["terms"]} Source: {record["dataset"]["url"]}.
Licence of the weights: {record["license"]}.

## Where it errs

The classes with the lowest and the highest error:

| class | error | | class | error |
|---|---|---|---|---|
{_side_by_side(ranked[:8], ranked[::-1][:8])}

The most frequent confusions:

| true | predicted | images |
|---|---|---|
{_confusions(figures)}

## Limits

{limited}It knows its {len(record["class_names"])} classes and gives any other image
one of them. Photographs that are larger or framed otherwise than those of
{record["dataset"]["name"]} are recognized less well: the figures above are for its own
test images.
"""
    return "\n\n".join(map(_filled, text.split("\n\n")))


def _filled(block):
    """A paragraph in lines of one width; tables, code and headings as they are."""
    if block.startswith(("#", "|", "!", "    ")):
        return block
    return textwrap.fill(
        block, 88, break_long_words=False, break_on_hyphens=False
    ) + "\n" * block.endswith("\n")


def _side_by_side(left, right):
    return "\n".join(
        f"| {a} | {x:.0%} | | {b} | {y:.0%} |"
        for (a, x), (b, y) in zip(left, right, strict=True)
    )


def _confusions(figures):
    return "\n".join(
        f"| {row['true']} | {row['predicted']} | {row['count']} |"
        for row in figures["confusions"][:8]
    )
