"""Processes that compute one batch of a network when asked, for several benchmarks.

It runs in PyTorch's environment too, without Keras.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from training.benchmarks.measuring import ROOT

CASES: list[dict[str, Any]] = [
    {"model": "ELUNet11", "size": 32, "batch": 128, "dtype": "bfloat16"},
    {"model": "ELUNet11", "size": 32, "batch": 128, "dtype": "float32"},
    {"model": "ELUNet18", "size": 32, "batch": 64, "dtype": "bfloat16"},
    {"model": "ELUNet15", "size": 48, "batch": 64, "dtype": "bfloat16"},
]
CASES = [{"kind": "train"} | case for case in CASES] + [
    {"kind": "predict"} | case for case in CASES[:2]
]

# Arguments of the networks, as in the recipes.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ELUNet15": {"width": 0.25, "stem_strides": 1, "classes": 200}
}

PEERS = ROOT / ".venv-peers/bin/python"
OURS = [sys.executable, "-m", "training.benchmarks.networks", "--worker"]
PYTORCH = [str(PEERS), "-m", "training.benchmarks.pytorch_networks"]
VARIANTS = {
    "elu": [*OURS, "elu"],
    "relu": [*OURS, "relu"],
    "relu_normalized": [*OURS, "relu_normalized"],
    "pytorch": [*PYTORCH, "eager"],
    "pytorch_compiled": [*PYTORCH, "compiled"],
}
WARM_UP = 3


def peers_version() -> str:
    """Returns PyTorch's version in the peers' environment, or an empty string."""
    if not PEERS.exists():
        print(f"Without PyTorch: there is no {PEERS}; `make peers` installs it.")
        return ""
    command = [str(PEERS), "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def worker(
    command: Sequence[str], case: Mapping[str, Any]
) -> Iterator[subprocess.Popen[str]]:
    """Starts a process that times a batch when asked, and ends it after the block.

    Args:
        command: Command that takes the case as JSON.
        case: The case.

    Yields:
        The process, which has warmed up.
    """
    process = subprocess.Popen(
        [*command, json.dumps(case)],
        cwd=ROOT,
        # Waiting threads must not take time from the variant that runs.
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        ask(process)
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str]) -> float:
    """Has a worker compute a batch.

    Args:
        process: The worker.

    Returns:
        The seconds that it took.
    """
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"Expected a time. The command ended: {process.args!r}")
    return float(answer)


def examples(case: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Makes random images and labels.

    Args:
        case: An item of `CASES`.

    Returns:
        uint8 images of shape `(batch, size, size, 3)`, and integer labels.
    """
    shape = case["batch"], case["size"], case["size"], 3
    images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    return images, np.arange(case["batch"]) % 100


def answer(compute: Callable[[], Any]) -> None:
    """Answers each line of the standard input with the seconds of a call.

    Args:
        compute: Function without arguments; it is called first to warm up.
    """
    for _ in range(WARM_UP):
        compute()
    for _ in sys.stdin:
        start = time.perf_counter()
        compute()
        print(time.perf_counter() - start, flush=True)
