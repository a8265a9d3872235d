"""Ending a run on SIGINT or SIGTERM without losing its steps."""

import os
import signal
import socket
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds for a process to leave a call that waits for other workers.
GRACE = 1.0


class Stopped(BaseException):
    """The run was asked to stop, and stopped.

    Like `KeyboardInterrupt`, it is not an `Exception`, which code on the way might
    catch.

    Args:
        number: Number of the signal.

    Attributes:
        status: Exit status of a process that the signal ends.

    Example:

    >>> stop = Stopped(signal.SIGTERM)
    >>> str(stop), stop.status
    ('SIGTERM', 143)
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Stopping:
    """Notes SIGINT and SIGTERM, so that the training loop stops at its next step.

    Before the loop asks for the first time, a signal raises `Stopped`; if the main
    thread cannot raise it, because it waits for another worker, the process ends after
    `GRACE` seconds. A second signal ends it at once.

    Attributes:
        requested: Number of the signal that came, or `None`.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._in_loop = False

    def asked(self) -> bool:
        """Returns whether to stop; after the first call, signals wait for the next."""
        self._in_loop = True
        return self.requested is not None

    def check(self) -> None:
        """Raises an error if a signal came.

        Raises:
            Stopped: If a signal came.
        """
        if self.requested is not None:
            raise Stopped(self.requested)

    def __enter__(self) -> "Stopping":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._descriptor = signal.set_wakeup_fd(
                self._writer.fileno(), warn_on_full_buffer=False
            )
            self._handlers = {n: signal.signal(n, self._note) for n in SIGNALS}
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._active:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._descriptor)
            self._writer.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        if not self._in_loop:
            raise Stopped(number)

    def _watch(self) -> None:
        number = self._next(None)
        if number is None:
            return
        second = self._next(None if self._in_loop else GRACE)
        if second == 0 and self.requested is not None:
            # The main thread is stopping, if slowly.
            second = self._next(5 * GRACE)
        if second is not None:
            os.write(2, f"Stopped by {signal.Signals(number).name}.\n".encode())
            os._exit(128 + number)

    def _next(self, timeout: float | None) -> int | None:
        """The next signal; 0 if none came in time, `None` after the end."""
        self._reader.settimeout(timeout)
        while True:
            try:
                received = self._reader.recv(1)
            except TimeoutError:
                return 0
            if not received:
                return None
            if received[0] in SIGNALS:
                return received[0]
