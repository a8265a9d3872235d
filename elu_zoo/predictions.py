"""From probabilities to names."""

import numpy as np

from elu_zoo.records import get_record, list_weights


def decode_predictions(preds, top=5, weights="cifar100", class_names=None):
    """The names of the most probable classes.

    Args:
        preds: Array of shape `(n, classes)`, the model's probabilities.
        top: Number of classes to return for each image; of equally probable classes
            the first ones.
        weights: Tag or name of the published weights whose classes these are.
        class_names: Names to use instead, one a class.

    Returns:
        A list with one list per image of tuples `(class number, class name, score)`,
        the most probable first.

    Raises:
        ValueError: If there are no such weights, or if `preds` has another shape or is
            not a number somewhere.

    Example:

    >>> decode_predictions(np.array([[0.1, 0.9]]), top=1, class_names=["cat", "dog"])
    [[(1, 'dog', 0.9)]]
    """
    preds = np.asarray(preds, "float64")
    if class_names is None:
        (class_names,) = of_weights(weights, "class_names")
    if preds.ndim != 2 or preds.shape[1] != len(class_names):
        raise ValueError(
            f"Expected preds of shape (n, {len(class_names)}), one column a class. "
            f"Received: preds with shape {preds.shape}"
        )
    if np.isnan(preds).any():
        raise ValueError("Expected numbers. Received: preds with NaN")
    if top < 1:
        raise ValueError(f"Expected top to be 1 or more. Received: top={top!r}")
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(int(i), class_names[i], float(row[i])) for i in order]
        for row, order in zip(preds, best, strict=True)
    ]


def of_weights(weights, *fields):
    """Fields of the record of a name, or of the records with a tag if they agree."""
    names = list_weights()
    matching = [n for n in names if weights in (n, n.split(".", 1)[1])]
    if not matching:
        raise ValueError(
            f"Expected the tag or name of published weights, one of {names}. "
            f"Received: weights={weights!r}"
        )
    values = [[get_record(name)[field] for field in fields] for name in matching]
    if any(other != values[0] for other in values):
        raise ValueError(
            f"Expected one name of {matching}, whose {' and '.join(fields)} differ. "
            f"Received: weights={weights!r}"
        )
    return values[0]


def output_layer(model):
    """The last layer of a model, or of the model that is its last layer."""
    while hasattr(model, "layers"):
        model = model.layers[-1]
    return model


def gives_logits(model):
    """Whether a model ends without an activation, so that softmax is still to come."""
    activation = getattr(output_layer(model), "activation", None)
    return getattr(activation, "__name__", None) == "linear"


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as they are at another temperature.

    Args:
        probabilities: Array of shape `(n, classes)`, softmax of the logits.
        temperature: Number above 0; above 1 answers become less confident.

    Returns:
        An array of the same shape, softmax of the logits divided by the temperature.

    Example:

    >>> with_temperature(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    logits = np.log(np.maximum(np.asarray(probabilities, "float64"), 1e-300))
    logits = (logits - logits.max(-1, keepdims=True)) / temperature
    scaled = np.exp(logits)
    return scaled / scaled.sum(-1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which held-out images are the most probable.

    Temperature scaling (Guo et al., 2017): it minimizes the negative log-likelihood.

    Args:
        probabilities: Array of shape `(n, classes)` for images not trained on.
        labels: Integer array of shape `(n,)`.

    Returns:
        A number from 0.1 to 10; 1 if no answer is wrong, for then the likelihood has no
        maximum.

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
    low, high = np.log(0.1), np.log(10)
    # The likelihood is concave in 1 / T: its slope changes sign once.
    for _ in range(60):
        middle = (low + high) / 2
        expected = (with_temperature(probabilities, np.exp(middle)) * logits).sum(-1)
        if (expected - own).mean() > 0:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))
