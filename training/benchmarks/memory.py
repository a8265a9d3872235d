"""Measures the memory of training steps and inference, against Keras's and PyTorch's.

    make peers
    python -m training.benchmarks.memory [--csv FILE]
    python -m training.benchmarks.memory --compiler [--csv FILE]

Each case of `workers.CASES` in bfloat16 with one of `MODELS` runs in a process of its
own: once as `elu_zoo` builds the network, once with Keras's own layers in the paper's
order, and once in PyTorch. The command prints the largest resident memory of the
process during four batches, less that of the same process with a tiny network and
batch, in megabytes, and its ratio to that of Keras's layers. It takes about three
minutes on 2 cores.

With `--compiler` nothing is computed. JAX compiles the same training step, and
inference, for all networks of `workers.CASES`, and the command prints the memory that
its compiler reports: arguments, results and what is temporary, less the results that
take the place of arguments. `XLA_FLAGS=--xla_backend_optimization_level=0`, with which
the committed CSV was made, shortens it.
"""

import argparse
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from training.benchmarks.keras_networks import network
from training.benchmarks.measuring import machine, write_csv
from training.benchmarks.workers import (
    ARGUMENTS,
    CASES,
    OURS,
    PEERS,
    VARIANTS,
    peers_version,
    worker,
)

MODELS = ("ELUNet11", "ELUNet18")
PROGRAMS = {
    "keras": [*OURS, "keras"],
    "elu_zoo": [*OURS, "elu"],
    "pytorch": VARIANTS["pytorch"],
}
TINY = {"batch": 2, "arguments": {"width": 0.03}}
HALF = [case for case in CASES if case["dtype"] == "bfloat16"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", action="store_true", help="ask JAX's compiler")
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    if arguments.compiler:
        os.environ["KERAS_BACKEND"] = "jax"
        facts = machine()
        steps = [case for case in HALF if case["kind"] == "train"]
        cases = steps + [case | {"kind": "predict"} for case in steps]
        measure = planned
    else:
        facts = machine() | {"pytorch": peers_version()}
        cases = [case for case in HALF if case["model"] in MODELS]
        measure = resident
    print(", ".join(map(str, facts.values())))
    rows = []
    for case in cases:
        variants = measure(case)
        for name, megabytes in variants.items():
            ratio = megabytes["megabytes"] / variants["keras"]["megabytes"]
            row = {
                "variant": name,
                **{part: round(size) for part, size in megabytes.items()},
                "to_keras": round(ratio, 3),
            }
            rows.append(facts | case | row)
            print("  ".join(map(str, [*case.values(), *row.values()])), flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)


def resident(case: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Measures the processes of a case.

    Args:
        case: An item of `workers.CASES`.

    Returns:
        By name of the program, its megabytes.
    """
    names = [name for name in PROGRAMS if name != "pytorch" or PEERS.exists()]
    tiny = json.dumps({**case, "model": MODELS[0], **TINY})
    whole = json.dumps({**case, "arguments": {}})
    return {name: {"megabytes": peak(name, whole) - peak(name, tiny)} for name in names}


@functools.cache
def peak(name: str, case: str) -> float:
    """Measures the largest resident memory of a worker that computes four batches.

    Args:
        name: Key of `PROGRAMS`.
        case: An item of `workers.CASES` with the arguments of the network, as JSON.

    Returns:
        Megabytes.
    """
    with worker(PROGRAMS[name], json.loads(case)) as process:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def planned(case: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Compiles the networks of a case.

    Args:
        case: An item of `workers.CASES`.

    Returns:
        By name of the network, the result of `report`.
    """
    case = {**case, "arguments": ARGUMENTS.get(case["model"], {})}
    return {"keras": report("keras", case), "elu_zoo": report("elu", case)}


def report(variant: str, case: Mapping[str, Any]) -> dict[str, float]:
    """Compiles a network with JAX.

    Args:
        variant: As in `keras_networks.network`.
        case: An item of `workers.CASES`, with the arguments of the network.

    Returns:
        The megabytes that the compiler reports, in all and by what they are for.
    """
    import jax

    shape = case["batch"], case["size"], case["size"], 3
    images = jax.ShapeDtypeStruct(shape, "uint8")
    labels = jax.ShapeDtypeStruct(shape[:1], "int32")
    make = training_step if case["kind"] == "train" else inference
    compute, state = make(network(variant, case))
    found = compute.lower(state, images, labels).compile().memory_analysis()
    parts = {
        "arguments": found.argument_size_in_bytes,
        "results": found.output_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
        "shared": found.alias_size_in_bytes,
    }
    total = sum(parts.values()) - 2 * parts["shared"]
    sizes = {"megabytes": total} | parts
    return {part: size / 1e6 for part, size in sizes.items()}


def inference(model: Any) -> tuple[Any, Any]:
    """Makes inference for JAX.

    Args:
        model: Keras model.

    Returns:
        A jitted function of state, images and labels that returns the outputs, and the
        state.
    """
    import jax

    @jax.jit
    def predict(state: Any, images: Any, labels: Any) -> Any:
        return model.stateless_call(*state, images, training=False)[0]

    return predict, _values(model.trainable_variables, model.non_trainable_variables)


def training_step(model: Any) -> tuple[Any, Any]:
    """Makes a training step for JAX: forward, backward and SGD with momentum.

    Args:
        model: Keras model that gives logits.

    Returns:
        A jitted function of state, images and labels that returns the new state, in the
        place of the old one, and the loss; and the first state.
    """
    import jax
    import keras

    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)

    def loss_of(trainable: Any, others: Any, images: Any, labels: Any) -> Any:
        logits, others = model.stateless_call(trainable, others, images, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        return keras.ops.mean(losses), others

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: Any, labels: Any) -> Any:
        trainable, others, slots = state
        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            trainable, others, images, labels
        )
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, others, slots), loss

    groups = model.trainable_variables, model.non_trainable_variables
    return step, _values(*groups, optimizer.variables)


def _values(*groups: Sequence[Any]) -> tuple[list[Any], ...]:
    return tuple([variable.value for variable in group] for group in groups)


if __name__ == "__main__":
    main()
