import dataclasses
import io
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from training.data.augmentation import random_flip
from training.data.crops import CenterCrop, RandomResizedCrop, ResizedRandomCrop
from training.data.decoding import decode, decode_jpeg, decode_ops
from training.data.encoded import EncodedStream, eval_batches, in_order
from training.data.memory import MemoryDataset
from training.data.records import RecordDataset, write_index, write_shard

SIZES = [(80, 120), (128, 128), (180, 100), (260, 400), (600, 560)]
COUNT = 23
ROOT = pathlib.Path(__file__).parents[2]
DECODERS = ["simplejpeg", "tensorflow"]

# A tf.data service of one role in a process of its own, until its input ends.
# A process per server would spend most of its time on importing TensorFlow.
SERVERS = """
import sys
import tensorflow as tf
service = tf.data.experimental.service
dispatcher = service.DispatchServer()
config = service.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1])
workers = [service.WorkerServer(config) for _ in range(2)]
print(dispatcher.target, flush=True)
sys.stdin.read()
"""


def photo(number):
    """A smooth image, so that decoders agree on it."""
    height, width = SIZES[number % len(SIZES)]
    coarse = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype="uint8")
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def good(number):
    return jpeg(photo(number), quality=95, subsampling=0)


def corrupt():
    whole = good(3)
    return {
        "half": whole[: len(whole) // 2],
        "end": whole[:-40],
        "png": jpeg(photo(3), "PNG"),
        "text": b"no image at all",
        "cmyk": jpeg(photo(3).convert("CMYK")),
        "empty": b"",
        "filled": whole[:-400] + bytes(400),
    }


def corrupt_inside():
    """Files that begin and end well; Pillow and TensorFlow take them."""
    whole = good(3)
    half = len(whole) // 2
    return {
        "cut": whole[:half] + whole[-2:],
        "hole": whole[:half] + bytes(40) + whole[half + 40 :],
    }


def write(folder, images):
    shards = [folder / f"train-{i:05}-of-00002.tfrecord" for i in range(2)]
    names = sorted(images)
    for i, shard in enumerate(shards):
        rows = [(images[n], 1, f"{n}.JPEG") for n in names[i::2]]
        write_shard(shard, rows)
    write_index(folder, "train", shards, ["ant", "bee"])
    return RecordDataset(folder, "train")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    shard = folder / "train-00000-of-00001.tfrecord"
    rows = [(good(i), i % 3, f"{i}.JPEG") for i in range(COUNT)]
    write_shard(shard, rows)
    write_index(folder, "train", [shard], ["ant", "bee", "cat"])
    return RecordDataset(folder, "train")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    images = {f"good{i}": good(i) for i in range(5)} | corrupt()
    return write(tmp_path_factory.mktemp("damaged"), images)


def same(one, other):
    for field in dataclasses.fields(one):
        # Draws are arrays in dicts in a tuple.
        pairs = zip(
            keras.tree.flatten(getattr(one, field.name)),
            keras.tree.flatten(getattr(other, field.name)),
            strict=True,
        )
        for value, wanted in pairs:
            np.testing.assert_array_equal(value, wanted, field.name)


def bilinear(image, size):
    """Bilinear resizing without a filter in float64, pixel centers at halves."""
    image = np.asarray(image, "float64")
    for axis in (0, 1):
        sides = image.shape[axis]
        places = np.clip((np.arange(size) + 0.5) * sides / size - 0.5, 0, sides - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, sides - 1)
        share = (places - low).reshape(-1, *(1,) * (2 - axis))
        image = np.take(image, low, axis) * (1 - share) + share * np.take(
            image, high, axis
        )
    return image


def test_an_epoch_shows_each_example_once_with_its_own_label(dataset):
    stream = EncodedStream(dataset, 4, image_sizes=16)
    assert stream.steps_per_epoch == 5
    batches = list(stream.batches(0, 10))
    orders = [np.concatenate([b.indices for b in batches[i : i + 5]]) for i in (0, 5)]
    assert all(len(set(order)) == 20 for order in orders)
    assert list(orders[0]) != list(orders[1])
    for batch in batches:
        assert batch.images.shape == (4, 16, 16, 3) and batch.images.dtype == np.uint8
        np.testing.assert_array_equal(batch.targets.argmax(-1), batch.indices % 3)
        np.testing.assert_array_equal(batch.weights, 1)


def test_a_batch_depends_on_seed_and_step_alone(dataset):
    def stream(seed=0):
        return EncodedStream(
            dataset, 4, [RandomResizedCrop(), random_flip()], image_sizes=16, seed=seed
        )

    whole = list(stream().batches(0, 9))
    for step, batch in enumerate(stream().batches(6, 9), 6):
        same(batch, whole[step])
    # The flips, which the training step applies, are still to come in `whole`.
    images, (drawn,) = whole[2].images, whole[2].draws
    flipped = np.where(drawn["flip"][:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(stream().batch(2).images, flipped)
    assert not np.array_equal(stream(1).batch(2).indices, whole[2].indices)


@pytest.mark.parametrize("crop", [ResizedRandomCrop(20), RandomResizedCrop()])
def test_workers_share_the_batches_of_one(dataset, crop):
    def stream(**share):
        return EncodedStream(dataset, 6, [crop, random_flip()], 16, seed=3, **share)

    whole = stream().batch(4)
    shares = [stream(worker=i, workers=3).batch(4) for i in range(3)]
    for name in ("images", "targets", "weights", "indices"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(share, name) for share in shares]),
            getattr(whole, name),
        )
    with pytest.raises(ValueError, match="workers=4"):
        stream(workers=4)


def test_image_sizes_by_epoch(dataset):
    stream = EncodedStream(dataset, 20, image_sizes={0: 16, 2: 24})
    batches = list(stream.batches(0, 4))
    assert [b.images.shape[1] for b in batches] == [16, 16, 24, 24]
    assert [b.image_size for b in batches] == [16, 16, 24, 24]


@pytest.mark.parametrize("decoder", DECODERS)
def test_crops_are_the_window_of_the_whole_image(dataset, decoder):
    crop, size = ResizedRandomCrop(80), 72
    stream = EncodedStream(dataset, 20, [crop], size, seed=1, decoder=decoder)
    batch = stream.batch(0)
    for image, number in zip(batch.images, batch.indices, strict=True):
        whole = np.asarray(photo(number), "float64")
        height, width = whole.shape[:2]
        corners = np.indices((9, 9)).reshape(2, -1)
        windows = crop.windows(
            corners / 9 + 0.01, np.full(81, height), np.full(81, width), size
        )
        errors = []
        for top, left, h, w in np.stack(windows, -1).astype(int):
            expected = bilinear(whole[top : top + h, left : left + w], size)
            errors.append(np.abs(image - expected).mean())
        # Larger windows are decoded at a half, a quarter, an eighth.
        limit = 1.5 if min(h, w) < 2 * size else 2
        assert min(errors) < limit, SIZES[number % len(SIZES)]


@pytest.mark.parametrize("decoder", DECODERS)
def test_images_of_the_size_that_is_cropped_are_cut_out(tmp_path, decoder):
    images = {
        f"{n:02}": jpeg(photo(n).resize((80, 80)), quality=95, subsampling=0)
        for n in range(20)
    }
    dataset = write(tmp_path, images)
    crop = ResizedRandomCrop(80)
    batch = EncodedStream(dataset, 20, [crop], 48, decoder=decoder).batch(0)
    lefts = set()
    for image, number in zip(batch.images, batch.indices, strict=True):
        name = dataset.file_name(number).removesuffix(".JPEG")
        whole = np.asarray(Image.open(io.BytesIO(images[name])), "float64")
        errors = {
            (top, left): np.abs(image - whole[top : top + 48, left : left + 48]).mean()
            for top in range(33)
            for left in range(33)
        }
        window = min(errors, key=errors.get)
        assert errors[window] < 1.5
        lefts.add(window[1] % 16)
    assert len(lefts) > 5

    # From row and column 15 on, which is no multiple of the decoder's blocks.
    (batch,) = eval_batches(dataset, 20, 50, CenterCrop(80))
    for image, number in zip(batch.images, batch.indices, strict=True):
        name = dataset.file_name(number).removesuffix(".JPEG")
        whole = np.asarray(Image.open(io.BytesIO(images[name])))
        np.testing.assert_array_equal(image, whole[15:65, 15:65])


def test_evaluation_is_the_center_crop_of_the_resized_image(dataset):
    batches = list(eval_batches(dataset, 10, 56, CenterCrop(64)))
    assert [b.weights.sum() for b in batches] == [10, 10, 3]
    images = np.concatenate([b.images for b in batches])[:COUNT]
    for number, image in enumerate(images):
        resized = photo(number).resize((64, 64), Image.Resampling.BILINEAR)
        expected = np.asarray(resized.crop((4, 4, 60, 60)), "float64")
        assert np.abs(image - expected).mean() < 2, SIZES[number % len(SIZES)]


def test_evaluation_counts_every_example_once(dataset):
    workers = 6
    shares = [
        list(eval_batches(dataset, 6, 16, worker=i, workers=workers))
        for i in range(workers)
    ]
    assert {len(share) for share in shares} == {4}
    seen = []
    for batch in sum(shares, []):
        assert batch.images.shape == (6 // workers, 16, 16, 3)
        counted = batch.weights > 0
        assert (batch.indices[~counted] == -1).all()
        assert (batch.images[~counted] == 0).all()
        seen += list(batch.indices[counted])
        np.testing.assert_array_equal(
            batch.targets[counted].argmax(-1), batch.indices[counted] % 3
        )
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("crop", [ResizedRandomCrop(32), RandomResizedCrop()])
def test_corrupt_images_have_weight_0(damaged, crop, decoder):
    stream = EncodedStream(damaged, len(damaged), [crop], 24, decoder=decoder)
    for batch in stream.batches(0, 3):
        names = [damaged.file_name(number) for number in batch.indices]
        expected = [float(name.startswith("good")) for name in names]
        np.testing.assert_array_equal(batch.weights, expected)
        for image, weight in zip(batch.images, batch.weights, strict=True):
            assert (image.std() > 1) if weight else (image == 0).all()


@pytest.mark.parametrize("size", [1, 5])
def test_corrupt_images_at_any_place_of_a_batch(damaged, size):
    batches = list(eval_batches(damaged, size, 24, on_corrupt="skip"))
    for batch in batches:
        assert batch.images.shape == (size, 24, 24, 3)
        for image, number, weight in zip(
            batch.images, batch.indices, batch.weights, strict=True
        ):
            good = number >= 0 and damaged.file_name(number).startswith("good")
            assert weight == good and image.any() == good


@pytest.mark.parametrize("decoder", DECODERS)
def test_nothing_but_corrupt_images(tmp_path, decoder):
    dataset = write(tmp_path, corrupt())
    stream = EncodedStream(dataset, 3, image_sizes=24, decoder=decoder)
    batch = stream.batch(0)
    assert batch.images.shape == (3, 24, 24, 3)
    assert not batch.images.any() and not batch.weights.any()


def test_corrupt_images_can_be_fatal(damaged):
    stream = EncodedStream(damaged, len(damaged), image_sizes=24, on_corrupt="fail")
    with pytest.raises(ValueError, match=r"\.JPEG \(record \d+\)"):
        stream.batch(0)
    with pytest.raises(ValueError, match="Received 7 in one batch"):
        list(eval_batches(damaged, len(damaged), 24))
    with pytest.raises(ValueError, match="'ignore'"):
        EncodedStream(damaged, 2, on_corrupt="ignore")


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_lost_shard_is_an_error_not_a_skipped_image(tmp_path, decoder):
    import tensorflow as tf

    dataset = write(tmp_path, {str(i): good(i) for i in range(4)})
    (tmp_path / "train-00001-of-00002.tfrecord").unlink()
    with pytest.raises((FileNotFoundError, tf.errors.NotFoundError), match="00001-of"):
        EncodedStream(dataset, 4, image_sizes=16, decoder=decoder).batch(0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_unusual_but_whole_is_fine(tmp_path, decoder):
    whole = good(1)
    images = {
        "grey": jpeg(photo(1).convert("L")),
        "trailing": whole + b"\0\n",
        "extraneous": whole[:-2] + b"\x12\x34" + whole[-2:],
        "revision": whole.replace(b"JFIF\0\1", b"JFIF\0\7"),
        "progressive": jpeg(photo(3), progressive=True),
    }
    dataset = write(tmp_path, images)
    batch = EncodedStream(dataset, 5, image_sizes=16, decoder=decoder).batch(0)
    np.testing.assert_array_equal(batch.weights, 1)
    assert all(image.std() > 1 for image in batch.images)


def test_damage_inside_a_file_is_found(tmp_path):
    files = corrupt_inside()
    dataset = write(tmp_path, files)
    assert not EncodedStream(dataset, 2, image_sizes=16).batch(0).weights.any()
    with pytest.raises(ValueError, match="Received 2 in one batch"):
        list(eval_batches(dataset, 2))


class Window:
    """A crop that takes one window of every image."""

    draws = 0

    def __init__(self, *window):
        self.window = window

    def windows(self, draws, height, width, size, xp=np):
        return tuple(0 * height + value for value in self.window)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "window", [(37, 51, 60, 60), (13, 30, 75, 110), (0, 0, 119, 40), (100, 90, 20, 30)]
)
def test_pixels_are_those_of_pillow_resized(window, mode):
    """Rough images with halved colour channels, on which decoders could differ."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (120, 170, 3), "uint8")).convert(mode)
    file, size = jpeg(noise, quality=90), 60
    whole = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    top, left, height, width = window
    expected = bilinear(whole[top : top + height, left : left + width], size)
    draws = np.zeros((1, 0), "float32")
    images, good = decode([file], Window(*window), draws, size)
    assert good.all()
    np.testing.assert_allclose(images[0], expected, rtol=0, atol=1)
    images, good = decode_ops([file], Window(*window), draws, size)
    assert good.numpy().all()
    # At the right edge of a window TensorFlow's decoder lacks the next column's colour.
    images, expected = images[0][:, :-4], expected[:, :-4]
    np.testing.assert_allclose(images, expected, rtol=0, atol=0.51)


@pytest.mark.parametrize("function", [decode, decode_ops])
def test_fast_decoding_gives_nearly_the_same(function):
    files = [jpeg(photo(n), quality=90) for n in range(5)]
    draws = np.random.default_rng(0).random((5, 2), "float32")
    exact, fast = (
        np.array(function(files, ResizedRandomCrop(80), draws, 72, fast)[0], int)
        for fast in (False, True)
    )
    assert 0 < np.abs(exact - fast).mean() < 2


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_large_windows_are_decoded_smaller(ratio):
    """A half, a quarter, an eighth is what libjpeg's Pillow draft mode gives."""
    file, size = jpeg(photo(4), quality=95), 20
    image = Image.open(io.BytesIO(file))
    image.draft("RGB", (560 // ratio, 600 // ratio))
    whole = np.asarray(image)
    assert whole.shape[:2] == (-(-600 // ratio), -(-560 // ratio))
    side = ratio * (size + 3)
    expected = bilinear(
        whole[16 // ratio :, 32 // ratio :][: size + 3, : size + 3], size
    )
    draws = np.zeros((1, 0), "float32")
    refused = file.replace(b"JFIF\0\1", b"JFIF\0\7")  # by simplejpeg
    assert refused != file
    for function, data in ((decode, file), (decode_ops, file), (decode, refused)):
        images, _ = function([data], Window(16, 32, side, side), draws, size)
        np.testing.assert_allclose(images[0], expected, rtol=0, atol=1)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_sides_that_do_not_divide_are_rounded_up(ratio):
    file = jpeg(photo(4).resize((683, 509)), quality=95)
    refused = file.replace(b"JFIF\0\1", b"JFIF\0\7")  # by simplejpeg
    whole, by_pillow = (decode_jpeg(data, ratio) for data in (file, refused))
    assert whole.shape == (-(-509 // ratio), -(-683 // ratio), 3)
    np.testing.assert_allclose(whole.astype(int), by_pillow, rtol=0, atol=1)


@pytest.mark.parametrize("size, resized_to", [(28, 32), (224, 256), (288, 329)])
def test_evaluation_takes_the_same_share_of_the_image_at_any_size(
    dataset, size, resized_to
):
    (some, *_), (expected, *_) = (
        eval_batches(dataset, 2, size, crop) for crop in (None, CenterCrop(resized_to))
    )
    np.testing.assert_array_equal(some.images, expected.images)


def test_arguments_that_cannot_be():
    dataset = [0] * 10
    with pytest.raises(ValueError, match="Received: 10 images"):
        EncodedStream(dataset, 11)
    with pytest.raises(ValueError, match="epoch 0"):
        EncodedStream(dataset, 2, image_sizes={1: 16})
    with pytest.raises(ValueError, match="Received: 300"):
        EncodedStream(dataset, 2, image_sizes=300)
    with pytest.raises(ValueError, match="Received: 'pillow'"):
        EncodedStream(dataset, 2, decoder="pillow")


def test_a_service_is_for_images_on_disk():
    images = np.zeros((4, 8, 8, 3), "uint8")
    in_memory = MemoryDataset(images, np.arange(4), tuple("abcd"))
    with pytest.raises(ValueError, match="in memory"):
        in_memory.stream(2, service="grpc://x:1")


def test_batches_that_arrive_early_wait_and_lost_ones_are_an_error():
    items = in_order([4, 3, 5, 7, 6], 3, 8, key=int)
    assert list(items) == [3, 4, 5, 6, 7]
    with pytest.raises(RuntimeError, match="step 5"):
        list(in_order([3, 4, 6], 3, 7, key=int))
    with pytest.raises(RuntimeError, match="step 0"):
        list(in_order(range(1, 1000), 0, 1000, key=int))


@pytest.fixture
def service():
    """Address of a tf.data service with two workers."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVERS],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_a_service_of_two_workers_gives_the_same_batches(service, dataset):
    def stream(**options):
        crops = [RandomResizedCrop(), random_flip()]
        return EncodedStream(
            dataset, 4, crops, 16, seed=5, worker=1, workers=2, **options
        )

    served = list(stream(service=service).batches(3, 33))
    assert len(served) == 30
    own = stream(decoder="tensorflow").batches(3, 33)
    for one, other in zip(served, own, strict=True):
        same(one, other)
