"""Trains a recipe on a GPU that is available only for minutes, on Keras's JAX backend.

    python -m training.gpu RECIPE --seconds 420 --data DIR --out RUN [--unpack FILE ...]

The command unpacks archives of data into DIR. After 20 steps at the largest image size
it prints the images per second, the share of the peak of matrix products, and the time
that the recipe takes at this speed; smaller images take longer in relation. If the time
does not suffice, `--epochs` shortens the recipe. Then it trains, writes a checkpoint
every few minutes and stops 30 seconds before the time is up; the same command resumes.
RUN/parts receives the log and the settings in `run.tar`, and the weights, rounded to
bfloat16, in parts of at most 15 MiB. This joins them:

    python -m training.gpu --join RUN/parts --to NAME.weights.h5
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import tarfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.commands import USER_ERROR, leave, positive

if TYPE_CHECKING:
    from training.engine.recipe import Recipe
    from training.engine.stopping import Stopping

NAME = "training.gpu"
RESERVE = 30  # Seconds for a checkpoint, weights and parts.
PART = 15 << 20  # Bytes.
TRIED = 20  # Number of steps whose speed is measured.


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    started = time.monotonic()
    arguments = parse(argv)
    if arguments.join:
        join(arguments.join, arguments.to)
        return
    from elu_zoo.errors import UserError
    from training.engine.stopping import Stopped, Stopping

    try:
        for archive in arguments.unpack:
            shutil.unpack_archive(archive, arguments.data)
        with Stopping() as stopping:
            run(arguments, started + arguments.seconds - RESERVE, stopping)
    except (UserError, OSError) as error:
        leave(NAME, error, USER_ERROR)
    except Stopped as stop:
        leave(NAME, f"Stopped by {stop}. The same command resumes.", stop.status)


def run(arguments: argparse.Namespace, deadline: float, stopping: Stopping) -> None:
    """Measures the speed, trains, and writes the files to copy from the machine.

    Args:
        arguments: Result of `parse`.
        deadline: When to stop, on the clock `time.monotonic`.
        stopping: Tells whether a signal came.
    """
    from elu_zoo.errors import UserError
    from elu_zoo.files import replacing
    from training.engine import device
    from training.engine.loop import train
    from training.engine.recipe import load_recipe, smoke

    recipe = load_recipe(arguments.recipe)
    recipe = shortened(recipe, arguments.epochs) if arguments.epochs else recipe
    recipe = smoke(recipe) if arguments.smoke else recipe
    if not arguments.smoke and on_cpu():
        raise UserError(
            "Expected a GPU that JAX can use; `--smoke` tries the command without one. "
            "Received: CPU devices only"
        )
    out = pathlib.Path(arguments.out)
    device.keep_compiled(out / "compiled")
    speed = out / "speed.json"
    if not speed.is_file():
        facts = measure(arguments, recipe, out, stopping)
        with replacing(speed) as part:
            part.write_text(json.dumps(facts) + "\n")
    facts = json.loads(speed.read_text())
    print(json.dumps(facts), flush=True)
    # At the smallest size, so that fast steps are not slowed by checkpoints.
    sizes = recipe.image_sizes.values()
    per_minute = 60 * facts["images_per_second"] / recipe.batch_size
    per_minute *= (max(sizes) / min(sizes)) ** 2 if sizes else 1
    try:
        train(
            arguments.recipe,
            recipe,
            arguments.data,
            out,
            checkpoint_every=max(1, round(per_minute)),
            progress=False,
            should_stop=lambda: stopping.asked() or time.monotonic() > deadline,
        )
    finally:
        # Also if something after the last step fails, such as a figure.
        write_parts(out)
    stopping.check()


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """Changes the number of epochs of a recipe.

    Args:
        recipe: The recipe.
        epochs: Number of epochs.

    Returns:
        The recipe, whose image sizes change at the same shares of its epochs.

    Example:

    >>> from training.engine.recipe import load_recipe
    >>> recipe = load_recipe("training/recipes/elunet15_tiny_imagenet_gpu.py")
    >>> shortened(recipe, 60).image_sizes
    {0: 32, 30: 48, 51: 64}
    """
    factor = epochs / recipe.epochs
    sizes = {round(key * factor): size for key, size in recipe.image_sizes.items()}
    return dataclasses.replace(recipe, epochs=epochs, image_sizes=sizes)


def on_cpu() -> bool:
    """Tells whether JAX has no other device than the CPU."""
    import jax

    return bool(jax.devices()[0].platform == "cpu")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the arguments.

    Args:
        argv: Arguments; default those of the process.

    Returns:
        The parsed arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", help="path of a recipe file")
    parser.add_argument(
        "--seconds", type=float, help="time until the GPU is taken away"
    )
    parser.add_argument("--data", help="folder of the data sets")
    parser.add_argument("--out", help="folder of the run")
    parser.add_argument(
        "--unpack", nargs="+", default=[], metavar="FILE", help="archives for --data"
    )
    parser.add_argument(
        "--epochs", type=positive, help="replaces the recipe's, and scales its sizes"
    )
    parser.add_argument("--smoke", action="store_true", help="try it at a small size")
    parser.add_argument("--join", metavar="FOLDER", help="folder of parts to join")
    parser.add_argument("--to", metavar="FILE", help="the weights file to write")
    arguments = parser.parse_args(argv)
    needed = ["to"] if arguments.join else ["recipe", "seconds", "data", "out"]
    missing = [name for name in needed if getattr(arguments, name) is None]
    if missing:
        parser.error(f"expected {', '.join(missing)}")
    return arguments


def measure(
    arguments: argparse.Namespace,
    recipe: Recipe,
    out: pathlib.Path,
    stopping: Stopping,
) -> dict[str, float]:
    """Measures the speed at the recipe's largest image size, in a trial run.

    Args:
        arguments: Result of `parse`.
        recipe: The recipe.
        out: Folder of the run, which reuses the programs compiled there.
        stopping: Tells whether a signal came.

    Returns:
        `images_per_second`, `tflop_per_second`, `share_of_peak`, the share of the
        result of `peak`, and `seconds`, which the recipe takes at this speed.

    Raises:
        Stopped: If a signal came.
    """
    from training.engine import runlog
    from training.engine.cost import image_flop, training_flop
    from training.engine.loop import train

    every, sizes = TRIED // 5, recipe.image_sizes.values()
    calls = iter(range(TRIED // every - 1))
    largest_first = dataclasses.replace(
        recipe,
        # The smaller size is not reached, but the model has to take both.
        image_sizes={0: max(sizes), recipe.epochs - 1: min(sizes)} if sizes else {},
        dropout=first(recipe),
    )
    trial = out / "trial"
    shutil.rmtree(trial, ignore_errors=True)  # Of a start that was killed.
    train(
        *(arguments.recipe, largest_first, arguments.data, trial),
        log_every=every,
        checkpoint_every=10**9,
        progress=False,
        # On JAX, a call ends at each row of the log.
        should_stop=lambda: stopping.asked() or next(calls, None) is None,
    )
    stopping.check()
    # The first rows include the compilation.
    speeds = [row["images_per_second"] for row in runlog.read(trial / "log.csv")]
    facts = json.loads((trial / "run.json").read_text())
    shutil.rmtree(trial)
    speed = statistics.median(speeds[2:] or speeds[-1:])
    height, _, channels = facts["input_shape"]
    shape = (max(sizes, default=height),) * 2 + (channels,)
    classes = len(facts["class_names"])
    flop = image_flop(facts["settings"], shape, classes)
    settings = facts["settings"] | {
        "epochs": recipe.epochs,
        "image_sizes": recipe.image_sizes,
    }
    whole = training_flop(settings, shape, classes)
    return {
        "images_per_second": speed,
        "tflop_per_second": float(f"{speed * flop / 1e12:.3g}"),
        "share_of_peak": float(f"{speed * flop / peak():.3g}"),
        "seconds": round(whole / (speed * flop), 1),
    }


def first(recipe: Recipe) -> dict[float, Any]:
    """Returns the dropout of only the first phase of a recipe.

    Args:
        recipe: The recipe.
    """
    return {0: recipe.dropout[0]} if recipe.dropout else {}


def peak(size: int = 4096, repeats: int = 5) -> float:
    """Measures the peak of bfloat16 matrix products.

    Args:
        size: Rows and columns of the matrices; an eighth of it on a CPU.
        repeats: Number of measurements.

    Returns:
        The best result, in operations per second.
    """
    import jax

    size = size // 8 if on_cpu() else size
    matrix = jax.numpy.ones((size, size), "bfloat16")
    product = jax.jit(lambda x: (x @ x) / size)
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start, result = time.perf_counter(), matrix
        for _ in range(10):
            result = product(result)
        result.block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 10 * 2 * size**3 / min(seconds)


def write_parts(out: pathlib.Path) -> None:
    """Writes the files to copy from the machine to the run's folder `parts`.

    Args:
        out: Folder of the run. Nothing is written if it has no weights yet.
    """
    from elu_zoo._weight_files import compress

    files = [out / f"{name}.weights.h5" for name in ("last", "stopped")]
    files = [file for file in files if file.is_file()]
    if not files:
        return
    newest = max(files, key=lambda file: file.stat().st_mtime)
    parts = out / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    with tarfile.open(parts / "run.tar", "w") as archive:
        for name in ("speed.json", "log.csv", "run.json", "recipe.py", "curve.svg"):
            if (out / name).is_file():
                archive.add(out / name, name)
    rounded = out / "rounded.weights.h5"
    compress(newest, rounded)
    split(rounded, parts)


def split(
    path: str | pathlib.Path, folder: str | pathlib.Path, size: int = PART
) -> None:
    """Splits a file into parts, and writes its SHA-256.

    Args:
        path: Path of the file.
        folder: Folder for the parts, `weights.000` and so on, and `weights.sha256`.
        size: Largest size of a part in bytes.
    """
    data, folder = pathlib.Path(path).read_bytes(), pathlib.Path(folder)
    for number, start in enumerate(range(0, len(data), size)):
        (folder / f"weights.{number:03d}").write_bytes(data[start : start + size])
    (folder / "weights.sha256").write_text(hashlib.sha256(data).hexdigest() + "\n")


def join(folder: str | pathlib.Path, path: str | pathlib.Path) -> None:
    """Joins the parts of a file.

    Args:
        folder: Folder that `split` wrote to.
        path: Path of the file to write.

    Raises:
        UserError: If parts are missing or damaged. Nothing is written then.
    """
    from elu_zoo.errors import UserError
    from elu_zoo.files import replacing

    folder = pathlib.Path(folder)
    parts = sorted(folder.glob("weights.[0-9]*"))
    data = b"".join(part.read_bytes() for part in parts)
    stored = folder / "weights.sha256"
    expected = stored.read_text().strip() if stored.is_file() else "none"
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise UserError(
            f"Expected all parts of a weights file in {folder}, with the SHA-256 "
            f"{expected}. Received: {len(parts)} parts with {found}. Copy them again."
        )
    with replacing(pathlib.Path(path)) as part:
        part.write_bytes(data)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    main()
