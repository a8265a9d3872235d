"""Waiting for the other workers in Python, where a signal can end the wait.

TensorFlow waits for them too, but in C++ and with its own handler of SIGTERM.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator, Sequence

READY = b"elu_zoo: all workers are here\n"
# Seconds between attempts to reach the chief.
PAUSE = 0.2


def wait_for_all(addresses: Sequence[str], index: int) -> None:
    """Returns once all workers have called it.

    Args:
        addresses: `"host:port"` of each worker. The first worker listens there until
            all are present, and then leaves the port to TensorFlow.
        index: Number of this worker, from 0.
    """
    host, _, port = addresses[index and 0].rpartition(":")
    if index == 0:
        _gather(int(port), len(addresses))
        return
    while not _attend(host.strip("[]"), int(port), index):
        time.sleep(PAUSE)


def _gather(port: int, workers: int) -> None:
    with _server(port) as server, contextlib.ExitStack() as stack:
        present: dict[int, socket.socket] = {}
        while len(present) < workers - 1:
            readable, *_ = select.select([server, *present.values()], [], [], PAUSE)
            # A connection that becomes readable was closed by its worker.
            present = {i: one for i, one in present.items() if one not in readable}
            if server in readable:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(5)
                with contextlib.suppress(OSError, ValueError):
                    present[int(connection.makefile().readline())] = connection
        for connection in present.values():
            with contextlib.suppress(OSError):
                connection.sendall(READY)


@contextlib.contextmanager
def _server(port: int) -> Iterator[socket.socket]:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(
        ("", port), family=family, dualstack_ipv6=both, reuse_port=True
    ) as server:
        yield server


def _attend(host: str, port: int, index: int) -> bool:
    """Whether the chief says that all are present; false if it is absent itself."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(f"{index}\n".encode())
            connection.settimeout(None)
            # TensorFlow of an earlier chief may answer differently.
            return connection.makefile("rb").readline() == READY
    except OSError:
        return False
