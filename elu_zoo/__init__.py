"""Keras models of the ELU networks of Clevert, Unterthiner & Hochreiter (ICLR 2016).

Importing the package imports neither Keras nor a backend. Each function imports them
when it is first used.
"""

import importlib
import types
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from elu_zoo import layers, ops
    from elu_zoo.evaluation import evaluate
    from elu_zoo.exporting import export, export_saved_model
    from elu_zoo.feature_extraction import features
    from elu_zoo.finetuning import finetune, freeze
    from elu_zoo.heads import reset_head
    from elu_zoo.image_folders import load_image_folder
    from elu_zoo.images import preprocess_input
    from elu_zoo.labels import split_by_class
    from elu_zoo.models import (
        ELUNet11,
        ELUNet15,
        ELUNet18,
        MNISTAutoencoder,
        MNISTClassifier,
        adapt_preprocessing,
        list_models,
        load,
    )
    from elu_zoo.optimizers import LayerwiseAdam
    from elu_zoo.predictions import decode_predictions
    from elu_zoo.weights import get_record, list_weights

__version__ = "0.2.0"

_MODULES = {
    "ELUNet11": "models",
    "ELUNet15": "models",
    "ELUNet18": "models",
    "LayerwiseAdam": "optimizers",
    "MNISTAutoencoder": "models",
    "MNISTClassifier": "models",
    "adapt_preprocessing": "models",
    "decode_predictions": "predictions",
    "evaluate": "evaluation",
    "export": "exporting",
    "export_saved_model": "exporting",
    "features": "feature_extraction",
    "finetune": "finetuning",
    "freeze": "finetuning",
    "get_record": "weights",
    "layers": None,
    "list_models": "models",
    "list_weights": "weights",
    "load": "models",
    "load_image_folder": "image_folders",
    "ops": None,
    "preprocess_input": "images",
    "reset_head": "heads",
    "split_by_class": "labels",
}

__all__ = [
    "ELUNet11",
    "ELUNet15",
    "ELUNet18",
    "LayerwiseAdam",
    "MNISTAutoencoder",
    "MNISTClassifier",
    "adapt_preprocessing",
    "decode_predictions",
    "evaluate",
    "export",
    "export_saved_model",
    "features",
    "finetune",
    "freeze",
    "get_record",
    "layers",
    "list_models",
    "list_weights",
    "load",
    "load_image_folder",
    "ops",
    "preprocess_input",
    "reset_head",
    "split_by_class",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name] or name}")
    value = getattr(module, name) if _MODULES[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Keras loads a saved model only if it knows the classes of its layers.
@wrapt.when_imported("keras")
def _register_layers(_: types.ModuleType) -> None:
    importlib.import_module("elu_zoo.layers")
    importlib.import_module("elu_zoo._record_layer")
    importlib.import_module("elu_zoo.optimizers")
