"""What is counted of a pool, and of those that were there before it.

An engine's ``dispose()`` puts a new pool in the place of the old one, whose
connections may be out still.  What exporters tell is of both: the counters
outlive the pool, and are handed on to the next one.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter
from typing import Any
from typing import NamedTuple

from .stats import Tally
from .stats import counted
from .stats import seen


class Waits:
    """Of those who waited, and have been served or not."""

    __slots__ = ("number", "seconds", "longest")

    def __init__(self) -> None:
        self.number = 0
        self.seconds = 0.0
        self.longest = 0.0


class Counters(NamedTuple):
    """Those of one pool, without the pool."""

    tally: Tally
    checkouts: itertools.count[int]
    waits: Waits

    def read(self) -> Counter[str]:
        """By the names of :class:`.Stats`; ``closed`` with the reason."""
        found: Counter[str] = Counter(seen(self.tally))
        found["checkouts"] = counted(self.checkouts)
        found["waits"] = self.waits.number
        found["waited"] = self.waits.seconds  # type: ignore[assignment]
        return found


class History:
    """The pools that one after the other were in the same place."""

    def __init__(self) -> None:
        # the last one is the present one
        self._pools: dict[weakref.ref[Any], Counters] = {}
        self._past: Counter[str] = Counter()
        self._lock = threading.RLock()

    def goes_on_with(self, pool: Any, counters: Counters) -> None:
        """From now on this pool is the present one."""
        # not one more for each dispose() there ever was
        with self._lock: self._put_away()  # fmt: skip
        self._pools[weakref.ref(pool)] = counters

    def is_over_for(self, pool: Any) -> bool:
        """Has another one taken this pool's place?"""
        last = next(reversed(self._pools.copy()), None)
        return last is not None and last() is not pool

    @property
    def over(self) -> bool:
        """Are all of them gone?"""
        return all(ref() is None for ref in self._pools.copy())

    def totals(self) -> Counter[str]:
        """All counters together, which never fall."""
        # one line on purpose, see queue.py
        with self._lock: return self._add_up()  # fmt: skip

    def _put_away(self) -> None:
        """Keep what those counted that are gone."""
        for ref in list(self._pools):
            if ref() is None:
                # it is only here from now on, whoever else looks meanwhile
                gone = self._pools.pop(ref, None)
                if gone is not None:
                    self._past.update(_at_the_end(gone.read()))

    def _add_up(self) -> Counter[str]:
        self._put_away()
        totals = self._past.copy()
        for counters in list(self._pools.values()):
            totals.update(counters.read())
        return totals


def _at_the_end(counters: Counter[str]) -> Counter[str]:
    """What was open was left to the driver, which closes it as it goes."""
    closed = sum(
        count for name, count in counters.items() if name.startswith("closed ")
    )
    if counters["opened"] > closed:
        counters["closed shutdown"] += counters["opened"] - closed
    return counters
