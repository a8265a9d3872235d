"""Times training steps and inference against ReLU, batch normalization and PyTorch.

    make peers
    python -m training.benchmarks.networks [--rounds 9] [--cases N ...] [--csv FILE]

Each variant runs in a process of its own, which computes one batch when asked. In each
round all variants of a case compute one, in an order that rotates. The command prints
the median images per second, and the ratio of ELU's speed to each variant's in the same
rounds: its median and quartiles. A training step is forward, backward and SGD with
momentum, without dropout. PyTorch builds the same network from the same table; it runs
in the environment that `make peers` installs, and is left out where there is none. All
cases together take about 10 minutes on 2 cores.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training.benchmarks import workers
from training.benchmarks.keras_networks import network
from training.benchmarks.measuring import compared, machine, write_csv
from training.benchmarks.workers import (
    ARGUMENTS,
    CASES,
    VARIANTS,
    ask,
    peers_version,
    worker,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", type=int, nargs="+", help="numbers, from 0 on")
    parser.add_argument("--width", type=float, help="replaces the networks' widths")
    parser.add_argument("--csv", help="also write the rows to this file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        return work(*arguments.worker)
    rows = []
    facts = machine() | {"pytorch": peers_version()}
    print(", ".join(map(str, facts.values())))
    for number in range(len(CASES)) if arguments.cases is None else arguments.cases:
        case = CASES[number]
        settings = ARGUMENTS.get(case["model"], {})
        if arguments.width:
            settings = settings | {"width": arguments.width}
        for row in measure(case | {"arguments": settings}, arguments.rounds):
            rows.append(facts | case | row)
            print("  ".join(map(str, [*case.values(), *row.values()])), flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)


def measure(case: Mapping[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Times all variants of a case.

    Args:
        case: An item of `CASES`, with the arguments of the network.
        rounds: Number of rounds.

    Returns:
        Rows of the CSV file, without the case.
    """
    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(worker(command, case))
            for name, command in VARIANTS.items()
            if pathlib.Path(command[0]).exists()
        }
        names = list(workers)
        for i in range(rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                seconds.setdefault(name, []).append(ask(workers[name]))
    return [
        {
            "variant": name,
            "rounds": rounds,
            "images_per_second": round(case["batch"] / statistics.median(values), 1),
        }
        | compared(values, seconds["elu"], "elu_to_it")
        for name, values in seconds.items()
    ]


def work(variant: str, case: str) -> None:
    """Answers each line of the standard input with the seconds of a batch.

    Args:
        variant: As in `compute`.
        case: The case as JSON.
    """
    workers.answer(compute(variant, json.loads(case)))


def compute(variant: str, case: Mapping[str, Any]) -> Callable[[], Any]:
    """Makes the function that computes a batch.

    Args:
        variant: As in `training.benchmarks.keras_networks.network`.
        case: The case.

    Returns:
        A function without arguments.
    """
    from training.engine import device  # Sets the environment before Keras is loaded.

    del device
    import numpy as np

    model = network(variant, case)
    images, labels = workers.examples(case)
    if case["kind"] == "predict":
        return lambda: model.predict_on_batch(images)
    step = _training_step(model, case, images, labels)
    return lambda: np.asarray(step())


def _training_step(
    model: Any, case: Mapping[str, Any], images: Any, labels: Any
) -> Any:
    import keras

    from training.data.memory import MemoryDataset
    from training.data.stream import Stream
    from training.engine.recipe import Recipe
    from training.engine.schedules import WarmupLinear
    from training.engine.steps import Steps
    from training.engine.strategy import make_placement

    recipe = Recipe(
        model=case["model"],
        model_arguments={},
        dataset="cifar100",
        batch_size=case["batch"],
        epochs=1,
        augmentation=(),
        learning_rate=lambda steps: WarmupLinear(1e-3, steps, warmup=0.1),
        optimizer=lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    )
    names = tuple(map(str, range(model.output_shape[-1])))
    data = MemoryDataset(images, labels, names)
    optimizer = recipe.optimizer(1e-3)
    optimizer.build(model.trainable_variables)
    steps = Steps(model, optimizer, recipe, make_placement("none"), jit=False)
    batch = Stream(data, case["batch"]).batch(0)
    return lambda: steps.train([batch])


if __name__ == "__main__":
    main()
