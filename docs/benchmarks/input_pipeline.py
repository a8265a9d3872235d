"""Times the ImageNet train transform against Pillow and plain TensorFlow.

    python docs/benchmarks/input_pipeline.py [--rounds 9] [--images 256] [--csv FILE]

From a JPEG file of 500×375 pixels on disk to a 224×224 crop in a batch, for the paper's
crop (`ResizedRandomCrop`) and for `RandomResizedCrop`:

    pillow  opens the file, decodes, resizes, crops, as PyTorch's data sets do
    plain   tf.io.read_file, tf.io.decode_jpeg, tf.image.resize, crop, in tf.data
    here    training.data.encoded, from the shards that `training.prepare` makes of them
    whole   the same, from those of `training.prepare --resize 0`

All take the same windows, and one thread. Printed are medians of images per second of
processor time, which other work on the machine disturbs least. The photographs are made
up: noise of several octaves, about 70 KB a file. Pillow's resizing has a filter against
aliasing, TensorFlow's has none.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
from measuring import machine, medians, write_csv

SIZE, BATCH = 224, 256


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)

    from training.data.crops import RandomResizedCrop, ResizedRandomCrop

    facts, rows = machine(), []
    with tempfile.TemporaryDirectory() as folder:
        files, small, whole = write_photographs(pathlib.Path(folder), arguments.images)
        kilobytes = statistics.mean(file.stat().st_size for file in files) / 1000
        print(
            f"{', '.join(map(str, facts.values()))}, {arguments.rounds} rounds of "
            f"{len(files)} files of {kilobytes:.0f} KB; images/s of one core"
        )
        print(
            f"{'crop':>18} {'pillow':>8} {'plain':>8} {'here':>8} {'whole':>8} "
            f"{'here/better':>12} {'whole/better':>13}"
        )
        for crop in (ResizedRandomCrop(256), RandomResizedCrop()):
            windows, draws = make_windows(crop, len(files))
            calls = {
                "pillow": pillow(files, windows, crop),
                "plain": plain(files, windows, crop),
                "here": here(small, crop, draws),
                "whole": here(whole, crop, draws),
            }
            seconds = medians(calls, arguments.rounds, time.process_time)
            speeds = {name: len(files) / value for name, value in seconds.items()}
            better = max(speeds["pillow"], speeds["plain"])
            row = {
                "crop": type(crop).__name__,
                **{name: round(speed, 1) for name, speed in speeds.items()},
                "here_to_better": round(speeds["here"] / better, 3),
                "whole_to_better": round(speeds["whole"] / better, 3),
            }
            print(
                "{crop:>18} {pillow:8.1f} {plain:8.1f} {here:8.1f} {whole:8.1f} "
                "{here_to_better:12.3f} {whole_to_better:13.3f}".format(**row),
                flush=True,
            )
            rows.append({**facts, "file_kb": round(kilobytes), **row})
    if arguments.csv:
        write_csv(arguments.csv, rows)


def write_photographs(folder, count):
    """Eight photographs over and over: files, a shard of them resized, a shard."""
    from training.data.records import RecordDataset, write_index, write_shard
    from training.prepare import resized

    photographs = [photograph(seed) for seed in range(8)]
    files = []
    for number in range(count):
        files.append(folder / f"{number}.jpg")
        files[-1].write_bytes(photographs[number % 8])
    datasets = []
    for split, change in (("small", lambda x: resized(x, 256)), ("whole", bytes)):
        shard = folder / f"{split}-00000-of-00001.tfrecord"
        images = [change(photograph) for photograph in photographs]
        write_shard(shard, ((images[i % 8], 0, files[i].name) for i in range(count)))
        write_index(folder, split, [shard], ["made up"])
        datasets.append(RecordDataset(folder, split))
    return files, *datasets


def photograph(seed, height=375, width=500):
    """A JPEG file of smooth noise, each octave finer and weaker."""
    import io

    from PIL import Image

    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128.0)
    for octave in range(1, 9):
        noise = rng.normal(size=(3, 2**octave, 2**octave)).astype("float32")
        planes = [
            Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)
            for plane in noise
        ]
        image += 60 * 0.75**octave * np.stack(planes, -1)
    image += rng.normal(0, 8, image.shape)
    file = io.BytesIO()
    pixels = np.clip(image, 0, 255).astype("uint8")
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_windows(crop, count):
    draws = np.random.default_rng(0).random((count, crop.draws)).astype("float32")
    sides = np.full(count, 375.0), np.full(count, 500.0)
    windows = np.stack(crop.windows(draws.T, *sides, float(SIZE)), -1)
    return windows.astype("int32"), draws


def pillow(files, windows, crop):
    from PIL import Image

    def load(file, window):
        top, left, height, width = (int(value) for value in window)
        image = Image.open(file).convert("RGB")
        if hasattr(crop, "resize"):
            image = image.resize((crop.resize, crop.resize), Image.Resampling.BILINEAR)
            top, left = (
                round(top * crop.resize / 375),
                round(left * crop.resize / 500),
            )
            return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))
        image = image.crop((left, top, left + width, top + height))
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    def run():
        for start in range(0, len(files), BATCH):
            part = slice(start, start + BATCH)
            np.stack([load(*pair) for pair in zip(files[part], windows[part])])  # noqa: B905

    return run


def plain(files, windows, crop):
    import tensorflow as tf

    def load(file, window):
        image = tf.io.decode_jpeg(tf.io.read_file(file), channels=3)
        if hasattr(crop, "resize"):
            image = tf.image.resize(image, (crop.resize, crop.resize))
            start = window[:2] * crop.resize // tf.constant([375, 500])
            image = tf.slice(image, tf.pad(start, [[0, 1]]), (SIZE, SIZE, 3))
        else:
            end = window[:2] + window[2:]
            image = image[window[0] : end[0], window[1] : end[1]]
            image = tf.image.resize(image, (SIZE, SIZE))
        return tf.cast(tf.round(image), tf.uint8)

    paths = [str(file) for file in files]
    batches = tf.data.Dataset.from_tensor_slices((paths, windows)).map(load)
    return runner(batches.batch(BATCH))


def here(dataset, crop, draws):
    import tensorflow as tf

    from training.data.encoded import decode_all

    numbers = np.arange(len(dataset))
    batches = tf.data.Dataset.from_tensor_slices((numbers, draws)).batch(BATCH)
    return runner(batches.map(lambda n, d: decode_all(dataset, n, crop, d, SIZE)))


def runner(batches):
    """Runs through batches with one thread; the iterator goes on from run to run."""
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    # Nothing is to be computed ahead, while another one is being timed.
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    count = len(batches)
    iterator = iter(batches.repeat().with_options(options))

    def run():
        for _ in range(count):
            next(iterator)

    return run


if __name__ == "__main__":
    main()
