"""What a record of the manifest says about its runs: errors, cost and hardware."""

import statistics
from collections.abc import Mapping


def over_seeds(record: Mapping) -> tuple[float, float | None, list[int]]:
    """Summarizes the test error over all seeds that were run.

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
    own = {"seed": record["training"]["seed"], "error": main_error(record["metrics"])}
    runs = [own, *record.get("other_seeds", ())]
    errors = [run["error"] for run in runs]
    deviation = statistics.stdev(errors) if len(errors) > 1 else None
    return statistics.mean(errors), deviation, [run["seed"] for run in runs]


def cost(record: Mapping) -> dict[str, float]:
    """Sums what the training cost, with that of the weights that it started from.

    Args:
        record: Record of the manifest.

    Returns:
        `epochs`, `seconds` and `flop`.

    Example:

    >>> own = {"epochs": 5, "seconds": 60.0, "flop": 1e12}
    >>> cost({"training": own})
    {'epochs': 5, 'seconds': 60.0, 'flop': 1000000000000.0}
    >>> cost({"training": own | {"initial": own}})["epochs"]
    10
    """
    training = record["training"]
    parts = [training, training["initial"]] if "initial" in training else [training]
    return {
        key: sum(part[key] for part in parts) for key in ("epochs", "seconds", "flop")
    }


def main_error(metrics: Mapping) -> float:
    """Returns the error that networks of a kind are compared by.

    Args:
        metrics: Metrics of `elu_zoo.evaluation.evaluate`.

    Returns:
        The share of wrong answers, or the reconstruction error of an autoencoder.

    Example:

    >>> main_error({"error": 0.25})
    0.25
    """
    return metrics["error"] if "error" in metrics else metrics["reconstruction_error"]


def error_text(metrics: Mapping) -> str:
    """Formats the test error.

    Args:
        metrics: Metrics of a record.

    Returns:
        A percentage with its interval, or the squared error of an autoencoder.

    Example:

    >>> error_text({"error": 0.25, "error_interval": [0.241, 0.259]})
    '25.00% (24.1%–25.9%)'
    >>> error_text({"reconstruction_error": 3.14159})
    '3.14 (squared error per image)'
    """
    if "error" not in metrics:
        return f"{metrics['reconstruction_error']:.2f} (squared error per image)"
    low, high = metrics["error_interval"]
    return f"{metrics['error']:.2%} ({low:.1%}–{high:.1%})"


def hardware(record: Mapping) -> str:
    """Returns the hardware that weights were trained on.

    Args:
        record: Record of the manifest.

    Returns:
        Name of the accelerator, or the processor and its number of cores.
    """
    machine = record["training"]["machine"]
    return (
        machine["accelerator"] or f"{machine['cores']} cores of {machine['processor']}"
    )
