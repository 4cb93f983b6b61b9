"""One run at a time in a work directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import disk_errors

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a directory; it is given back by the system when the process ends, however it ends.

    Raises UserError, naming the process, when another one holds it.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / NAME).open("a+")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise UserError(
                f"{folder} is in use by another run (process {holder}); wait for it, or give another --work-dir"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
