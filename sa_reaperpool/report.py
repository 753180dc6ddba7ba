"""A pool's state as text, for whoever is woken by it at night.

:func:`.render` is a plain function of a snapshot, which is all that it
knows; what it tells is in tables.py.
"""

from __future__ import annotations

import os
import signal
import sys
from time import localtime
from time import monotonic
from time import strftime
from types import FrameType
from typing import Any
from typing import Callable
from typing import Iterator
from typing import Protocol

from . import fork
from . import tables
from .snapshot import SHOWN
from .snapshot import Snapshot
from .snapshot import take
from .tables import Table
from .words import some


class HasNumber(Protocol):
    """A file."""

    def fileno(self) -> int: ...


# all pools


def report(shown: int | None = SHOWN) -> str:
    """The state of all pools of this process, as text.

    It waits for nothing, and asks no server.  Pools that were disposed of,
    or shut down, and have nothing left, are left out.

    :param shown: as for :meth:`.ReaperPool.report`.

    """
    taken = [take(pool, monotonic(), shown) for pool in fork.pools()]
    texts = [render(snapshot) for snapshot in taken if not snapshot.over]
    return "\n\n".join([heading(len(texts)), *texts])


def heading(count: int) -> str:
    """When this is, and where.

    :param count: of pools.

    """
    when = strftime("%Y-%m-%d %H:%M:%S %z", localtime())
    return f"{when}, process {os.getpid()}: {some(count, 'pool')}"


def report_on_signal(
    signum: int,
    file: HasNumber | None = None,
    chain: bool = False,
) -> None:
    """Have a signal write the state of all pools to the standard error::

        sa_reaperpool.report_on_signal(signal.SIGUSR1)

    and then ``kill -USR1`` with the process's number.  It works at any
    moment, in the midst of the pool's own steps as well as while the main
    thread waits for a connection, takes no lock, and changes nothing.
    Like ``faulthandler.register()``, but run by Python: a main thread that
    is inside a driver's call (of psycopg2, say, which waits for the
    server's answer there) writes it when that is over.

    A child that is forked has it too, and tells of its own pools.

    :param file: where to write to instead, by its ``fileno()``; it has to
     be kept open.

    :param chain: call the signal's former handler afterwards, if there is
     one.

    :raises ValueError: this is not the main thread, the signal is none, or
     the file has no number.

    """
    number = (sys.stderr if file is None else file).fileno()
    former = signal.getsignal(signum)
    signal.signal(signum, _Reporter(number, former if chain else None))


class _Reporter:
    """A signal's handler.

    It runs between any two lines of the main thread, which is not to meet
    an exception of this one there.
    """

    def __init__(self, number: int, former: Any):
        self._number = number
        self._former: Callable[..., object] | None = (
            former if callable(former) else None
        )

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        try:
            # not through the file, which may be in the midst of a write
            _write(self._number, report() + "\n")
        except Exception as error:
            _complain(self._number, error)
        if self._former is not None:
            self._former(signum, frame)


def _write(number: int, text: str) -> None:
    left = memoryview(text.encode("utf-8", "backslashreplace"))
    while left:
        left = left[os.write(number, left) :]


def _complain(number: int, error: Exception) -> None:
    try:
        _write(number, f"No report of the pools: {type(error).__name__}\n")
    except Exception:
        # nobody reads
        pass


# one pool


def render(snapshot: Snapshot) -> str:
    """A snapshot, for people."""
    lines = [tables.counts(snapshot), f"  {tables.counters(snapshot)}"]
    error = tables.connect_error(snapshot)
    if error is not None:
        lines.append(f"  {error}")
    for table in tables.tables(snapshot):
        lines += _aligned(table)
    return "\n".join(lines)


def _aligned(table: Table) -> Iterator[str]:
    if table.title:
        yield f"  {table.title}"
    columns = []
    for title, number, cells in table.columns:
        width = max(map(len, [title, *cells]))
        side = ">" if number else "<"
        columns.append([f"{cell:{side}{width}}" for cell in [title, *cells]])
    for row in zip(*columns):
        yield f"    {'  '.join(row)}".rstrip()
    if table.more:
        yield f"  {table.more}"
