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
