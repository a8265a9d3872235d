"""The layer in which a model carries its record."""

from __future__ import annotations

from typing import Any

import keras

from elu_zoo.records import Record


@keras.saving.register_keras_serializable(package="elu_zoo")
class ModelRecord(keras.layers.Identity):
    """Gives its input, and has the record of its model in its configuration.

    Whatever Keras does with a model, it keeps the layers' configurations: `save`,
    `clone_model` with and without a `clone_function`, `keras.Model(model.input, x)`.

    Args:
        record: A `Record`, or its dict.

    Example:

    >>> layer = ModelRecord({"name": "net.a"})
    >>> ModelRecord.from_config(layer.get_config()).record.name
    'net.a'
    """

    def __init__(self, record: Record | dict[str, Any], **kwargs: Any):
        # Autocast would round raw images to bfloat16.
        super().__init__(autocast=False, **kwargs)
        self.record = Record.from_dict(record) if isinstance(record, dict) else record

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "record": self.record.to_dict()}
