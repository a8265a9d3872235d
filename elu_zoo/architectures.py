"""The networks of Clevert et al. (2016) as data, in the paper's notation.

A stack is a tuple of rows `(layers, units, receptive field)`. The receptive field of a
fully-connected layer is `FC`. The last stack holds only the output layer, whose units
the model functions replace with `classes`. Sections 4.1 to 4.3 of arXiv 1511.07289.
"""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

from elu_zoo.errors import UserError

FC = "FC"
"""Receptive field of a fully-connected layer."""

Stack = tuple[tuple[int, int, Any], ...]
"""Rows of layers, units and receptive field."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One network of the paper.

    Attributes:
        model: Name of the model function.
        stacks: The stacks, from the input to the output.
        input_shape: Default `(height, width, channels)`.
        dropout: The paper's dropout rate after the last layer of each stack, or after
            each layer of a fully-connected stack. Missing rates are 0.
        activation: Default of the model function's argument with this name.
        batch_normalization: Default, likewise.
        width: Default, likewise.
        preprocessing: Default, likewise.
        stem_strides: Default, likewise. The paper does not state it; 2 makes the
            paper's training times on ImageNet plausible.
        pyramid_levels: Default, likewise; empty for no pyramid. The paper has three
            levels and does not state their sizes.
        reconstructs: Whether the outputs are the pixels of the image, from 0 to 1.

    Example:

    >>> ARCHITECTURES["elunet11"].classes
    100
    """

    model: str
    stacks: tuple[Stack, ...]
    input_shape: tuple[int, int, int]
    dropout: tuple[float, ...] = ()
    activation: str = "elu"
    batch_normalization: bool = False
    width: float = 1.0
    preprocessing: str = "standardize"
    stem_strides: int = 1
    pyramid_levels: tuple[int, ...] = ()
    reconstructs: bool = False

    @property
    def classes(self) -> int:
        """Number of units of the output layer."""
        return self.stacks[-1][-1][1]


ARCHITECTURES: dict[str, Architecture] = {
    "elunet11": Architecture(
        model="ELUNet11",
        stacks=(
            ((1, 192, 5),),
            ((1, 192, 1), (1, 240, 3)),
            ((1, 240, 1), (1, 260, 2)),
            ((1, 260, 1), (1, 280, 2)),
            ((1, 280, 1), (1, 300, 2)),
            ((1, 300, 1),),
            ((1, 100, 1),),
        ),
        input_shape=(32, 32, 3),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0),
    ),
    "elunet18": Architecture(
        model="ELUNet18",
        stacks=(
            ((1, 384, 3),),
            ((1, 384, 1), (1, 384, 2), (2, 640, 2)),
            ((1, 640, 1), (3, 768, 2)),
            ((1, 768, 1), (2, 896, 2)),
            ((1, 896, 3), (2, 1024, 2)),
            ((1, 1024, 1), (1, 1152, 2)),
            ((1, 1152, 1),),
            ((1, 100, 1),),
        ),
        input_shape=(32, 32, 3),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0),
    ),
    "elunet15": Architecture(
        model="ELUNet15",
        stacks=(
            ((1, 96, 6),),
            ((3, 512, 3),),
            ((5, 768, 3),),
            ((3, 1024, 3),),
            ((2, 4096, FC),),
            ((1, 1000, FC),),
        ),
        input_shape=(224, 224, 3),
        dropout=(0.0, 0.0, 0.0, 0.0, 0.5),
        stem_strides=2,
        pyramid_levels=(4, 2, 1),
    ),
    "mnist_classifier": Architecture(
        model="MNISTClassifier",
        stacks=(((8, 128, FC),), ((1, 10, FC),)),
        input_shape=(28, 28, 1),
        preprocessing="rescale",
    ),
    "mnist_autoencoder": Architecture(
        model="MNISTAutoencoder",
        stacks=(
            ((1, 1000, FC), (1, 500, FC), (1, 250, FC), (1, 30, FC)),
            ((1, 250, FC), (1, 500, FC), (1, 1000, FC)),
            ((1, 784, FC),),
        ),
        input_shape=(28, 28, 1),
        preprocessing="rescale",
        reconstructs=True,
    ),
}
"""The networks of the paper by name."""


def find_architecture(model: str) -> tuple[str, Architecture] | None:
    """Finds the architecture of a model function.

    Args:
        model: Name of the model function or of the architecture, in any case.

    Returns:
        The architecture's name and itself, or `None` if there is none.

    Example:

    >>> find_architecture("MNISTAutoencoder")[0]
    'mnist_autoencoder'
    """
    for name, architecture in ARCHITECTURES.items():
        if model.lower() in (name, architecture.model.lower()):
            return name, architecture
    return None


def reconstructs(model: str) -> bool:
    """Tells whether the outputs of a network are the pixels of the image.

    Args:
        model: Name of the model function, in any case.

    Returns:
        Whether some architecture of that name reconstructs its input.

    Example:

    >>> reconstructs("mnistautoencoder"), reconstructs("ELUNet11")
    (True, False)
    """
    found = find_architecture(model)
    return found is not None and found[1].reconstructs


def dropout_rates(dropout: Any, stacks: Sequence[Stack]) -> list[list[float]]:
    """Expands a model function's `dropout` to one rate per layer.

    Args:
        dropout: `None`, a rate, or a sequence with one item per hidden stack: a rate,
            or a sequence with one rate per layer of the stack.
        stacks: The hidden stacks.

    Returns:
        One list of rates per stack.

    Raises:
        UserError: If a rate is outside [0, 1), or there are too many or too few rates.

    Example:

    >>> dropout_rates([0.1, 0.5], [((1, 192, 5), (1, 240, 3)), ((2, 4096, FC),)])
    [[0.0, 0.1], [0.5, 0.5]]
    """
    rates: list[Any] = (
        [dropout or 0.0] * len(stacks) if _is_rate(dropout) else list(dropout)
    )
    if any(rates[len(stacks) :]):
        raise UserError(
            f"Expected dropout to have at most {len(stacks)} rates above 0, one per "
            f"hidden stack. Received: dropout={dropout!r}"
        )
    rates = rates[: len(stacks)] + [0.0] * (len(stacks) - len(rates))
    layered: list[list[float]] = []
    for rate, stack in zip(rates, stacks, strict=True):
        count = sum(layers for layers, _, _ in stack)
        if not isinstance(rate, (list, tuple)):
            all_layers = stack[0][2] == FC
            rate = [rate] * count if all_layers else [0.0] * (count - 1) + [rate]
        valid = all(_is_rate(r) and 0 <= (r or 0) < 1 for r in rate)
        if len(rate) != count or not valid:
            raise UserError(
                "Expected dropout rates in [0, 1), one per stack, or one for each of "
                f"the {count} layers of a stack. Received: dropout={dropout!r}"
            )
        layered.append(list(rate))
    return layered


def _is_rate(value: Any) -> bool:
    return value is None or isinstance(value, numbers.Real)
