"""How long things take, in histograms; off unless an exporter wants them.

``pool.timings`` is None, or what the pool tells its times to.  A return
appends to a list, and every so often the lists are counted all at once,
which is several times as fast as to count each time.  Of a checkout that
waits for nothing it is only counted that there was one.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from bisect import bisect_right
from collections import deque
from typing import Callable

from .stats import counted

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
    """What a pool tells its times to, from any thread, at any moment.

    Each is one step.  Who tells one outside of the short way (adapter/) calls
    :meth:`.count_if_many` after it, and who goes that way does so now and
    then.
    """

    at_once: itertools.count[int]
    """Step it on for a checkout that got a connection without a wait."""

    waited: Callable[[float], None]
    """Call it with the seconds that any other checkout took to get one."""

    used: Callable[[float], None]
    """Call it with the seconds for which a returned connection was out."""

    created: Callable[[float], None]
    """Call it with the seconds that it took to open a connection."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque()
        self._uses: deque[float] = deque()
        self._creates: deque[float] = deque()
        self._counted = Histograms()
        self._at_once = 0
        self._lock = threading.RLock()
        self.at_once = itertools.count()
        self.waited = self._waits.append
        self.used = self._uses.append
        self.created = self._creates.append

    def count_if_many(self) -> None:
        """Leave no list to grow for ever."""
        if (
            len(self._uses) > _AT_ONCE
            or len(self._waits) > _AT_ONCE
            or len(self._creates) > _AT_ONCE
        ):
            self.histograms()

    def histograms(self) -> Histograms:
        """All that was told so far.

        Asked by a signal's handler or a finaliser in the midst of the count
        of its own thread, it is what was counted before.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            return self._counted
        # one line on purpose, see queue.py
        with self._lock: return self._count()  # fmt: skip

    def _count(self) -> Histograms:
        so_far = counted(self.at_once)
        at_once, self._at_once = so_far - self._at_once, so_far
        self._counted += Histograms(
            _histogram(self._waits) + _none_at_all(at_once),
            _histogram(self._uses),
            _histogram(self._creates),
        )
        return self._counted


def _none_at_all(times: int) -> Histogram:
    """So many times of no seconds."""
    return Histogram((times, *Histogram().counts[1:]))


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
