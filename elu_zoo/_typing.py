"""Names of types for annotations."""

from typing import Any

Tensor = Any
"""A tensor of any Keras backend, or a symbolic `keras.KerasTensor`."""

Shape = tuple[int | None, ...]
"""A shape; `None` stands for any size."""
