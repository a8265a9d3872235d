"""Keras models of the ELU networks of Clevert, Unterthiner & Hochreiter (ICLR 2016)."""

from elu_zoo.exporting import export, export_saved_model
from elu_zoo.feature_extraction import features
from elu_zoo.finetuning import finetune, freeze
from elu_zoo.images import load_image_folder, preprocess_input
from elu_zoo.models import (
    ELUNet11,
    ELUNet15,
    ELUNet18,
    MNISTAutoencoder,
    MNISTClassifier,
    list_models,
)
from elu_zoo.predictions import decode_predictions
from elu_zoo.records import list_weights

__version__ = "0.1.0"

__all__ = [
    "ELUNet11",
    "ELUNet15",
    "ELUNet18",
    "MNISTAutoencoder",
    "MNISTClassifier",
    "decode_predictions",
    "export",
    "export_saved_model",
    "features",
    "finetune",
    "freeze",
    "list_models",
    "list_weights",
    "load_image_folder",
    "preprocess_input",
]
