"""Trains a recipe, or resumes a run that was stopped.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR --out RUN

The same command resumes a stopped run from its last checkpoint and ends with the same
bits as if the run had not been stopped. SIGINT (Ctrl-C) and SIGTERM write a checkpoint
first.

Exit status:
    0    the run is finished, or the time of --seconds is over
    1    an unexpected error, shown with its traceback
    2    a mistake in the command, the recipe, the data or the folder: fix it first
    75   a worker was lost, or another process is using RUN: start all workers again
    130  stopped by SIGINT
    143  stopped by SIGTERM
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.commands import (
    RATE_SCALING,
    RESTART,
    USER_ERROR,
    leave,
    natural,
    parse,
    parser,
    positive,
)
from training.engine import device  # sets the environment before Keras
from training.engine.cluster import several_workers
from training.engine.strategy import NAMES

if TYPE_CHECKING:
    from training.engine.recipe import Recipe
    from training.engine.stopping import Stopping

NAME = "training.train"


def _options() -> argparse.ArgumentParser:
    options = parser(NAME, __doc__)
    options.add_argument("recipe", help="path of a recipe file")
    options.add_argument("--data", required=True, help="folder of the data sets")
    options.add_argument("--out", required=True, help="folder of the run")
    options.add_argument("--seed", type=natural, help="replaces the recipe's")
    options.add_argument("--epochs", type=positive, help="replaces the recipe's")
    options.add_argument(
        "--holdout", type=natural, help="number of training images to validate on"
    )
    options.add_argument(
        "--strategy", choices=NAMES, help="default: by the devices and the environment"
    )
    options.add_argument(
        "--on-corrupt",
        choices=["skip", "fail"],
        default="skip",
        help="what to do with images on disk that cannot be decoded (default: skip)",
    )
    options.add_argument(
        "--decoder",
        choices=["simplejpeg", "tensorflow"],
        default="simplejpeg",
        help="decoder of images on disk (default: simplejpeg)",
    )
    options.add_argument(
        "--data-service",
        metavar="ADDRESS",
        help="tf.data service that decodes images on disk, such as grpc://host:5050",
    )
    options.add_argument(
        "--cpu-devices",
        type=positive,
        metavar="N",
        help="split the CPU into N devices, to try a strategy",
    )
    options.add_argument(
        "--batch-size", type=positive, help="global batch, over all devices"
    )
    options.add_argument(
        "--rate-scaling",
        choices=list(RATE_SCALING),
        default="linear",
        help="how the learning rate depends on --batch-size (default: linear)",
    )
    options.add_argument(
        "--precision", choices=["float32", "mixed_bfloat16"], help="default: by device"
    )
    options.add_argument(
        "--smoke",
        action="store_true",
        help="run a small version of the recipe, in seconds",
    )
    options.add_argument(
        "--seconds", type=positive, help="write a checkpoint and stop after this time"
    )
    options.add_argument(
        "--log-every",
        type=positive,
        default=50,
        metavar="STEPS",
        help="steps between rows of the log (default: 50)",
    )
    options.add_argument(
        "--checkpoint-every",
        type=positive,
        default=100,
        metavar="STEPS",
        help="steps between checkpoints (default: 100)",
    )
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    options.add_argument(
        "--accept-code-changes",
        action="store_true",
        help="resume even if code that the run depends on has changed",
    )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    arguments = parse(_options(), argv)
    if arguments.cpu_devices:
        device.split_cpu(arguments.cpu_devices)
    from elu_zoo.errors import UserError
    from training.engine.provenance import FolderInUse
    from training.engine.stopping import Stopped, Stopping

    try:
        with Stopping() as stopping:
            result = _train(arguments, stopping)
    except (UserError, FileNotFoundError) as error:
        leave(NAME, error, USER_ERROR)
    except OSError as error:
        leave(NAME, f"{error}. {_checkpoint(arguments.out)}", USER_ERROR)
    except FolderInUse as error:
        leave(NAME, error, RESTART)
    except Stopped as stop:
        message = f"Stopped by {stop}. {_checkpoint(arguments.out)}"
        leave(NAME, message, stop.status)
    except Exception as error:
        if lost_shard(error):
            message = f"Expected whole shards in {arguments.data}. {error}"
            leave(NAME, message, USER_ERROR)
        if lost_worker(error, arguments.strategy):
            message = f"Another worker is gone. Start all workers again. {error}"
            leave(NAME, message, RESTART)
        raise
    if result is None:
        return
    print(
        f"{arguments.out}: error {result['error']}, loss "
        f"{result['eval_loss']:.4f} after {result['seconds']:.0f} s"
    )


def _train(arguments: argparse.Namespace, stopping: Stopping) -> dict[str, Any] | None:
    from training.engine.loop import train
    from training.engine.objectives import objective_of
    from training.engine.recipe import OPTIONS, load_recipe, smoke

    deadline = time.monotonic() + (arguments.seconds or math.inf)
    recipe = load_recipe(arguments.recipe)
    if arguments.smoke:
        recipe = smoke(recipe, arguments.batch_size)
    given = {name: getattr(arguments, name) for name in OPTIONS}
    changes = {name: value for name, value in given.items() if value is not None}
    result = train(
        arguments.recipe,
        dataclasses.replace(recipe, **changes),
        arguments.data,
        arguments.out,
        strategy=arguments.strategy,
        rate_factor=rate_factor(recipe, arguments),
        on_corrupt=arguments.on_corrupt,
        decoder=arguments.decoder,
        service=arguments.data_service,
        precision=arguments.precision,
        log_every=arguments.log_every,
        checkpoint_every=arguments.checkpoint_every,
        accept_code_changes=arguments.accept_code_changes,
        progress=not arguments.quiet,
        should_stop=lambda: stopping.asked() or time.monotonic() > deadline,
    )
    stopping.check()
    if result is None:
        return None
    error_format = objective_of(recipe.model).error_format
    return result | {"error": error_format.format(result["eval_error"])}


def _checkpoint(out: str) -> str:
    """Says in a sentence what there is to resume from."""
    from training.engine.checkpoint import find

    files = find(out)
    if not files:
        return f"There is no checkpoint in {out} yet; the same command starts afresh."
    step = int(files[0].stem.partition("-")[2])
    return (
        f"The checkpoint of step {step} in {out} is whole; the same command resumes "
        "from it."
    )


def rate_factor(recipe: Recipe, arguments: argparse.Namespace) -> float:
    """Returns the factor for the learning rate that goes with `--batch-size`.

    Args:
        recipe: The recipe as in its file.
        arguments: Parsed arguments.

    Returns:
        The factor.
    """
    ratio = (arguments.batch_size or recipe.batch_size) / recipe.batch_size
    return RATE_SCALING[arguments.rate_scaling](ratio)


def lost_shard(error: BaseException) -> bool:
    """Returns whether TensorFlow says that a file of records is damaged or missing.

    Args:
        error: The error.
    """
    return type(error).__name__ in ("DataLossError", "NotFoundError")


def lost_worker(error: BaseException, strategy: str | None = None) -> bool:
    """Returns whether TensorFlow says that it cannot reach another worker.

    Args:
        error: The error.
        strategy: Name of the strategy, if the command named one.
    """
    return type(error).__name__ in (
        *("UnavailableError", "AbortedError", "CancelledError"),
        *("DeadlineExceededError", "InternalError"),
    ) and several_workers(strategy, os.environ)


if __name__ == "__main__":
    main()
