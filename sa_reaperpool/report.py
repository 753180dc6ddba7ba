"""A pool's state as text, for whoever is woken by it at night.

What is most likely the trouble comes first: who holds a connection, longest
held first, then who waits.  :func:`.render` is a plain function of a
snapshot, which is all that it knows.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from time import localtime
from time import monotonic
from time import strftime
from types import FrameType
from typing import Any
from typing import Callable
from typing import Iterable
from typing import Iterator
from typing import Protocol
from typing import Sequence

from . import fork
from .lease import LeaseInfo
from .snapshot import SHOWN
from .snapshot import ConnectionInfo
from .snapshot import LineInfo
from .snapshot import Snapshot
from .snapshot import WaitingInfo
from .snapshot import take
from .words import duration
from .words import one_line
from .words import some

_LONGEST_NAME = 32
_LONGEST_LABEL = 40
_LONGEST_LINE = 200


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
    when = strftime("%Y-%m-%d %H:%M:%S %z", localtime())
    what = f"{when}, process {os.getpid()}: {some(len(texts), 'pool')}"
    return "\n\n".join([what, *texts])


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
    lines = [_counts(snapshot), _counters(snapshot)]
    if snapshot.connect_error is not None:
        lines.append(
            f"  newest connect error, {duration(snapshot.failed_ago)} ago: "
            f"{one_line(snapshot.connect_error, 400)}"
        )
    lines += _connections(snapshot)
    lines += _waiting(snapshot)
    return "\n".join(lines)


def _counts(snapshot: Snapshot) -> str:
    stats = snapshot.stats
    what = f"{stats.in_use} in use"
    if stats.limit is not None:
        what = f"{stats.in_use} of {stats.limit} in use"
    parts = [what, f"{stats.idle} idle"]
    if stats.opening:
        parts.append(f"{stats.opening} opening or in transit")
    if snapshot.disposed:
        parts.append(f"{snapshot.disposed} from before a dispose()")
    if snapshot.shut:
        parts.append("shut down")
    text = f"Pool {one_line(snapshot.name)!r}: {', '.join(parts)}"
    if not stats.waiting:
        return f"{text}; nobody waits"
    waits = "thread waits" if stats.waiting == 1 else "threads wait"
    longest = max((each.seconds for each in snapshot.waiting), default=0.0)
    return f"{text}; {stats.waiting} {waits}, longest {duration(longest)}"


def _counters(snapshot: Snapshot) -> str:
    stats = snapshot.stats
    parts = [some(stats.checkouts, "checkout")]
    if stats.waits:
        parts.append(
            f"{stats.waits} waited, longest {duration(stats.longest_wait)}"
        )
    if stats.timeouts:
        parts.append(f"{stats.timeouts} timed out")
    parts.append(f"{stats.opened} opened")
    if stats.connect_failures:
        parts.append(f"{some(stats.connect_failures, 'connect')} failed")
    closed = ", ".join(
        f"{count} {reason}" for reason, count in sorted(stats.closed.items())
    )
    if closed:
        parts.append(f"{sum(stats.closed.values())} closed ({closed})")
    return f"  so far: {'; '.join(parts)}"


def _connections(snapshot: Snapshot) -> Iterator[str]:
    shown = snapshot.connections
    yield from _table(
        (
            "state",
            ">for",
            ">unused",
            ">age",
            "transaction",
            "held by",
            "label",
            "line",
        ),
        [_connection(each) for each in shown],
    )
    stats = snapshot.stats
    states = Counter(_group(each) for each in shown)
    more = {
        "in use": stats.in_use + snapshot.disposed - states["in use"],
        "opening or in transit": stats.opening - states["opening"],
        "idle": stats.idle - states["idle"],
    }
    left = [f"{count} {state}" for state, count in more.items() if count > 0]
    if left:
        yield f"  and {', '.join(left)}"
    if more["in use"] > 0:
        yield from _lines("in use, by line:", snapshot.holding_lines)


def _group(each: ConnectionInfo) -> str:
    return "opening" if each.state == "in transit" else each.state


def _connection(each: ConnectionInfo) -> tuple[str, ...]:
    lease = each.lease
    return (
        _state(each),
        _maybe(each.seconds),
        _maybe(None if lease is None else lease.unused_for),
        _maybe(each.age),
        _transaction(lease),
        "" if lease is None else _holders(lease),
        _label(None if lease is None else lease.label),
        "" if lease is None else one_line(lease.where, _LONGEST_LINE),
    )


def _state(each: ConnectionInfo) -> str:
    if each.lease is None:
        return each.state
    if each.disposed:
        return "disposed"
    if each.lease.kept:
        return "kept"
    return "reserved" if each.reserved else each.state


def _transaction(lease: LeaseInfo | None) -> str:
    if lease is None or not lease.in_transaction:
        return ""
    return "open"


def _holders(lease: LeaseInfo) -> str:
    names = [
        one_line(holder.name, _LONGEST_NAME)
        + ("" if holder.alive else " (ended)")
        for holder in lease.holders[:2]
    ]
    more = len(lease.holders) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _label(label: str | None) -> str:
    return "" if label is None else one_line(label, _LONGEST_LABEL)


def _maybe(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _waiting(snapshot: Snapshot) -> Iterator[str]:
    shown = snapshot.waiting
    yield from _table(
        (">waits", "thread", "label", "line"), [_waits(each) for each in shown]
    )
    more = snapshot.stats.waiting - len(shown)
    if more > 0:
        yield f"  and {more} more wait"
        yield from _lines("waiting, by line:", snapshot.waiting_lines)


def _waits(each: WaitingInfo) -> tuple[str, ...]:
    name = "?" if each.thread is None else each.thread
    return (
        duration(each.seconds),
        one_line(name, _LONGEST_NAME)
        + (" (for its turn to connect)" if each.connects else ""),
        _label(each.label),
        "" if each.where is None else one_line(each.where, _LONGEST_LINE),
    )


def _lines(title: str, lines: Iterable[LineInfo]) -> Iterator[str]:
    yield f"  {title}"
    yield from _table(
        (">count", ">longest", "label", "line"),
        [
            (
                str(each.count),
                duration(each.seconds),
                _label(each.label),
                one_line(each.where, _LONGEST_LINE),
            )
            for each in lines
        ],
    )


def _table(
    titles: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Aligned columns; those with nothing in them are left out.

    :param titles: with a ``>`` for a column of numbers.

    """
    columns = []
    for title, *cells in zip(titles, *rows):
        if any(cells):
            name = title.lstrip(">")
            width = max(map(len, [name, *cells]))
            side = ">" if title.startswith(">") else "<"
            columns.append(
                [f"{cell:{side}{width}}" for cell in [name, *cells]]
            )
    for row in zip(*columns):
        yield f"    {'  '.join(row)}".rstrip()
