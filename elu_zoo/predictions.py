"""From a model's outputs to probabilities and class names."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.records import Record, attach_record, class_names_of, record_of
from elu_zoo.weights import get_record, list_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras
    import numpy.typing as npt


NONE = "none of these"
"""The name returned if no class is probable enough."""

TEMPERATURES = (0.1, 10.0)
"""The lowest and the highest temperature that `fit_temperature` returns."""


def decode_predictions(
    preds: npt.ArrayLike,
    top: int = 5,
    model: keras.Model | str | None = None,
    class_names: Sequence[str] | None = None,
    threshold: float | None = None,
) -> list[list[tuple[int, str, float]]]:
    """Decodes the most probable classes of a model's predictions.

    Args:
        preds: Array of shape `(n, classes)`, the outputs of the model.
        top: Number of classes to return per image. Equally probable classes keep their
            order.
        model: The model, or the name of its weights. Its record has the names of the
            classes and the temperature that calibrates the scores. Default: the names
            of the published weights with that many classes, if they all have the same,
            and the scores as they are.
        class_names: Names to use instead, one per class.
        threshold: Score that the most probable class must reach. Default: that of the
            model's record, which is 0 unless it was set.

    Returns:
        One list per image of tuples `(class number, class name, score)`, the most
        probable class first. If the highest score is below the threshold, the list
        holds only `(-1, "none of these", highest score)`.

    Raises:
        UserError: If there are no such weights, if `preds` has a different shape or
            contains NaN, or if the threshold is not between 0 and 1.

    Example:

    >>> decode_predictions(np.array([[0.1, 0.9]]), top=1, class_names=["cat", "dog"])
    [[(1, 'dog', 0.9)]]
    >>> decode_predictions([[0.4, 0.6]], class_names=["cat", "dog"], threshold=0.8)
    [[(-1, 'none of these', 0.6)]]
    """
    preds = np.asarray(preds, "float64")
    if preds.ndim != 2:
        raise UserError(
            "Expected preds of shape (n, classes). "
            f"Received: preds with shape {preds.shape}"
        )
    if class_names is None:
        class_names = _class_names(model, preds.shape[1])
    if preds.shape[1] != len(class_names):
        raise UserError(
            f"Expected preds of shape (n, {len(class_names)}), one column per class. "
            f"Received: preds with shape {preds.shape}"
        )
    if np.isnan(preds).any():
        raise UserError("Expected numbers. Received: preds with NaN")
    if top < 1:
        raise UserError(f"Expected top to be 1 or more. Received: top={top!r}")
    if model is not None:
        preds = probabilities(preds, model)
    threshold = threshold_of(model, threshold)
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(int(i), class_names[i], float(row[i])) for i in order]
        if row[order[0]] >= threshold
        else [(-1, NONE, float(row[order[0]]))]
        for row, order in zip(preds, best, strict=True)
    ]


def threshold_of(model: keras.Model | str | None, threshold: float | None) -> float:
    """Returns the probability that the most probable class must reach.

    Args:
        model: A model, the name of published weights, or `None`.
        threshold: The requested threshold; default that of the model's record.

    Returns:
        A number from 0 to 1.

    Raises:
        UserError: If the threshold is not between 0 and 1.

    Example:

    >>> threshold_of("elunet11.cifar100", None)
    0.0
    """
    if threshold is not None:
        return Record(threshold=threshold).threshold
    record = get_record(model) if isinstance(model, str) else model and record_of(model)
    return record.threshold if record else 0.0


def set_threshold(model: keras.Model, threshold: float | None) -> None:
    """Sets the threshold in the record of a model.

    Args:
        model: A model of `elu_zoo`.
        threshold: As in `decode_predictions`; `None` leaves the record unchanged.

    Raises:
        UserError: If the threshold is not between 0 and 1, or the model has no record.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=2, width=0.05)
    >>> set_threshold(model, 0.4)
    >>> threshold_of(model, None)
    0.4
    """
    if threshold is not None:
        record = dataclasses.replace(get_record(model), threshold=threshold)
        attach_record(model, record)


def probabilities(outputs: npt.ArrayLike, model: keras.Model | str) -> np.ndarray:
    """Calibrates a model's outputs to probabilities, `softmax(logits / temperature)`.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.

    Args:
        outputs: Array of shape `(n, classes)`, the outputs of the model: probabilities,
            or logits if its output layer has no activation.
        model: The model, or the name of published weights, whose outputs are taken as
            probabilities.

    Returns:
        A float64 array of shape `(n, classes)`.

    Example:

    >>> probabilities([[0.5, 0.5]], "elunet11.cifar100").tolist()
    [[0.5, 0.5]]
    """
    outputs = np.asarray(outputs, "float64")
    named = isinstance(model, str)
    record = get_record(model) if named else record_of(model)
    temperature = record.temperature if record else 1.0
    logits = not named and gives_logits(model)
    if not logits:
        return with_temperature(outputs, temperature)
    return _softmax(outputs / temperature)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(-1, keepdims=True)


def _class_names(model: keras.Model | str | None, classes: int) -> tuple[str, ...]:
    if isinstance(model, str):
        return get_record(model).class_names
    if model is not None:
        return class_names_of(model)
    records = [get_record(name) for name in list_weights()]
    found = [record for record in records if len(record.class_names) == classes]
    if len({record.class_names for record in found}) != 1:
        names = [record.name for record in found]
        raise UserError(
            f"Expected the model or class_names for {classes} classes: "
            + (f"several weights have them, {names}" if found else "no weights do")
            + ". Received: neither. Pass decode_predictions(preds, model=model)."
        )
    return found[0].class_names


def output_layer(model: keras.Model) -> keras.Operation:
    """Finds the last layer of a model, or of the model that is its last layer.

    Args:
        model: Keras model.

    Returns:
        The `keras.layers.Layer`, or the operation of `keras.ops` that comes after all
        layers.

    Example:

    >>> import elu_zoo
    >>> output_layer(elu_zoo.ELUNet11(width=0.05)).name
    'predictions_activation'
    """
    while hasattr(model, "layers"):
        try:
            model = model.outputs[0]._keras_history.operation
        except (AttributeError, ValueError):  # It has no graph.
            model = model.layers[-1]
    return model


def activation_layer(model: keras.Model) -> keras.Layer | None:
    """Finds the layer whose activation makes a model's outputs probabilities.

    Args:
        model: Keras model.

    Returns:
        The last layer that has an activation, or is a `keras.layers.Softmax`: the
        output layer, or one before pooling and other layers that only rearrange.
        `None` if the model ends otherwise.

    Example:

    >>> import keras
    >>> head = [keras.layers.Conv2D(2, 1), keras.layers.GlobalAveragePooling2D()]
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), *head])
    >>> activation_layer(model) is head[0]
    True
    """
    from keras import layers

    layer = output_layer(model)
    followers = layers.AveragePooling2D, layers.GlobalAveragePooling2D, layers.Flatten
    while isinstance(layer, (*followers, layers.Dropout, layers.Reshape)):
        try:
            layer = output_layer(layer.input._keras_history.operation)
        except (AttributeError, ValueError):  # Its input is not known.
            return None
    known = hasattr(layer, "activation") or isinstance(layer, layers.Softmax)
    return layer if known else None


def gives_logits(model: keras.Model) -> bool:
    """Tells whether a model ends without an activation, so that it returns logits.

    Args:
        model: Keras model.

    Returns:
        Whether the result of `activation_layer` has a linear activation.

    Example:

    >>> import elu_zoo
    >>> gives_logits(elu_zoo.ELUNet11(width=0.05, classifier_activation=None))
    True
    """
    return activation_name(model) == "linear"


def activation_name(model: keras.Model) -> str | None:
    """Returns the name of the activation that `activation_layer` has.

    Args:
        model: Keras model.

    Returns:
        A name such as `"softmax"`, or `None` if it cannot be found.

    Example:

    >>> import elu_zoo
    >>> activation_name(elu_zoo.ELUNet11(width=0.05))
    'softmax'
    """
    import keras

    layer = activation_layer(model)
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", None)


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Changes the temperature of probabilities.

    Args:
        probabilities: Array of shape `(n, classes)`, the softmax of the logits.
        temperature: Number above 0; above 1, predictions become less confident.

    Returns:
        An array of the same shape, the softmax of the logits divided by the
        temperature; `probabilities` themselves if that is 1.

    Example:

    >>> with_temperature(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    if temperature == 1:  # The softmax would hide rows that do not sum to 1.
        return probabilities
    logits = np.log(np.maximum(np.asarray(probabilities, "float64"), 1e-300))
    return _softmax(logits / temperature)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature that makes the labels of held-out images most probable.

    Temperature scaling (Guo et al., 2017) minimizes the negative log-likelihood.

    Args:
        probabilities: Array of shape `(n, classes)`, for images not used in training.
        labels: Integer array of shape `(n,)`.

    Returns:
        A number within `TEMPERATURES`. It is 1 if every prediction is right, because
        the likelihood then has no maximum.

    Example:

    >>> probabilities = np.array([[0.99, 0.01]] * 4)
    >>> round(fit_temperature(probabilities, np.array([0, 0, 0, 1])), 2)
    4.18
    """
    logits = np.log(np.maximum(np.asarray(probabilities, "float64"), 1e-300))
    labels = np.asarray(labels)
    if (logits.argmax(-1) == labels).all():
        return 1.0
    own = logits[np.arange(len(labels)), labels]
    low, high = np.log(TEMPERATURES)
    # The likelihood is concave in 1 / T, so its slope changes sign once.
    for _ in range(60):
        middle = (low + high) / 2
        expected = (with_temperature(probabilities, np.exp(middle)) * logits).sum(-1)
        if (expected - own).mean() > 0:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))
