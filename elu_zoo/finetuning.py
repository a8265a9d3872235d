"""Fine-tuning: freezing, and training in two stages."""

import dataclasses
import numbers
import os
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt

from elu_zoo import _stages
from elu_zoo.errors import UserError
from elu_zoo.feature_extraction import find_trunk, stack_layers
from elu_zoo.files import check_writable
from elu_zoo.heads import check_classifier
from elu_zoo.image_files import Batches, ImageFiles
from elu_zoo.labels import checked_data, class_names_for, class_weights
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

    With `validation_data`, each stage ends with the best weights: those that it started
    from, those of its best epoch, or a mean of both with a quarter, half or three
    quarters of the epoch (Wortsman et al., "Robust fine-tuning of zero-shot models",
    2022). The best have the lowest held-out cross-entropy after temperature scaling
    (Guo et al., 2017). Without `validation_data`, the model ends with the weights of
    the last epoch.

    Args:
        model: Keras model that gives probabilities or logits, such as
            `ELUNet11(weights="cifar100", classes=5)`, or one that contains a network of
            this package. It is trained in place, and stays compiled and frozen as in
            its last stage.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255, or
            an `elu_zoo.image_files.ImageFiles`, which is decoded batch by batch.
        labels: Integer array of shape `(n,)`, or class names.
        validation_data: Optional held-out `(images, labels)` to choose the weights by.
        class_names: Names of the classes, in the order of their numbers; default those
            of the model's record.
        epochs: Epochs of the two stages; 0 skips a stage.
        learning_rate: Peak learning rates of the two stages.
        rate_decay: Ratio of a stack's learning rate to that of the next stack, in the
            second stage; 1 trains all stacks at the same rate. See
            `elu_zoo.optimizers.LayerwiseAdam`.
        batch_size: Images per step; the last batch of an epoch may be smaller.
        augment: Whether to flip images at random and shift them by up to an eighth of
            their sides.
        class_weight: Optional loss factors per class: a dict from class numbers or
            names, or `"balanced"` to give all classes the same total weight.
        patience: Number of epochs without a lower `val_calibrated_loss` after which a
            stage ends early.
        callbacks: Keras callbacks for both stages. The second stage continues the
            epoch count of the first. With `validation_data`, the metrics of an epoch
            include `val_accuracy`, `val_loss` and `val_calibrated_loss`.
        checkpoint: Path of a file for the state after each epoch. If the file exists,
            the run resumes from it and ends with the same weights as a run without an
            interruption. The file is kept; delete it to start over.
        seed: Seed of the order and the augmentation of the images.
        verbose: As in `keras.Model.fit`.

    Returns:
        A dict of lists, one value per epoch, as in Keras's `History.history`. Its
        `"stage"` is the number of the stage, and its `"kept"` whether the model ends
        with the epoch's weights, or with a mean that they are part of. Its attributes
        `start` and `end` are the held-out metrics before and after the training; `end`
        has the `share` of the epoch in a mean.

    Raises:
        UserError: If the arguments do not fit each other or the model, or if the
            checkpoint belongs to a different run.
        OSError: If the checkpoint cannot be written.
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
    counts = [int(count) for count in counts]
    rates = _pair("learning_rate", learning_rate, lambda rate: rate >= 0, "0 or more")
    _check_whole("batch_size", batch_size)
    if not isinstance(seed, numbers.Integral) or seed < 0:
        raise UserError(
            f"Expected seed to be a whole number of 0 or more. Received: seed={seed!r}"
        )
    _check_patience(patience, validation_data)
    check_classifier(model)
    names = class_names_for(model, class_names)
    images, labels = checked_data(model, images, labels, names)
    batches = Batches(images, labels, batch_size, seed, augment)
    held_out = validation_data and Batches(
        *checked_data(model, *validation_data, names), batch_size
    )
    weights = class_weights(class_weight, labels, names, model.output_shape[-1])
    record = record_of(model)
    settings = {
        "model": record.name if record else "",
        "size": list(images.shape[1:]),
        "epochs": counts,
        "learning_rate": rates,
        "rate_decay": rate_decay,
        "batch_size": batch_size,
        "augment": augment,
        "class_weight": weights and sorted(weights.items()),
        "patience": patience,
        "seed": seed,
        "images": [*_sums(labels), _name_sum(images)],
        "held_out": held_out and _sums(held_out.labels),
        "shapes": zlib.crc32(repr([v.shape for v in model.variables]).encode()),
    }
    stack_factors(model, rate_decay)  # Checks it.
    if checkpoint is not None:
        check_writable(pathlib.Path(checkpoint).parent)
    state, live = _stages.load(checkpoint, settings)
    # Only now, because a call that is refused must leave the record as it was.
    _renew_record(model, names)
    _note_size(model, images.shape[1:3])
    while state.stage < len(counts):
        if count := counts[state.stage]:
            steps = count * len(batches)
            _compile(model, state.stage, rates[state.stage], rate_decay, steps)
            _begin(model, state, live, held_out)
            measured = [_stages.Measurement(held_out)] if held_out else []
            recorder = _stages.Recorder(state, batches, patience, checkpoint)
            _fit(
                model,
                state,
                count,
                batches,
                class_weight=weights,
                callbacks=[*measured, *callbacks, recorder],
                verbose=verbose,
            )
        _stages.end_stage(state, model, held_out)
        live = {}
    return _stages.History(state)


def _fit(
    model: keras.Model, state: _stages.State, count: int, batches: Batches, **how: Any
) -> None:
    """Trains the epochs that a stage has left; frozen weights must stay as they are."""
    fixed = model.non_trainable_variables
    frozen = list(zip(fixed, _stages.copies(fixed), strict=True))
    if not state.stopped and len(state.rows) < state.first + count:
        model.fit(
            batches,
            initial_epoch=len(state.rows),
            epochs=state.first + count,
            shuffle=False,  # `Batches` shuffles, by seed and epoch.
            **how,
        )
    _check_unmoved(frozen)


def _sums(labels: np.ndarray) -> list[int]:
    """The number of labels and their checksum."""
    return [len(labels), zlib.crc32(labels.tobytes())]


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
        state.start = _stages.measure(model, held_out)
        state.kept = state.start | {"epoch": 0}
        state.weights["kept"] = _stages.copies(model.variables)


def _check_unmoved(frozen: list[tuple[keras.Variable, np.ndarray]]) -> None:
    for variable, before in frozen:
        if "seed_generator" not in variable.path and "moving_" not in variable.path:
            if not np.array_equal(keras.ops.convert_to_numpy(variable), before):
                raise RuntimeError(f"The frozen weight {variable.path} changed.")


def _check_patience(patience: int | None, validation_data: Any) -> None:
    if patience is None:
        return
    _check_whole("patience", patience)
    if validation_data is None:
        raise UserError(
            "Expected validation_data, whose loss patience watches. Received: "
            f"patience={patience}, validation_data=None"
        )


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


def _renew_record(model: keras.Model, names: list[str] | None) -> None:
    """Puts the class names into the record, and drops what was measured."""
    record = record_of(model)
    if record is None:
        return
    arguments = dict(record.arguments)
    if "classes" in arguments:
        arguments["classes"] = model.output_shape[-1]
    new = record.unmeasured(arguments=arguments, class_names=tuple(names or ()))
    attach_record(model, new)


def _note_size(model: keras.Model, size: tuple[int, int]) -> None:
    """Puts the size of the training images into the record, if the model takes any."""
    record, (height, width) = record_of(model), size
    if record and height == width and model.input_shape[1:3] == (None, None):
        how = record.preprocessing
        how = how.scaled(height) if how else Preprocessing(height, height)
        attach_record(model, dataclasses.replace(record, preprocessing=how))
