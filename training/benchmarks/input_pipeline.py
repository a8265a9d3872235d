"""Times the ImageNet train transform against Pillow and plain TensorFlow.

    python -m training.benchmarks.input_pipeline [--rounds 9] [--csv FILE]

From JPEG photographs of 500×375 pixels on disk to 224×224 crops in a batch, for the
paper's crop (`ResizedRandomCrop`) and for `RandomResizedCrop`:

    pillow  opens the file, decodes, resizes, crops, as PyTorch's data sets do
    plain   tf.io.read_file, tf.io.decode_jpeg, tf.image.resize, crop, in tf.data
    here    training.data.decoding.decode, from shards made by training.prepare
    ops     decode_ops instead, as a worker of a tf.data service does

Each reads both the originals (`prepare --resize 0`) and the images resized once to
256×256 (`prepare`'s default). `run` is the speed from the originals of a run with the
epochs of the paper's recipe, including the one-time resizing; `run_to_better` compares
it with the better of the other two from the originals.

All use the same windows and one thread. The command prints medians of images per second
of CPU time, which other work on the machine disturbs least, and of the ratios in each
round. The photographs are artificial: noise of several octaves, about 70 KB per file.
Only Pillow's resizing is antialiased.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training.benchmarks.measuring import ROOT, machine, timings, write_csv

if TYPE_CHECKING:
    import tensorflow as tf

    from training.data.crops import Crop
    from training.data.records import RecordDataset

    # The same photographs as files and as a shard.
    Stored = tuple[list[pathlib.Path], RecordDataset]

SIZE, BATCH, STORED = 224, 256, 256
ORIGINALS, RESIZED = (375, 500), (STORED, STORED)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)

    from training.data.crops import RandomResizedCrop, ResizedRandomCrop
    from training.data.stored_images import resized

    facts, count = machine(), arguments.images
    rows: list[dict[str, Any]] = []
    photographs = [photograph(seed) for seed in range(8)]
    kilobytes = statistics.mean(len(data) for data in photographs) / 1000
    print(
        f"{', '.join(map(str, facts.values()))}, {arguments.rounds} rounds of {count} "
        f"files of {kilobytes:.0f} KB; images/s of one core"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        small = [resized(data, STORED) for data in photographs]
        stored = {
            ORIGINALS: write_photographs(folder, "originals", photographs, count),
            RESIZED: write_photographs(folder, "resized", small, count),
        }
        for crop in (ResizedRandomCrop(STORED), RandomResizedCrop()):
            for row in measure(crop, stored, photographs, arguments.rounds):
                if not rows:
                    print(*(f"{name:>17}" for name in row))
                print(*(f"{value:>17}" for value in row.values()), flush=True)
                rows.append({**facts, "file_kb": round(kilobytes), **row})
    if arguments.csv:
        write_csv(arguments.csv, rows)


def measure(
    crop: Crop,
    stored: Mapping[tuple[int, int], Stored],
    photographs: Sequence[bytes],
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """Times all ways to read all kinds of files, in the same rounds.

    Args:
        crop: Crop of `training.data.crops`.
        stored: Files by the size of their images.
        photographs: Contents of the original files.
        rounds: Number of rounds.

    Yields:
        A row of the CSV file for each kind of files.
    """
    from training.data.stored_images import resized
    from training.engine.recipe import load_recipe

    recipe = ROOT / "training/recipes/elunet15_imagenet_paper.py"
    epochs = load_recipe(recipe).epochs
    calls: dict[Any, Callable[[], Any]] = {
        "prepare": lambda: [resized(data, STORED) for data in photographs]
    }
    for sides, (files, dataset) in stored.items():
        windows, draws = make_windows(crop, len(files), sides)
        calls[sides, "pillow"] = pillow(files, windows, crop, sides)
        calls[sides, "plain"] = plain(files, windows, crop, sides)
        calls[sides, "here"] = here(dataset, crop, draws)
        calls[sides, "ops"] = ops(dataset, crop, draws)
    spent = timings(calls, rounds, time.process_time)
    once = np.array(spent.pop("prepare")) / len(photographs)
    # Seconds per image: a row for each kind of files, a column for each round.
    seconds = {
        name: np.array([spent[sides, name] for sides in stored]) / len(files)
        for name in ("pillow", "plain", "here", "ops")
    }
    better = np.minimum(seconds["pillow"], seconds["plain"])
    # The originals, first in `stored`, need no resizing.
    run = seconds["here"] + [0 * once, once / epochs]
    for i, sides in enumerate(stored):
        speeds = {name: 1 / np.median(times[i]) for name, times in seconds.items()}
        yield {
            "crop": type(crop).__name__,
            "from": f"{sides[1]}x{sides[0]}",
            **{name: round(speed, 1) for name, speed in speeds.items()},
            "here_to_better": round(np.median(better[i] / seconds["here"][i]), 3),
            "ops_to_better": round(np.median(better[i] / seconds["ops"][i]), 3),
            "epochs": epochs,
            "run": round(1 / np.median(run[i]), 1),
            "run_to_better": round(np.median(better[0] / run[i]), 3),
        }


def write_photographs(
    folder: pathlib.Path, split: str, photographs: Sequence[bytes], count: int
) -> Stored:
    """Writes photographs as files and as a shard.

    Args:
        folder: Folder to write to.
        split: Name of the split.
        photographs: Contents of files, repeated as often as necessary.
        count: Number of files to write.

    Returns:
        Paths of the files, and the examples of the shard.
    """
    from training.data.records import RecordDataset, write_index, write_shard

    images = [photographs[number % len(photographs)] for number in range(count)]
    files = [folder / f"{split}-{number}.jpg" for number in range(count)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    shard = folder / f"{split}-00000-of-00001.tfrecord"
    write_shard(
        shard,
        ((image, 0, file.name) for image, file in zip(images, files, strict=True)),
    )
    write_index(folder, split, [shard], ["made up"])
    return files, RecordDataset(folder, split)


def photograph(seed: int, height: int = 375, width: int = 500) -> bytes:
    """Makes a JPEG file of smooth noise, each octave finer and weaker.

    Args:
        seed: Seed of the noise.
        height: Height in pixels.
        width: Width in pixels.

    Returns:
        Content of the file.
    """
    import io

    from PIL import Image

    rng = np.random.default_rng(seed)
    image: np.ndarray = np.full((height, width, 3), 128.0)
    for octave in range(1, 9):
        noise = rng.normal(size=(3, 2**octave, 2**octave)).astype("float32")
        planes = [
            np.asarray(
                Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)
            )
            for plane in noise
        ]
        image += 60 * 0.75**octave * np.stack(planes, -1)
    image += rng.normal(0, 8, image.shape)
    file = io.BytesIO()
    pixels = np.clip(image, 0, 255).astype("uint8")
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_windows(
    crop: Crop, count: int, sides: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the windows of a crop.

    Args:
        crop: The crop.
        count: Number of windows.
        sides: `(height, width)` of the images.

    Returns:
        int32 windows of shape `(count, 4)`, and the float32 draws that give them.
    """
    draws = np.random.default_rng(0).random((count, crop.draws)).astype("float32")
    height, width = (np.full(count, float(side)) for side in sides)
    windows = np.stack(crop.windows(draws.T, height, width, float(SIZE)), -1)
    return windows.astype("int32"), draws


def pillow(
    files: Sequence[pathlib.Path],
    windows: np.ndarray,
    crop: Crop,
    sides: tuple[int, int],
) -> Callable[[], None]:
    """Returns a function that reads all crops with Pillow, see the module."""
    from PIL import Image

    def load(file: Any, window: Any) -> np.ndarray:
        top, left, height, width = (int(value) for value in window)
        image = Image.open(file).convert("RGB")
        if hasattr(crop, "resize"):
            if sides != RESIZED:
                image = image.resize(RESIZED, Image.Resampling.BILINEAR)
            top, left = round(top * STORED / sides[0]), round(left * STORED / sides[1])
            return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))
        image = image.crop((left, top, left + width, top + height))
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    def run() -> None:
        for start in range(0, len(files), BATCH):
            part = slice(start, start + BATCH)
            np.stack([load(*pair) for pair in zip(files[part], windows[part])])  # noqa: B905

    return run


def plain(
    files: Sequence[pathlib.Path],
    windows: np.ndarray,
    crop: Crop,
    sides: tuple[int, int],
) -> Callable[[], None]:
    """Returns a function that reads all crops with plain TensorFlow."""
    import tensorflow as tf

    def load(file: Any, window: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(file), channels=3)
        if hasattr(crop, "resize"):
            if sides != RESIZED:
                image = tf.image.resize(image, RESIZED)
            start = window[:2] * STORED // tf.constant(sides)
            image = tf.slice(image, tf.pad(start, [[0, 1]]), (SIZE, SIZE, 3))
        else:
            end = window[:2] + window[2:]
            image = image[window[0] : end[0], window[1] : end[1]]
            image = tf.image.resize(image, (SIZE, SIZE))
        if image.dtype == tf.uint8:
            return image
        return tf.cast(tf.round(image), tf.uint8)

    paths = [str(file) for file in files]
    batches = tf.data.Dataset.from_tensor_slices((paths, windows)).map(load)
    return runner(batches.batch(BATCH))


def here(dataset: RecordDataset, crop: Crop, draws: np.ndarray) -> Callable[[], None]:
    """Returns a function that reads all crops with `decode`."""
    from training.data.decoding import decode

    def run() -> None:
        for start in range(0, len(dataset), BATCH):
            part = draws[start : start + BATCH]
            files = [dataset.image(start + number) for number in range(len(part))]
            decode(files, crop, part, SIZE, fast=True)

    return run


def ops(dataset: RecordDataset, crop: Crop, draws: np.ndarray) -> Callable[[], None]:
    """Returns a function that reads all crops with `decode_ops`."""
    import tensorflow as tf

    from training.data.decoding import decode_ops

    numbers = np.arange(len(dataset))
    batches = tf.data.Dataset.from_tensor_slices((numbers, draws)).batch(BATCH)
    return runner(
        batches.map(
            lambda n, d: decode_ops(dataset.read_ops(n), crop, d, SIZE, fast=True)
        )
    )


def runner(batches: tf.data.Dataset) -> Callable[[], None]:
    """Returns a function that reads all batches in one thread.

    Args:
        batches: The batches; each call continues where the last one ended.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    # Nothing may be computed ahead while another way is being timed.
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    count = len(batches)
    iterator = iter(batches.repeat().with_options(options))

    def run() -> None:
        for _ in range(count):
            next(iterator)

    return run


if __name__ == "__main__":
    main()
