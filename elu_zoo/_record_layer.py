"""The layer that holds a model's record."""

from __future__ import annotations

from typing import Any

import keras

from elu_zoo.records import Record


@keras.saving.register_keras_serializable(package="elu_zoo")
class ModelRecord(keras.layers.Identity):
    """Returns its input, and keeps the model's record in its configuration.

    Whatever Keras does with a model, it keeps the configurations of the layers: `save`,
    `clone_model` with or without a `clone_function`, `keras.Model(model.input, x)`.

    Args:
        record: A `Record`, or its dict.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:

    >>> layer = ModelRecord({"name": "net.a"})
    >>> ModelRecord.from_config(layer.get_config()).record.name
    'net.a'
    """

    def __init__(self, record: Record | dict[str, Any], **kwargs: Any) -> None:
        # Autocast would round raw images to bfloat16.
        super().__init__(autocast=False, **kwargs)
        self.record = Record.from_dict(record) if isinstance(record, dict) else record

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "record": self.record.to_dict()}
