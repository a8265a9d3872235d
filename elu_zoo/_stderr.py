"""What libraries write to the standard error on their own."""

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; shows it if the block fails."""
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:
        yield
        return
    with os.fdopen(stderr, "wb") as real, tempfile.TemporaryFile() as held:
        watched = not faulthandler.is_enabled()
        if watched:
            # A crash, such as an illegal instruction, must not be silent.
            faulthandler.enable(real)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, ImportError | KeyboardInterrupt):
                held.seek(0)
                real.write(held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            if watched:
                faulthandler.disable()
