"""Fine-tuning: freezing, output layers for new classes, training in two stages."""

import dataclasses
import numbers
import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt

from elu_zoo import _stages, records
from elu_zoo._hub import is_address
from elu_zoo._names import check_class_names
from elu_zoo.errors import UserError
from elu_zoo.feature_extraction import find_trunk, stack_layers
from elu_zoo.image_files import Batches, ImageFiles
from elu_zoo.optimizers import LayerwiseAdam, stack_factors
from elu_zoo.predictions import gives_logits
from elu_zoo.records import Preprocessing, attach_record, record_of


def freeze(model: keras.Model, stacks: int | None = None) -> int:
    """Freezes the trunk of a network, or part of it.

    Compile the model afterwards: that is when Keras decides what to train. Nothing else
    needs care: without normalization layers, a frozen layer computes the same in
    training and in inference.

    Args:
        model: Keras model made by a model function of `elu_zoo`, or one that contains
            it, such as `Sequential([trunk, Dense(5)])`.
        stacks: Number of stacks to freeze, counted from the input; 0 freezes none.
            Default: all, so that only the output layer is trained.

    Returns:
        The number of parameters that remain trainable.

    Raises:
        UserError: If the model has no stacks, or fewer than `stacks`.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=5, width=0.1)
    >>> freeze(model)
    155
    >>> freeze(model, stacks=0) == model.count_params() - 6
    True
    """
    named = list(stack_layers(find_trunk(model)).values())
    if stacks is None:
        stacks = len(named)
    if stacks not in range(len(named) + 1):
        raise UserError(
            f"Expected the number of stacks to freeze, from 0 to {len(named)}. "
            f"Received: stacks={stacks!r}"
        )
    # The output layer, or the whole model, may have been frozen before.
    for layer in (model, *model.layers):
        layer.trainable = True
    for number, layers in enumerate(named, start=1):
        for layer in layers:
            layer.trainable = number > stacks
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def with_classes(
    model: keras.Model, class_names: Sequence[str], known_names: Sequence[str] = ()
) -> keras.Model:
    """Gives a network an output layer for other classes.

    Classes that the network already knows keep their weights, so that training starts
    from what it can do; see `start_head`.

    Args:
        model: Keras model made by a model function of `elu_zoo`. Its other layers are
            shared with the result, not copied.
        class_names: Names of the new classes.
        known_names: Names of the model's own classes, in the order of its outputs.

    Returns:
        A functional `keras.Model`.

    Raises:
        UserError: If the model has no layer `"predictions"`.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=3, width=0.05)
    >>> with_classes(model, ["cat", "dog"], ["ant", "bee", "cat"]).output_shape
    (None, 2)
    """
    layers = [layer.name for layer in model.layers]
    if "predictions" not in layers:
        raise UserError(
            "Expected a model of elu_zoo with an output layer named 'predictions'. "
            f"Received: {model!r}, whose last layer is {layers[-1:]}"
        )
    old, *rest = model.layers[layers.index("predictions") :]
    head = keras.layers.Dense.from_config(
        old.get_config() | {"units": len(class_names)}
    )
    outputs = head(old.input)
    for layer in rest:
        outputs = type(layer).from_config(layer.get_config())(outputs)
    kernel, bias = old.get_weights()
    start_head(head, kernel, bias, known_names, class_names)
    return keras.Model(model.input, outputs, name=model.name)


def start_head(
    head: keras.layers.Dense,
    kernel: np.ndarray,
    bias: np.ndarray,
    known_names: Sequence[str],
    class_names: Sequence[str],
) -> int:
    """Initializes an output layer from another one, where their class names match.

    The other classes keep random weights, scaled to match the copied ones.

    Args:
        head: Output layer for `class_names`, changed in place.
        kernel: Kernel of the other layer, of shape `(units, known classes)`.
        bias: Bias of the other layer, of shape `(known classes,)`.
        known_names: Class names of the other layer.
        class_names: Class names of `head`. Names match regardless of case, and of
            whether spaces, hyphens or underscores join their words.

    Returns:
        The number of classes whose weights were copied.

    Example:

    >>> head = keras.layers.Dense(2)
    >>> head.build((None, 3))
    >>> start_head(head, np.eye(3), np.arange(3), ["ox", "sea_lion", "cat"],
    ...            ["dog", "Sea lion"])
    1
    >>> kernel, bias = head.get_weights()
    >>> kernel[:, 1], bias[1]
    (array([0., 1., 0.], dtype=float32), np.float32(1.0))
    """
    places = {_plain(name): place for place, name in enumerate(known_names)}
    new = [n for n, name in enumerate(class_names) if _plain(name) in places]
    if not new:
        return 0
    old = [places[_plain(class_names[n])] for n in new]
    kernels, biases = map(np.array, head.get_weights())
    kernels *= kernel[:, old].std() / kernels.std()
    kernels[:, new] = kernel[:, old]
    biases[:] = bias[old].mean()
    biases[new] = bias[old]
    head.kernel.assign(kernels)
    head.bias.assign(biases)
    return len(new)


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")


def finetune(
    model: keras.Model,
    images: np.ndarray | ImageFiles,
    labels: npt.ArrayLike,
    validation_data: tuple[np.ndarray | ImageFiles, npt.ArrayLike] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    epochs: tuple[int, int] = (5, 10),
    learning_rate: tuple[float, float] = (3e-3, 3e-4),
    rate_decay: float = 0.7,
    batch_size: int = 32,
    augment: bool = True,
    class_weight: Mapping[int | str, float] | Literal["balanced"] | None = None,
    patience: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: str | int = "auto",
) -> _stages.History:
    """Trains the output layer alone, then the whole network at a lower rate.

    Each stage is a call of Keras's `fit` with Adam and a cosine schedule. The first
    keeps the random output layer from spoiling the pretrained ones. The default rates
    and epochs did best on average over the two tasks of
    docs/results/transfer_candidates.csv.

    With `validation_data`, the model ends with its best weights. Each stage keeps the
    epoch with the lowest held-out loss, and the second stage starts from the one that
    the first kept. A stage replaces what it started from if its held-out loss is lower;
    but if the held-out accuracies differ by more than their standard error, and more
    than half a point, the accuracy decides. Without `validation_data`, the model ends
    with the weights of the last epoch.

    Args:
        model: Keras model that gives probabilities or logits, such as
            `ELUNet11(weights="cifar100", classes=5)`, or one that contains a network of
            this package. It is trained in place, and stays compiled and frozen as in
            its last stage.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255, or
            an `elu_zoo.image_files.ImageFiles`, which is decoded batch by batch.
        labels: Integer array of shape `(n,)`, or class names.
        validation_data: Optional held-out `(images, labels)` to choose the epoch by.
        class_names: Names of the classes, in the order of their numbers; default those
            of the model's record.
        epochs: Epochs of the two stages; 0 skips a stage.
        learning_rate: Peak learning rates of the two stages.
        rate_decay: Factor between the second stage's learning rates of a stack and of
            the stack before it; 1 trains all stacks at the same rate. See
            `elu_zoo.optimizers.LayerwiseAdam`.
        batch_size: Images per step; the last batch of an epoch may be smaller.
        augment: Whether to flip images at random and shift them by up to an eighth of
            their sides.
        class_weight: Optional loss factors per class: a dict from class numbers or
            names, or `"balanced"` to give all classes the same total weight.
        patience: Number of epochs without a lower held-out loss after which a stage
            ends early.
        callbacks: Keras callbacks for both stages. The second stage continues the
            epoch count of the first.
        checkpoint: Path of a file for the state after each epoch. If the file exists,
            the run resumes from it and ends with the same weights as a run without an
            interruption. The file is kept; delete it to start over.
        seed: Seed of the order and the augmentation of the images.
        verbose: As in `keras.Model.fit`.

    Returns:
        A dict of lists, one value per epoch, as in Keras's `History.history`. Its
        `"stage"` is the number of the stage, its `"kept"` whether the epoch's weights
        were kept, and its attribute `start` the held-out metrics before training.

    Raises:
        UserError: If the arguments do not fit each other or the model, or if the
            checkpoint belongs to a different run.
        RuntimeError: If a frozen weight changed.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=2, width=0.05)
    >>> images = np.zeros((8, 32, 32, 3), "uint8")
    >>> history = finetune(model, images, np.arange(8) % 2, epochs=(1, 1), verbose=0)
    >>> history["stage"]
    [1, 2]
    """
    counts = _pair("epochs", epochs, lambda n: n == int(n) and n >= 0, "0 or more")
    rates = _pair("learning_rate", learning_rate, lambda rate: rate >= 0, "0 or more")
    _check_whole("batch_size", batch_size)
    if patience is not None:
        _check_whole("patience", patience)
        if validation_data is None:
            raise UserError(
                "Expected validation_data, whose loss patience watches. Received: "
                f"patience={patience}, validation_data=None"
            )
    names = _names(model, class_names)
    _renew_record(model, names)
    images, labels = checked_data(model, images, labels, names)
    _note_size(model, images.shape[1:3])
    batches = Batches(images, labels, batch_size, seed, augment)
    held_out = validation_data and Batches(
        *checked_data(model, *validation_data, names), batch_size
    )
    weights = _class_weights(class_weight, labels, names, model.output_shape[-1])
    settings = {
        "epochs": counts,
        "learning_rate": rates,
        "rate_decay": rate_decay,
        "batch_size": batch_size,
        "augment": augment,
        "class_weight": weights and sorted(weights.items()),
        "patience": patience,
        "seed": seed,
        "images": [len(labels), zlib.crc32(labels.tobytes()), _name_sum(images)],
        "held_out": held_out
        and [len(held_out.labels), zlib.crc32(held_out.labels.tobytes())],
        "shapes": zlib.crc32(repr([v.shape for v in model.variables]).encode()),
    }
    state, live = _stages.load(checkpoint, settings)
    while state.stage < len(counts):
        count = counts[state.stage]
        if count:
            steps = count * len(batches)
            _compile(model, state.stage, rates[state.stage], rate_decay, steps)
            _begin(model, state, live, held_out)
            fixed = model.non_trainable_variables
            frozen = list(zip(fixed, _stages.copies(fixed), strict=True))
            if not state.stopped and len(state.rows) < state.first + count:
                recorder = _stages.Recorder(state, batches, patience, checkpoint)
                # `Batches` shuffles, by seed and epoch.
                model.fit(
                    batches,
                    initial_epoch=len(state.rows),
                    epochs=state.first + count,
                    validation_data=held_out,
                    class_weight=weights,
                    callbacks=[*callbacks, recorder],
                    verbose=verbose,
                    shuffle=False,
                )
            _check_unmoved(frozen)
        _stages.end_stage(state, model)
        live = {}
    return _stages.History(state)


def _name_sum(images: np.ndarray | ImageFiles) -> int:
    """A checksum of the files' names that does not depend on where the folder is."""
    names = ["/".join(path.parts[-2:]) for path in getattr(images, "paths", [])]
    return zlib.crc32("\n".join(names).encode(errors="surrogateescape"))


def _compile(
    model: keras.Model, stage: int, rate: float, rate_decay: float, steps: int
) -> None:
    freeze(model, None if stage == 0 else 0)
    model.compile(
        LayerwiseAdam(
            keras.optimizers.schedules.CosineDecay(rate, steps),
            stack_factors(model, rate_decay),
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits(model)),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    # TensorFlow traces a step that creates variables twice, which takes seconds.
    model.optimizer.build(model.trainable_variables)


def _begin(
    model: keras.Model,
    state: _stages.State,
    live: dict[str, list[np.ndarray]],
    held_out: Batches | None,
) -> None:
    """Resumes a stage, or measures the model before the first one."""
    if live:
        _stages.assign(model.variables, live["model"])
        _stages.assign(model.optimizer.variables, live["optimizer"])
    elif held_out and not state.kept:
        found = model.evaluate(held_out, verbose=0, return_dict=True)
        state.start = {f"val_{name}": float(x) for name, x in found.items()}
        state.kept = state.start | {"epoch": 0}
        state.weights["kept"] = _stages.copies(model.variables)


def _check_unmoved(frozen: list[tuple[keras.Variable, np.ndarray]]) -> None:
    for variable, before in frozen:
        if "seed_generator" not in variable.path and "moving_" not in variable.path:
            if not np.array_equal(keras.ops.convert_to_numpy(variable), before):
                raise RuntimeError(f"The frozen weight {variable.path} changed.")


def _pair(
    name: str, values: Any, accepts: Callable[[Any], bool], what: str
) -> list[Any]:
    good = isinstance(values, list | tuple) and len(values) == 2
    if not good or not all(isinstance(n, numbers.Real) and accepts(n) for n in values):
        raise UserError(
            f"Expected {name} to be two numbers, each {what}: for the output layer "
            f"alone and for the whole network. Received: {name}={values!r}"
        )
    return list(values)


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, numbers.Integral) or value < 1:
        raise UserError(
            f"Expected {name} to be a whole number of 1 or more. Received: "
            f"{name}={value!r}"
        )


def _names(model: keras.Model, class_names: Sequence[str] | None) -> list[str] | None:
    classes = model.output_shape[-1]
    if class_names is None:
        record = record_of(model)
        names = list(record.class_names) if record else []
        return names if len(names) == classes else None
    names = [str(name) for name in class_names]
    if len(names) != classes or len(set(names)) != classes:
        raise UserError(
            f"Expected {classes} different class names, one per output of the model. "
            f"Received: class_names={names}"
        )
    check_class_names(names)
    return names


def checked_data(
    model: keras.Model,
    images: np.ndarray | ImageFiles,
    labels: npt.ArrayLike,
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray | ImageFiles, np.ndarray]:
    """Checks that images and labels fit a model.

    Args:
        model: Keras model.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255, or
            `ImageFiles`.
        labels: Array of shape `(n,)`: class numbers, or names from `class_names`.
        class_names: Optional names of the classes.

    Returns:
        The images, not copied, and the labels as an integer array.

    Raises:
        UserError: If they do not fit each other or the model.
    """
    images = images if hasattr(images, "shape") else np.asarray(images)
    labels, classes = np.asarray(labels), model.output_shape[-1]
    if labels.shape != (len(images),) or not len(images):
        raise UserError(
            "Expected one label per image, and at least one image. Received: "
            f"{len(images)} images, labels of shape {labels.shape}"
        )
    _check_images(model, images)
    if labels.dtype.kind in "UO":
        labels = _numbers_of(labels, class_names)
    if labels.dtype.kind not in "iuf" or np.any(labels != labels.astype(int)):
        raise UserError(
            "Expected labels to be class numbers, or names from class_names. Received: "
            f"labels of {labels.dtype}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"Expected labels from 0 to {classes - 1}, the model's classes. "
            f"Received: {labels.min()} to {labels.max()}"
        )
    return images, labels.astype(int)


def _check_images(model: keras.Model, images: np.ndarray | ImageFiles) -> None:
    shape = model.input_shape[1:]
    fits = len(images.shape) == len(shape) + 1 and all(
        side in (None, received)
        for side, received in zip(shape, images.shape[1:], strict=True)
    )
    if not fits or images.dtype.kind not in "uif":
        raise UserError(
            f"Expected images as an array of shape (n, {', '.join(map(str, shape))}), "
            f"values from 0 to 255. Received: shape {tuple(images.shape)} of "
            f"{images.dtype}"
        )
    if images.dtype == "uint8":
        return
    parts = [images[i : i + 1000] for i in range(0, len(images), 1000)]
    low = min(float(part.min()) for part in parts)
    high = max(float(part.max()) for part in parts)
    if not (low >= 0 and high <= 255):
        raise UserError(
            f"Expected images with values from 0 to 255. Received: {low:g} to {high:g}"
        )
    if images.dtype.kind == "f" and 0 < high <= 1:
        raise UserError(
            f"Expected images with values from 0 to 255. Received: {low:g} to "
            f"{high:g}. Multiply by 255 if 1 stands for white."
        )


def _numbers_of(labels: np.ndarray, class_names: Sequence[str] | None) -> np.ndarray:
    found = sorted({str(label) for label in labels})
    if class_names is None:
        raise UserError(
            "Expected class_names, in the order of the model's outputs, when labels "
            f"are names. Received: labels {found[:5]}, class_names=None"
        )
    numbers_by_name = {name: number for number, name in enumerate(class_names)}
    if unknown := [name for name in found if name not in numbers_by_name]:
        raise UserError(
            f"Expected labels from class_names={list(class_names)[:5]} ... Received: "
            f"{unknown[:5]}"
        )
    return np.array([numbers_by_name[str(label)] for label in labels])


def _renew_record(model: keras.Model, names: list[str] | None) -> None:
    """Puts the class names into the record, and starts a new output layer by it.

    What was measured before training is dropped from the record.
    """
    record = record_of(model)
    if record is None:
        return
    head = [layer for layer in model.layers if layer.name == "predictions"]
    published = is_address(record.name) or record.name in records.list_weights(
        record.model
    )
    if names and head and published and not record.class_names:
        from elu_zoo.models import load

        # The published output layer, which a model with other classes leaves out.
        old = load(record.name).get_layer("predictions")
        known_names = records.get_record(record.name).class_names
        kernel, bias = old.get_weights()
        start_head(head[0], kernel, bias, known_names, names)
    arguments = dict(record.arguments)
    if "classes" in arguments:
        arguments["classes"] = model.output_shape[-1]
    class_names = tuple(names) if names else record.class_names
    new = record.unmeasured(arguments=arguments, class_names=class_names)
    attach_record(model, new)


def _note_size(model: keras.Model, size: tuple[int, int]) -> None:
    """Puts the size of the training images into the record, if the model takes any."""
    record, (height, width) = record_of(model), size
    if record and height == width and model.input_shape[1:3] == (None, None):
        how = record.preprocessing
        how = how.scaled(height) if how else Preprocessing(height, height)
        attach_record(model, dataclasses.replace(record, preprocessing=how))


def _class_weights(
    class_weight: Mapping[int | str, float] | Literal["balanced"] | None,
    labels: np.ndarray,
    names: list[str] | None,
    classes: int,
) -> dict[int, float] | None:
    """A dict from class numbers to factors, or `None`."""
    if class_weight is None:
        return None
    if class_weight == "balanced":
        counts = np.bincount(labels, minlength=classes)
        return {
            number: len(labels) / (np.count_nonzero(counts) * max(int(count), 1))
            for number, count in enumerate(counts)
        }
    numbers_by_name: dict[Any, int] = {name: n for n, name in enumerate(names or ())}
    weights = dict.fromkeys(range(classes), 1.0)
    for key, factor in dict(class_weight).items():
        number: Any = numbers_by_name.get(key, key)
        if number not in weights or not factor >= 0:
            raise UserError(
                "Expected class_weight to be 'balanced', or factors of 0 or more, by "
                "class number or by name from class_names. Received: "
                f"{key!r}: {factor!r}"
            )
        weights[number] = float(factor)
    return weights


def split_by_class(
    labels: np.ndarray, share: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples at random, holding out the same share of every class.

    Args:
        labels: Integer array of shape `(n,)`.
        share: Share of each class to hold out, between 0 and 1. At least one example
            per class is held out, but never its only one: a warning names the classes
            with a single example.
        seed: Seed of the split.

    Returns:
        Two sorted arrays of indices: the examples to train on, and those held out.

    Raises:
        UserError: If `share` is not between 0 and 1.

    Example:

    >>> split_by_class(np.array([0, 0, 1, 1]), 0.5)[1].shape
    (2,)
    """
    if not 0 < share < 1:
        raise UserError(f"Expected a share between 0 and 1. Received: share={share!r}")
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    single: list[int] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) == 1:
            single.append(int(label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.extend(members[:count])
    if single:
        warnings.warn(
            f"Classes with only one image, which is trained on: {single[:10]}. No "
            "image is held out to measure how well they are learned.",
            stacklevel=2,
        )
    held_out = np.sort(np.array(chosen, int))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
