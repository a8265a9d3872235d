"""A run on images on disk, from prepared shards to figures."""

import csv
import io
import json

import launch
import numpy as np
import pytest
from PIL import Image

from training.data.records import write_index, write_shard
from training.train import main

RECIPE = launch.ROOT / "training/recipes/elunet15_imagenet_paper.py"
CLASSES = ("ant", "bee", "cat")


def jpeg(number):
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 100, (240, 300, 3), dtype="uint8")
    pixels[..., number % 3] += 150
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    folder = data / "imagenet-256"
    folder.mkdir()
    for split, count in (("train", 16), ("validation", 6)):
        shard = folder / f"{split}-00000-of-00001.tfrecord"
        images = [jpeg(i) for i in range(count)]
        if split == "train":
            images[5] = images[5][:2000]
        rows = [(image, i % 3, f"{i}.JPEG") for i, image in enumerate(images)]
        write_shard(shard, rows)
        write_index(folder, split, [shard], CLASSES)
    return data


def failed(data_dir, out, *more):
    """What a run that fails says, in this process."""
    status, errors = launch.outcome(
        *(main, RECIPE, "--smoke", "--quiet", "--data", data_dir, "--out", out),
        *("--precision", "float32", *more),
    )
    assert status == 2 and "Traceback" not in errors, errors
    return errors


def test_two_workers_skip_and_count_corrupt_images(data_dir, tmp_path):
    more = ["--smoke", "--precision", "float32"]
    more += ["--log-every", "1", "--checkpoint-every", "1"]
    command = launch.command(RECIPE, data_dir, tmp_path / "run", *more)
    launch.finish(launch.start(command, tmp_path, workers=2), tmp_path)
    with (tmp_path / "run/log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # The corrupt image comes once in each of the two epochs of two steps.
    skipped = [int(row["skipped_images"]) for row in rows]
    assert len(rows) == 4 and skipped[1] == 1 and skipped[3] == 2
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["class_names"] == list(CLASSES)
    assert facts["input_shape"] == [224, 224, 3]


@pytest.mark.parametrize("decoder", ["simplejpeg", "tensorflow"])
def test_or_are_an_error(data_dir, tmp_path, decoder):
    more = ["--on-corrupt", "fail", "--decoder", decoder]
    assert "5.JPEG" in failed(data_dir, tmp_path / "run", *more)


def test_without_prepared_shards(tmp_path):
    assert "training.prepare" in failed(tmp_path, tmp_path / "run")
