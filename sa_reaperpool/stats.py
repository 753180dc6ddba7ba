"""Counters, and the snapshot of them that users get."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections import Counter
from collections import deque
from typing import Any
from typing import Mapping
from typing import NoReturn


class Closed(dict[str, int]):
    """Counts that cannot be changed, and go wherever a dictionary does:
    through ``dataclasses.asdict()``, JSON, pickle and copies."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("statistics are of one moment, and do not change")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        # not item by item
        return type(self), (dict(self),)


@dataclasses.dataclass(frozen=True)
class Stats:
    """A pool as it was when asked.

    The first six are of that moment; the others count since the pool was
    made.  A connection that was out at a ``dispose()`` counts as closed by
    ``shutdown`` when it is closed, and no more as in use.

    """

    size: int
    """Connections kept open when idle; 0 for any number."""

    limit: int | None
    """Connections that may exist at once; None for any number."""

    idle: int
    """Open connections that nobody holds."""

    in_use: int
    """Connections that are checked out."""

    opening: int
    """Slots in transit: being opened, checked, reset or closed."""

    waiting: int
    """Threads that wait for a connection."""

    checkouts: int
    waits: int
    """Checkouts that had to wait and have waited, served or not."""

    waited: float
    """Seconds that they waited, all together."""

    longest_wait: float
    """The longest of those waits, in seconds."""

    timeouts: int
    """Checkouts that got nothing: ``CheckoutTimeout`` of whatever kind."""

    opened: int
    connect_failures: int
    closed: Mapping[str, int]
    """Closed connections by reason: ``idle`` (one too many, or unused for
    idle_timeout, or flushed), ``age``, ``dead``, ``reaped``,
    ``reclaimed``, ``refreshed``, ``failed`` (invalidated), ``shutdown``
    (disposed of, or shut down), ``detached``."""


def counted(counter: itertools.count[int]) -> int:
    """How many times this was stepped on: its repr tells, and steps on
    nothing."""
    return int(repr(counter)[len("count(") : -1])


class Tally:
    """Counts what happens, from any thread, at any moment.

    Appending to a deque is one atomic step, so that neither an interrupted
    line nor a finaliser in the middle of another count falsifies it.
    """

    def __init__(self) -> None:
        self._events: deque[str] = deque()
        self._totals: Counter[str] = Counter()
        self._lock = threading.RLock()

    def add(self, event: str) -> None:
        self._events.append(event)
        # not in the middle of a fold, should a finaliser count there
        if len(self._events) > 1000 and not self._lock._is_owned():  # type: ignore[attr-defined]
            self.totals()

    def totals(self) -> dict[str, int]:
        # one line on purpose, see queue.py
        with self._lock: return self._fold()  # fmt: skip

    def _fold(self) -> dict[str, int]:
        for _ in range(len(self._events)):
            self._totals[self._events.popleft()] += 1
        return dict(self._totals)


def seen(tally: Tally) -> dict[str, int]:
    """What is counted, without counting it: that takes a lock.

    While another thread counts, what it has in its hands is missing.
    """
    for _ in range(10):
        totals = dict(tally._totals)
        events = list(tally._events)
        if totals == dict(tally._totals):
            # nobody has counted one of these events meanwhile
            break
    for event in events:
        totals[event] = totals.get(event, 0) + 1
    return totals
