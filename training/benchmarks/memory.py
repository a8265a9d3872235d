"""Measures the memory of training steps and inference, against Keras's and PyTorch's.

    make peers
    python -m training.benchmarks.memory [--csv FILE]

Each case of `workers.CASES` in bfloat16 with one of `MODELS` runs in a process of its
own: once as `elu_zoo` builds the network, once with Keras's own layers in the paper's
order, and once in PyTorch. The command prints the largest resident memory of the
process during four batches, less that of the same process with a tiny network and
batch, in megabytes, and its ratio to that of Keras's layers. It takes about three
minutes on 2 cores.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Sequence

from training.benchmarks.measuring import machine, write_csv
from training.benchmarks.workers import (
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


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: Arguments; default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    facts, rows = machine() | {"pytorch": peers_version()}, []
    print(", ".join(map(str, facts.values())))
    names = [name for name in PROGRAMS if name != "pytorch" or PEERS.exists()]
    for case in CASES:
        if case["model"] not in MODELS or case["dtype"] != "bfloat16":
            continue
        tiny = {**case, "model": MODELS[0], **TINY}
        megabytes = {
            name: peak(name, json.dumps({**case, "arguments": {}}))
            - peak(name, json.dumps(tiny))
            for name in names
        }
        for name, value in megabytes.items():
            row = {
                "variant": name,
                "megabytes": round(value),
                "to_keras": round(value / megabytes["keras"], 3),
            }
            rows.append(facts | case | row)
            print("  ".join(map(str, [*case.values(), *row.values()])), flush=True)
    if arguments.csv:
        write_csv(arguments.csv, rows)


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


if __name__ == "__main__":
    main()
