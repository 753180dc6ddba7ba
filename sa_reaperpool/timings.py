"""How long things take, in histograms; off unless an exporter wants them.

``pool.timings`` is None, or what the pool tells its times to.  A checkout
appends to a list, and every so often the lists are counted all at once,
which is several times as fast as to count each time.
"""

from __future__ import annotations

import dataclasses
import threading
from bisect import bisect_right
from collections import deque
from typing import Callable

BOUNDS = (
    *(0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0),
    *(10.0, 30.0),
)
"""Seconds, each the end of a bucket, which it belongs to; the last bucket
has none."""

_AT_ONCE = 1000
"""So many times are counted at once."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many times were how long."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """By bucket."""

    sums: tuple[float, ...] = (0.0,) * (len(BOUNDS) + 1)
    """Seconds, by bucket."""

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(
            tuple(map(sum, zip(self.counts, other.counts))),
            tuple(map(sum, zip(self.sums, other.sums))),
        )


@dataclasses.dataclass(frozen=True)
class Histograms:
    """Those of a pool."""

    wait: Histogram = Histogram()
    """From the beginning of a checkout to its connection."""

    use: Histogram = Histogram()
    """From a checkout to the return."""

    create: Histogram = Histogram()
    """Opening a connection."""

    def __add__(self, other: Histograms) -> Histograms:
        return Histograms(
            self.wait + other.wait,
            self.use + other.use,
            self.create + other.create,
        )


class Timings:
    """What a pool tells its times to, from any thread, at any moment."""

    waited: Callable[[float], None]
    """Call it with the seconds that a checkout took to get a connection."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque()
        self._uses: deque[float] = deque()
        self._creates: deque[float] = deque()
        self._counted = Histograms()
        self._lock = threading.RLock()
        # one step, and the cheapest: it is called most, and used() sees to
        # it that the list is not for ever
        self.waited = self._waits.append

    def used(self, seconds: float) -> None:
        """A connection was returned after so long."""
        self._uses.append(seconds)
        if len(self._uses) > _AT_ONCE:
            self._count_some()

    def created(self, seconds: float) -> None:
        """A connection was opened, which took so long."""
        self._creates.append(seconds)
        if max(len(self._creates), len(self._waits)) > _AT_ONCE:
            self._count_some()

    def _count_some(self) -> None:
        # not in the midst of that, should a finaliser return something there
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            self.histograms()

    def histograms(self) -> Histograms:
        """All that was told so far."""
        # one line on purpose, see queue.py
        with self._lock: return self._count()  # fmt: skip

    def _count(self) -> Histograms:
        self._counted += Histograms(
            _histogram(self._waits),
            _histogram(self._uses),
            _histogram(self._creates),
        )
        return self._counted


def _histogram(seconds: deque[float]) -> Histogram:
    """Take what is there, and count it."""
    batch = [seconds.popleft() for _ in range(len(seconds))]
    batch.sort()
    counts, sums, begin = [], [], 0
    for bound in BOUNDS:
        end = bisect_right(batch, bound, begin)
        counts.append(end - begin)
        sums.append(sum(batch[begin:end]))
        begin = end
    counts.append(len(batch) - begin)
    sums.append(sum(batch[begin:]))
    return Histogram(tuple(counts), tuple(sums))
