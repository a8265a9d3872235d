"""Keras models of the ELU networks of Clevert, Unterthiner & Hochreiter (ICLR 2016)."""

from elu_zoo.models import (
    ELUNet11,
    ELUNet15,
    ELUNet18,
    MNISTAutoencoder,
    MNISTClassifier,
    list_models,
)

__version__ = "0.1.0"

__all__ = [
    "ELUNet11",
    "ELUNet15",
    "ELUNet18",
    "MNISTAutoencoder",
    "MNISTClassifier",
    "list_models",
]
