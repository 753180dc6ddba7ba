"""What a snapshot says, in sentences and tables, for any kind of page.

What is most likely the trouble comes first: who holds a connection, longest
held first, then who waits.  Plain functions of the snapshot; whatever
others have named is on one line, short, and without control characters.
"""

from __future__ import annotations

from collections import Counter
from typing import Iterable
from typing import Iterator
from typing import NamedTuple
from typing import Sequence

from .lease import LeaseInfo
from .snapshot import ConnectionInfo
from .snapshot import LineInfo
from .snapshot import Snapshot
from .snapshot import WaitingInfo
from .words import duration
from .words import one_line
from .words import some

_LONGEST_NAME = 32
_LONGEST_LABEL = 40
_LONGEST_LINE = 200


class Column(NamedTuple):
    """A column of a table."""

    title: str
    number: bool
    cells: tuple[str, ...]


class Table(NamedTuple):
    """Columns of one length, but for those with nothing in them."""

    columns: list[Column]
    title: str = ""
    more: str = ""
    """What is counted, and not in it."""


def counts(snapshot: Snapshot) -> str:
    """How many there are now, and where."""
    return f"Pool {one_line(snapshot.name, _LONGEST_LINE)!r}: {now(snapshot)}"


def now(snapshot: Snapshot) -> str:
    """How many there are now."""
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
    text = ", ".join(parts)
    if not stats.waiting:
        return f"{text}; nobody waits"
    waits = "thread waits" if stats.waiting == 1 else "threads wait"
    longest = max((each.seconds for each in snapshot.waiting), default=0.0)
    return f"{text}; {stats.waiting} {waits}, longest {duration(longest)}"


def counters(snapshot: Snapshot) -> str:
    """How many there were so far."""
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
    return f"so far: {'; '.join(parts)}"


def connect_error(snapshot: Snapshot) -> str | None:
    """The newest, if nothing was opened since."""
    if snapshot.connect_error is None:
        return None
    return (
        f"newest connect error, {duration(snapshot.failed_ago)} ago: "
        f"{one_line(snapshot.connect_error, 400)}"
    )


def tables(snapshot: Snapshot) -> Iterator[Table]:
    """The connections, and who waits."""
    yield from _connections(snapshot)
    yield from _waiting(snapshot)


def _connections(snapshot: Snapshot) -> Iterator[Table]:
    shown = snapshot.connections
    stats = snapshot.stats
    states = Counter(_group(each) for each in shown)
    more = {
        "in use": stats.in_use + snapshot.disposed - states["in use"],
        "opening or in transit": stats.opening - states["opening"],
        "idle": stats.idle - states["idle"],
    }
    left = [f"{count} {state}" for state, count in more.items() if count > 0]
    yield _table(
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
        more=f"and {', '.join(left)}" if left else "",
    )
    if more["in use"] > 0:
        yield _lines("in use, by line:", snapshot.holding_lines)


def _group(each: ConnectionInfo) -> str:
    return "opening" if each.state == "in transit" else each.state


def _connection(each: ConnectionInfo) -> tuple[str, ...]:
    lease = each.lease
    return (
        state(each),
        _maybe(each.seconds),
        _maybe(None if lease is None else lease.unused_for),
        _maybe(each.age),
        _transaction(lease),
        "" if lease is None else holders(lease),
        _label(None if lease is None else lease.label),
        "" if lease is None else one_line(lease.where, _LONGEST_LINE),
    )


def state(each: ConnectionInfo) -> str:
    """What a connection is doing, in one word or two."""
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


def holders(lease: LeaseInfo) -> str:
    """Who took or used it."""
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


def _waiting(snapshot: Snapshot) -> Iterator[Table]:
    shown = snapshot.waiting
    more = snapshot.stats.waiting - len(shown)
    yield _table(
        (">waits", "thread", "label", "line"),
        [_waits(each) for each in shown],
        more=f"and {more} more wait" if more > 0 else "",
    )
    if more > 0:
        yield _lines("waiting, by line:", snapshot.waiting_lines)


def _waits(each: WaitingInfo) -> tuple[str, ...]:
    name = "?" if each.thread is None else each.thread
    return (
        duration(each.seconds),
        one_line(name, _LONGEST_NAME)
        + (" (for its turn to connect)" if each.connects else ""),
        _label(each.label),
        "" if each.where is None else one_line(each.where, _LONGEST_LINE),
    )


def _lines(title: str, lines: Iterable[LineInfo]) -> Table:
    return _table(
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
        title,
    )


def _table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    more: str = "",
) -> Table:
    """Leaves out columns with nothing in them.

    :param titles: with a ``>`` for a column of numbers.

    """
    columns = [
        Column(name.lstrip(">"), name.startswith(">"), tuple(cells))
        for name, *cells in zip(titles, *rows)
        if any(cells)
    ]
    return Table(columns, title, more)
