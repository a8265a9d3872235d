"""The networks in PyTorch, for `networks.py`, which says what it times.

It runs in the environment that `make peers` installs, without Keras.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from elu_zoo.architectures import FC, Architecture, find_architecture
from training.benchmarks.workers import answer, examples


def network(
    model: str, width: float = 1.0, stem_strides: int = 1, classes: int | None = None
) -> Any:
    """Builds a network from the paper's table, as `elu_zoo` does.

    Args:
        model: Name of the model function.
        width: Argument of the model function.
        stem_strides: Likewise.
        classes: Likewise.

    Returns:
        A `torch.nn.Module` from float32 images of shape `(n, 3, height, width)` to
        logits.
    """
    found = find_architecture(model)
    assert found is not None
    return _built(found[1], width, stem_strides, classes or found[1].classes)


def _built(
    architecture: Architecture, width: float, stem_strides: int, classes: int
) -> Any:
    from torch import nn

    *hidden, _ = architecture.stacks
    layers: list[Any] = []
    for index, stack in enumerate(hidden):
        rows = [(units, field) for count, units, field in stack for _ in range(count)]
        convolutional = rows[0][1] != FC
        if not convolutional:
            layers.append(_pyramid(architecture.pyramid_levels))
        last_before_pyramid = architecture.stacks[index + 1][0][2] == FC
        for number, (units, field) in enumerate(rows, start=1):
            units = max(1, round(units * width))
            if convolutional:
                stride = stem_strides if index == 0 and number == 1 else 1
                padding = "same" if stride == 1 else field // 2
                layers.append(nn.LazyConv2d(units, field, stride, padding=padding))
                if number == len(rows) and not last_before_pyramid:
                    layers.append(nn.MaxPool2d(2, ceil_mode=True))
            else:
                layers.append(nn.LazyLinear(units))
            layers.append(nn.ELU())
    if not architecture.pyramid_levels:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.LazyLinear(classes))


def _pyramid(levels: tuple[int, ...]) -> Any:
    import torch
    from torch import nn

    class Pyramid(nn.Module):
        def forward(self, x: Any) -> Any:
            grids = [nn.functional.adaptive_max_pool2d(x, n) for n in levels]
            # In Keras's order, the channels last.
            return torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in grids], 1)

    return Pyramid()


def compute(how: str, case: Mapping[str, Any]) -> Callable[[], Any]:
    """Makes the function that computes a batch.

    Args:
        how: `"eager"` or `"compiled"`.
        case: An item of `workers.CASES`, with the arguments of the network.

    Returns:
        A function without arguments.
    """
    import torch

    images, labels = map(torch.from_numpy, examples(case))
    model = network(case["model"], **case["arguments"])

    def forward(images: Any) -> Any:
        x = (images.permute(0, 3, 1, 2).float() - 128) / 64
        return model(x)

    forward(images[:1])  # Makes the weights.
    model.to(memory_format=torch.channels_last)
    if how == "compiled":
        forward = torch.compile(forward)
    half = case["dtype"] == "bfloat16"
    cast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    if case["kind"] == "predict":

        @torch.inference_mode()
        def predict() -> Any:
            with cast:
                return forward(images).float().softmax(1).numpy()

        return predict
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def train() -> float:
        optimizer.zero_grad()
        with cast:
            logits = forward(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


if __name__ == "__main__":
    answer(compute(sys.argv[1], json.loads(sys.argv[2])))
