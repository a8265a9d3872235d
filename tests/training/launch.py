"""Starts training commands in processes of their own, one or several workers."""

import io
import json
import logging
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from environment import on_backend

from training.engine.checkpoint import find

ROOT = pathlib.Path(__file__).parents[2]

SUPERVISOR = ROOT / "training/cluster/supervise.sh"


def outcome(main, *arguments):
    """Exit status and stderr of a command of `training`, in this process."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as errors:
        patch.setattr(os, "_exit", sys.exit)
        patch.setattr(sys, "stderr", errors)
        # The handler of the log keeps the stderr of its time.
        patch.setattr(logging.getLogger("training"), "handlers", [])
        try:
            status = main(list(map(str, arguments))) or 0
        except SystemExit as stop:
            status = stop.code
        if isinstance(status, str):
            print(status, file=errors)
            status = 1
        return status, errors.getvalue()


def command(recipe_path, data_dir, out, *more):
    return [
        *(sys.executable, "-m", "training.train", str(recipe_path)),
        *("--data", str(data_dir), "--out", str(out), "--quiet"),
        *("--log-every", "5", "--checkpoint-every", "5", *more),
    ]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start(arguments, logs, workers=1, backend="tensorflow", supervised=False):
    """Starts the command once for each worker; their output goes to `logs`."""
    if supervised:
        arguments = ["bash", str(SUPERVISOR), *arguments]
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    processes = []
    for worker in range(workers):
        environ = on_backend(backend) | {"SUPERVISE_PAUSE": "1"}
        if workers > 1:
            environ["TF_CONFIG"] = json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": worker},
                }
            )
        with (logs / f"worker{worker}.log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    arguments, cwd=ROOT, env=environ, stdout=log, stderr=log
                )
            )
    return processes


def finish(processes, logs, timeout=600):
    """Waits for all; fails with their output unless all succeed."""
    try:
        codes = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    text = "\n".join(path.read_text() for path in sorted(logs.glob("*.log")))
    assert not any(codes), f"exit statuses {codes}\n{text}"
    return text


def arrays(out):
    """The arrays of the newest checkpoint."""
    with np.load(find(out)[0]) as file:
        return {name: file[name] for name in file.files if name != "meta.json"}
