"""Records: how weights were made, which classes they know, where their file is.

Every model from a model function carries one through saving, loading, cloning and
export.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elu_zoo.errors import UserError

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image of any size becomes the square that a network takes.

    Attributes:
        resize: Length in pixels to resize the shorter side to, or both sides with
            `mode="squash"`.
        crop: Side in pixels of the square that is cropped from the center.
        interpolation: Pillow's name of the filter, such as `"bilinear"`.
        mode: `"crop"` keeps the aspect ratio; `"squash"` does not.

    Example:

    >>> Preprocessing(36, 32).mode
    'crop'
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mode: str = "crop"

    def scaled(self, side: int) -> Preprocessing:
        """The same preprocessing for a square of a different size.

        Args:
            side: New value of `crop`; `resize` changes by the same factor.

        Returns:
            A `Preprocessing`.

        Example:

        >>> Preprocessing(36, 32).scaled(64).resize
        72
        """
        resize = round(self.resize * side / self.crop)
        return dataclasses.replace(self, resize=resize, crop=side)


@dataclasses.dataclass(frozen=True)
class Record:
    """Everything known about the weights of a model.

    To change a record, use `dataclasses.replace`, then `attach_record`.

    Attributes:
        name: Name of the published weights, `"<model>.<tag>"`. A fine-tuned model has
            the name of the weights that it started from; random weights have none.
        model: Name of the model function, such as `"ELUNet11"`.
        arguments: Arguments of the model function that build the network.
        input_shape: `(height, width, channels)`; height and width are `None` if any
            size is accepted. Empty if the model has several inputs.
        preprocessing: How images are resized; `None` if the input is not a square.
        class_names: Names of the classes in the order of the outputs; empty if unknown.
        temperature: Probabilities are `softmax(logits / temperature)`.
        calibrated_on: Number of images, held out of training, that `temperature` was
            fitted on; 0 if it was not, and is 1.
        threshold: If the most probable class is less probable than this, the prediction
            is "none of these"; with 0 it never is.
        dataset: `name`, `terms` and `url` of the training data.
        license: License of the weights.
        metrics: `error` and other metrics measured on the test set.
        file: Name of the weights file.
        sha256: SHA-256 of the file.
        bytes: Size of the file.
        packaged: Whether the file is part of the installed package. Files over 20 MB
            are not; `elu-zoo fetch NAME` downloads them.
        urls: URLs at which the file is published.
        parameters: Number of parameters.
        multiply_adds: Number of multiply-adds for one image of the size that
            `preprocessing` gives.
        resized_from: Side in pixels of the test set's images, if they were resized.
        recipe: Path of the recipe in a checkout.
        recipe_changes: Fields of the recipe that the run changed.
        commit: Git commit of the run.
        training: Seed, epochs, time, operations and machine of the run.
        published: Date of publication.
        limited_by: What keeps the error from being lower.
        other_seeds: Errors of the same recipe with other seeds.

    Example:

    >>> record = Record("elunet11.pets", "ELUNet11", class_names=("cat", "dog"))
    >>> dataclasses.replace(record, temperature=1.5).class_names
    ('cat', 'dog')
    """

    name: str = ""
    model: str = ""
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    input_shape: tuple[int | None, ...] = ()
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()
    temperature: float = 1.0
    calibrated_on: int = 0
    threshold: float = 0.0
    dataset: dict[str, str] = dataclasses.field(default_factory=dict)
    license: str = ""
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    file: str = ""
    sha256: str = ""
    bytes: int = 0
    packaged: bool = True
    urls: tuple[str, ...] = ()
    parameters: int | None = None
    multiply_adds: int | None = None
    resized_from: int | None = None
    recipe: str = ""
    recipe_changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    commit: str = ""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    published: str = ""
    limited_by: str = ""
    other_seeds: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name in ("input_shape", "class_names", "urls", "other_seeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.preprocessing, Mapping):
            how = Preprocessing(**self.preprocessing)
            object.__setattr__(self, "preprocessing", how)
        if not self.temperature > 0:
            raise UserError(
                "Expected temperature to be positive. "
                f"Received: temperature={self.temperature!r}"
            )
        if not 0 <= self.threshold <= 1:
            raise UserError(
                "Expected threshold to be from 0 to 1. "
                f"Received: threshold={self.threshold!r}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Makes a record from plain JSON values, such as an entry of the manifest.

        Args:
            values: Fields by name. Unknown fields, as of a newer version, are ignored.

        Returns:
            A `Record`.

        Example:

        >>> Record.from_dict({"name": "net.a", "class_names": ["cat"]}).class_names
        ('cat',)
        """
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def unmeasured(self, **changes: Any) -> Record:
        """Returns a copy without what was measured on the weights.

        Args:
            **changes: Other fields to change.

        Returns:
            A `Record` with no metrics, temperature 1 and threshold 0.
        """
        measured: dict[str, Any] = {
            "temperature": 1.0,
            "calibrated_on": 0,
            "threshold": 0.0,
        }
        return dataclasses.replace(self, metrics={}, **measured, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields that differ from their defaults as plain JSON values.

        Returns:
            A dict that `from_dict` accepts.

        Example:

        >>> Record("net.a", class_names=("cat",)).to_dict()
        {'name': 'net.a', 'class_names': ['cat']}
        """
        plain = json.loads(json.dumps(dataclasses.asdict(self), default=float))
        default = json.loads(json.dumps(dataclasses.asdict(Record())))
        return {key: value for key, value in plain.items() if value != default[key]}


def record_of(model: keras.Model) -> Record | None:
    """Returns the record that a model carries, if any.

    Args:
        model: Any Keras model.

    Returns:
        A `Record`, or `None` if the model was not made by `elu_zoo`.

    Example:

    >>> import elu_zoo
    >>> record_of(elu_zoo.ELUNet11(width=0.1)).model
    'ELUNet11'
    """
    layer = _record_layer(model)
    return layer and layer.record


def attach_record(model: keras.Model, record: Record) -> None:
    """Replaces the record of a model, in place.

    Args:
        model: A model of `elu_zoo`.
        record: Its new record.

    Raises:
        UserError: If the model was not made by `elu_zoo`, or the number of class names
            is not that of its outputs.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(width=0.1, classes=2)
    >>> names = ("cat", "dog")
    >>> attach_record(model, dataclasses.replace(record_of(model), class_names=names))
    >>> record_of(model).class_names
    ('cat', 'dog')
    """
    layer = _record_layer(model)
    if layer is None:
        raise UserError(
            "Expected a model made by a function of elu_zoo, such as ELUNet11. "
            f"Received: {model!r}"
        )
    if record.class_names and len(record.class_names) != model.output_shape[-1]:
        raise UserError(
            f"Expected {model.output_shape[-1]} class names, one for each output of "
            f"the model. Received: {len(record.class_names)}"
        )
    layer.record = record


def class_names_of(model: keras.Model) -> tuple[str, ...]:
    """Returns the names of the classes of a model's outputs.

    Args:
        model: Any Keras model with one output of shape `(n, classes)`.

    Returns:
        The names in the model's record, or the numbers of the classes if the record is
        missing or has a different number of names.

    Example:

    >>> import elu_zoo
    >>> class_names_of(elu_zoo.ELUNet11(width=0.1, classes=2))
    ('0', '1')
    """
    record, classes = record_of(model), model.output_shape[-1]
    if record and len(record.class_names) == classes:
        return record.class_names
    return tuple(map(str, range(classes)))


def _record_layer(model: keras.Model) -> Any:
    for layer in getattr(model, "layers", ()):
        if hasattr(layer, "layers"):
            layer = _record_layer(layer)
        if isinstance(getattr(layer, "record", None), Record):
            return layer
    return None
