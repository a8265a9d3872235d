"""Batch prediction: one worker that decodes and predicts, for many engines."""

from __future__ import annotations

import codecs
import collections
import concurrent.futures
import dataclasses
import functools
import glob
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from elu_zoo._precision import DTYPES, with_dtype
from elu_zoo.errors import ImageError, UserError
from elu_zoo.image_folders import find_images
from elu_zoo.images import load_image, preprocessing_of

if TYPE_CHECKING:
    import keras

_AHEAD = 4
"""Number of batches that are being read or computed while the caller has one."""

_READ_AT_ONCE = 8
"""Images that a thread reads per task, because each task has an overhead."""

_Source = str | os.PathLike[str] | bytes
"""An image: the path of a file, or its encoded bytes."""


class Predictor:
    """Classifies batches of image files, or of their bytes.

    Ray Data's `map_batches` takes it as a class; Spark's `predict_batch_udf` and Beam's
    `Map` take an instance (see docs/predicting.md). The first call loads the model. A
    pickled instance does not contain it: each process loads its own. Threads decode on
    all cores while the network computes.

    Args:
        model: Name of pretrained weights, path of a `.keras` file, or path of a folder
            that `elu-zoo finetune` wrote.
        top: Number of classes per answer, at most those that the model has.
        embeddings: Optional name of a stack, such as `"stack6"`, or `"last"`: answers
            are then the stack's outputs, as vectors, instead of classes. Feature maps
            are averaged over the image.
        resize: Side in pixels, for models that take images of any size.
        batch_size: Images per batch of the network.
        threshold: Probability below which the first class is `"none of these"`, without
            further classes; default the threshold of the model's record.
        dtype: Precision to compute in, `"float32"` or `"bfloat16"`; default the
            model's own. Processors and GPUs with instructions for bfloat16 are faster
            with it.

    Raises:
        UserError: If `top` is less than 1, `threshold` is not from 0 to 1, or `dtype`
            is neither of the two; at the first call, if there is no such model or
            stack.

    Example:

    >>> predict = Predictor("elunet11.cifar100", top=3)
    >>> answer = predict({"path": np.array(["no.jpg"])})
    >>> answer["classes"].shape, answer["error"][0].split()[0]
    ((1, 3), 'Expected')
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "elunet11.cifar100",
        *,
        top: int = 5,
        embeddings: str | None = None,
        resize: int | None = None,
        batch_size: int = 64,
        threshold: float | None = None,
        dtype: str | None = None,
    ) -> None:
        from elu_zoo.predictions import threshold_of

        for name, count in (("top", top), ("batch_size", batch_size)):
            if count < 1:
                raise UserError(
                    f"Expected {name} to be 1 or more. Received: {name}={count!r}"
                )
        threshold_of(None, threshold)
        if dtype not in (None, *DTYPES):
            raise UserError(
                f"Expected dtype to be one of {DTYPES}. Received: dtype={dtype!r}"
            )
        self.model, self.top, self.embeddings = os.fspath(model), top, embeddings
        self.resize, self.batch_size, self.threshold = resize, batch_size, threshold
        self.dtype = dtype

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_loaded"}

    def __call__(
        self, batch: dict[str, Any] | Sequence[_Source] | np.ndarray
    ) -> dict[str, Any]:
        """Classifies a batch.

        Args:
            batch: Dict of arrays of the same length with `"bytes"` (encoded images) or
                `"path"` (strings); other columns are passed through. Or an array or a
                list of either: `bytes` are encoded images, strings are paths.

        Returns:
            The columns of `batch` except `"bytes"`, and three more: `"classes"`, an
            array of strings of shape `(n, top)`, the most probable first;
            `"probabilities"`, float32 of the same shape; and `"error"`, an array of
            shape `(n,)`, `None` for images and a message for everything else, which has
            empty names and zeros. If no class reaches the threshold, the first name is
            "none of these", with the highest probability. With `embeddings`,
            `"vector"`, float32 of shape `(n, units)`, replaces the first two.

        Raises:
            UserError: If a dict has neither `"bytes"` nor `"path"`.
        """
        kept: dict[str, Any] = {}
        sources: Iterable[_Source]
        if isinstance(batch, dict):
            kept = {name: batch[name] for name in batch if name != "bytes"}
            if "bytes" in batch:
                sources = [bytes(item) for item in batch["bytes"]]
            elif "path" in batch:
                sources = [os.fsdecode(path) for path in batch["path"]]
            else:
                raise UserError(
                    "Expected a column 'bytes' or 'path'. Received: columns "
                    f"{sorted(batch)}"
                )
        else:
            sources = batch
        parts = list(self.stream(sources)) or [self._answer([])]
        return kept | {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }

    def stream(self, sources: Iterable[_Source]) -> Iterator[dict[str, np.ndarray]]:
        """Classifies any number of images in the memory of a few batches.

        Args:
            sources: Paths, or encoded images as `bytes`.

        Yields:
            The columns that `__call__` adds, for `batch_size` images at a time, in
            order.
        """
        at_once = self._loaded.batches_at_once
        rest = iter(sources)
        pending: collections.deque[Future[dict[str, np.ndarray]]] = collections.deque()
        with (
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as readers,
            concurrent.futures.ThreadPoolExecutor(at_once) as networks,
        ):
            try:
                while batch := list(itertools.islice(rest, self.batch_size)):
                    parts = (
                        batch[i : i + _READ_AT_ONCE]
                        for i in range(0, len(batch), _READ_AT_ONCE)
                    )
                    read = [readers.submit(self._read_some, part) for part in parts]
                    pending.append(networks.submit(self._answer, read))
                    if len(pending) > _AHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                networks.shutdown(wait=False, cancel_futures=True)

    @functools.cached_property
    def _loaded(self) -> _Loaded:
        from elu_zoo.heads import gives_pixels

        model, class_names, preprocessing = _load(self.model, self.resize)
        network = model
        if self.dtype:
            network = with_dtype(network, self.dtype)
        if self.embeddings:
            network = _vectors(network, self.embeddings)
        elif gives_pixels(model):
            raise UserError(
                f"Expected a classifier. Received: {self.model}, which reconstructs "
                "its images; its codes are the embeddings of 'stack1'."
            )
        # Before the threads that call it.
        network.make_predict_function()
        return _Loaded(
            network,
            np.array(class_names, object),
            functools.partial(_image, preprocessing, model.input_shape[-1]),
            model,
            _batches_at_once(),
        )

    def _read_some(self, sources: list[_Source]) -> list[np.ndarray | str]:
        return [self._read(source) for source in sources]

    def _read(self, source: _Source) -> np.ndarray | str:
        try:
            return self._loaded.read(source)
        except ImageError as error:
            return str(error)

    def _answer(
        self, futures: list[Future[list[np.ndarray | str]]]
    ) -> dict[str, np.ndarray]:
        """The columns of images that threads are reading."""
        read = list(itertools.chain.from_iterable(f.result() for f in futures))
        errors = [item if isinstance(item, str) else None for item in read]
        valid = np.array([error is None for error in errors], bool)
        values = np.zeros((len(read), self._loaded.network.output_shape[-1]), "float32")
        if valid.any():
            images = np.stack([item for item in read if not isinstance(item, str)])
            # A network is compiled for each shape, so there are few.
            padded = np.zeros((_rows(len(read)), *images.shape[1:]), "float32")
            padded[: len(read)][valid] = images
            outputs = self._loaded.network.predict_on_batch(padded)
            values[valid] = outputs[: len(read)][valid]
        columns = {"vector": values} if self.embeddings else self._best(values, valid)
        return columns | {"error": np.array(errors, object)}

    def _best(self, values: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
        from elu_zoo.predictions import NONE, probabilities, threshold_of

        values = probabilities(values, self._loaded.model).astype("float32")
        best = np.argsort(-values, axis=1, kind="stable")[:, : self.top]
        scores = np.take_along_axis(values, best, axis=1)
        none = scores[:, 0] < threshold_of(self._loaded.model, self.threshold)
        answered = np.repeat(valid[:, None], best.shape[1], axis=1)
        answered[none, 1:] = False
        classes = self._loaded.class_names[best]
        classes[none, 0] = NONE
        return {
            "classes": np.where(answered, classes, ""),
            "probabilities": np.where(answered, scores, np.float32(0)),
        }


def predict_on_ray(
    paths: Sequence[str], predictor: Predictor, workers: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Classifies files on a Ray cluster.

    Uses the cluster of `RAY_ADDRESS`, or starts Ray on this machine. A worker that dies
    is restarted elsewhere, and its unfinished batches are computed again.

    Args:
        paths: Paths of files that every machine can read.
        predictor: What the workers compute.
        workers: Number of workers; default one per machine.

    Yields:
        Columns as from `Predictor.stream`, for several images at a time, in order.

    Raises:
        UserError: If Ray Data is not installed.

    Example:

    >>> predict = Predictor("elunet11.cifar100")
    >>> for rows in predict_on_ray(["a.jpg", "b.jpg"], predict):  # doctest: +SKIP
    ...     print(rows["path"], rows["classes"][:, 0])
    """
    try:
        import ray.data
    except ImportError as error:
        raise UserError(
            "Expected Ray Data to be installed: pip install 'elu-zoo[ray]'. "
            f"Received: {error}"
        ) from error
    if not ray.is_initialized():
        _start_ray()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [machine["CPU"] for machine in resources if "CPU" in machine]
    workers = workers or len(cpus)
    # Arrow's strings are UTF-8, which file names need not be: their bytes are sent.
    data = ray.data.from_items([{"path": os.fsencode(path)} for path in paths])
    answers = data.map_batches(
        Predictor,
        fn_constructor_kwargs=predictor.__getstate__(),
        batch_size=4 * predictor.batch_size,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=workers, initial_size=workers
        ),
        num_cpus=max(1, min([*cpus, sum(cpus) // workers])),
    )
    for columns in answers.iter_batches(batch_size=4 * predictor.batch_size):
        # Arrow's missing strings come back as NaN.
        errors = [e if isinstance(e, str) else None for e in columns["error"]]
        yield columns | {"error": np.array(errors, object)}


def _start_ray() -> None:
    """Starts Ray, or connects to its cluster, without its messages of progress."""
    import ray

    from elu_zoo._stderr import held_stderr

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.ERROR)
    with held_stderr():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)


def find_paths(names: Iterable[str]) -> list[str]:
    """Finds the files that a command line names.

    Args:
        names: Paths of files; paths of folders, for all images in them and their
            subfolders; patterns such as `"photos/**/*.jpg"`; `"@FILE"` for the paths in
            a file, one per line; and `"-"` for those on the standard input.

    Returns:
        A list of paths. A file that was named by its own path need not exist.

    Raises:
        UserError: If a pattern matches no file, a folder has no image, or a list is
            empty.
        OSError: If a list cannot be read.

    Example:

    >>> find_paths(["camel.png", "rocket.png"])
    ['camel.png', 'rocket.png']
    """
    return list(itertools.chain.from_iterable(map(_found, names)))


def _found(name: str) -> list[str]:
    if name == "-":
        found = _lines(sys.stdin.buffer)
    elif name.startswith("@"):
        with open(name[1:], "rb") as file:
            found = _lines(file)
    elif os.path.isdir(name):
        found = [str(path) for path in find_images(name)]
    elif glob.has_magic(name) and not os.path.exists(name):
        matches = sorted(glob.glob(name, recursive=True))
        found = [match for match in matches if os.path.isfile(match)]
    else:
        return [name]
    if not found:
        raise UserError(f"Expected images. Received: {name}, where there are none")
    return found


def _lines(file: BinaryIO) -> list[str]:
    # Editors on Windows begin a file with a byte-order mark.
    lines = file.read().removeprefix(codecs.BOM_UTF8).splitlines()
    return [os.fsdecode(line) for line in lines if line]


@dataclasses.dataclass(frozen=True)
class _Loaded:
    network: Any
    class_names: np.ndarray
    read: Callable
    model: Any
    batches_at_once: int


def _image(preprocessing: dict[str, Any], channels: int, source: _Source) -> np.ndarray:
    return load_image(source, channels, **preprocessing)


def _rows(images: int) -> int:
    """Rows of the array for a number of images: the next power of two."""
    return 1 << (images - 1).bit_length()


def _batches_at_once() -> int:
    """Batches to compute at the same time; two fill the cores better than one.

    Keras allows more than one thread with TensorFlow only.
    """
    import keras

    return 2 if keras.backend.backend() == "tensorflow" else 1


def _load(
    source: str, resize: int | None
) -> tuple[keras.Model, list[str], dict[str, Any]]:
    from elu_zoo.models import load
    from elu_zoo.records import class_names_of

    model = load(source)
    return model, list(class_names_of(model)), preprocessing_of(model, resize)


def _vectors(model: keras.Model, stack: str) -> keras.Model:
    """A network from images to the outputs of a stack, averaged over the image."""
    import keras

    from elu_zoo.feature_extraction import features, stack_layers

    if stack == "last":
        stack = list(stack_layers(model))[-1]
    output = features(model, [stack]).output[stack]
    if len(output.shape) == 4:
        output = keras.layers.GlobalAveragePooling2D(data_format="channels_last")(
            output
        )
    return keras.Model(model.input, output)
