"""What happened, written down outside of the database, in order.

One file of lines, each written by one system call that appends: so threads
and forked children share it without a lock, and its order is the order in
which they wrote.  What a line says had happened before it was written, or
had not yet begun, as told for each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# of a transfer, by its number
BEGUN = "begun"
"""Nothing was sent yet."""
FAILED = "failed"
"""An error before its COMMIT was sent; it may be tried again."""
ASKED = "asked"
"""Its COMMIT is sent next."""
DONE = "done"
"""Its COMMIT was confirmed."""
UNKNOWN = "unknown"
"""An error in place of a confirmation."""

# of a connection, by its name
TAKE = "take"
"""Somebody has it; written after the checkout."""
LEAVE = "leave"
"""Nobody has it; written before the return."""

# of the run
FAULT = "fault"
"""One begins, by its name."""
CALM = "calm"
"""It is over, and the database is there."""
UP = "up"
"""A server that was killed accepts connections again."""


class Line(NamedTuple):
    at: float
    """Seconds on the monotonic clock, which processes share."""
    process: int
    event: str
    name: str


class Journal:
    """The file, which has no name, so that it ends with who has it open.

    :param folder: on the disk that it is to be on.

    """

    def __init__(self, folder: Path) -> None:
        path = folder / f"torture-{os.getpid()}-{time.monotonic_ns()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o600)
        try:
            self._reader = path.open()
        finally:
            path.unlink()

    def write(self, event: str, name: str) -> None:
        line = f"{time.monotonic():.6f} {os.getpid()} {event} {name}\n"
        os.write(self._descriptor, line.encode())

    def lines(self) -> Iterator[Line]:
        """What was written until now; for one reader at a time."""
        self._reader.seek(0)
        for line in self._reader:
            at, process, event, name = line.split()
            yield Line(float(at), int(process), event, name)

    def close(self) -> None:
        self._reader.close()
        os.close(self._descriptor)
