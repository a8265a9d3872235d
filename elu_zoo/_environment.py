"""Environment variables of TensorFlow, which reads them when it is imported."""

import os


def set_defaults() -> None:
    """Sets the variables that the commands need, unless the user has set them."""
    # TensorFlow leaves oneDNN off on processors without AVX-512; the networks are
    # faster with it there too: training/benchmarks/training_step.py.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
