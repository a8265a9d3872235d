"""Keras models of the ELU networks of Clevert, Unterthiner & Hochreiter (ICLR 2016)."""

import importlib

__version__ = "0.1.0"

_MODULES = {
    "ELUNet11": "models",
    "ELUNet15": "models",
    "ELUNet18": "models",
    "MNISTAutoencoder": "models",
    "MNISTClassifier": "models",
    "decode_predictions": "labels",
    "export_saved_model": "export",
    "features": "feature_extraction",
    "finetune": "finetuning",
    "freeze": "finetuning",
    "list_models": "models",
    "list_weights": "weights",
    "load_image_folder": "finetuning",
    "preprocess_input": "labels",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    # Late, so that `elu-zoo list` answers without the seconds that Keras takes to load.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
