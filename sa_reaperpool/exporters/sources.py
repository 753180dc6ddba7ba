"""What exporters read: the figures of pools, by name.

Pools of one name are one here, and added up: so are the pools that an
engine had before and after a ``dispose()``.  Counters never fall, although
a pool that is gone takes its own along.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import Counter
from typing import Any
from typing import Mapping
from typing import Union

from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError

from .. import fork
from .. import process
from .. import redact
from ..pool import ReaperPool
from ..snapshot import name_of
from ..stats import Stats
from ..timings import Histograms
from ..timings import Timings
from ..words import one_line

Source = Union[Engine, ReaperPool]

_COUNTERS = (
    "checkouts",
    "waits",
    "waited",
    "timeouts",
    "opened",
    "connect_failures",
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """The figures of a name."""

    name: str
    states: Mapping[str, int]
    """Connections: ``idle``, ``used`` and ``opening``."""

    waiting: int
    longest_wait: float
    most: int | None
    """Connections that may exist; None for any number."""

    most_idle: int | None
    least_idle: int
    counters: Mapping[str, float]
    """By the names of :class:`.Stats`."""

    closed: Mapping[str, int]
    """Closed connections by reason."""

    histograms: Histograms | None
    """None where they are off."""


class Sources:
    """Where an exporter reads.

    :param given: engines and pools, which are referred to weakly; of an
     engine that which it has at the time.  Without any, all pools of the
     process at the time.

    :param histograms: have their times measured.

    :raises sqlalchemy.exc.ArgumentError: one is neither a ReaperPool nor an
     engine with one.

    """

    def __init__(self, given: tuple[Source, ...], histograms: bool):
        for each in given:
            _check(each)
        self._given = [weakref.ref(each) for each in given]
        self.all = not given
        self._histograms = histograms
        self._begin()
        if histograms:
            # from now on
            self.read()

    @property
    def lock(self) -> threading.RLock:
        """Held while they are read."""
        if process.number != self._process:
            # a forked child, whose pools begin anew; a thread of its
            # parent's may have had the lock
            self._begin()
        return self._lock

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._process = process.number
        # by pool: its name and counters when it was last read
        self._known: dict[weakref.ref[Any], tuple[str, Counter[str]]] = {}
        # by name: those of pools that are gone
        self._gone: dict[str, Counter[str]] = {}
        # by name: where all its pools' times are, or were, counted
        self._timings: dict[str, dict[int, Timings]] = {}

    def read(self) -> list[Reading]:
        """The figures as they are now."""
        with self.lock:
            return self._read()

    def _read(self) -> list[Reading]:
        pools = self.pools()
        present = {weakref.ref(pool) for pool, _ in pools}
        for ref in self._known.keys() - present:
            name, counters = self._known.pop(ref)
            pool = ref()
            if pool is not None:
                # as it is an engine's no more
                counters = _counters(pool.stats())
            self._gone.setdefault(name, Counter()).update(counters)
        groups: dict[str, list[tuple[ReaperPool, Stats]]] = {}
        for pool, name in pools:
            stats = pool.stats()
            self._known[weakref.ref(pool)] = (name, _counters(stats))
            groups.setdefault(name, []).append((pool, stats))
            if pool.timings is not None:
                # an engine's next pool goes on with the last one's
                known = self._timings.setdefault(name, {})
                known[id(pool.timings)] = pool.timings
        for by_name in (self._gone, self._timings):
            for name in by_name.keys() - groups.keys():
                del by_name[name]
        return [self._reading(name, group) for name, group in groups.items()]

    def pools(self) -> list[tuple[ReaperPool, str]]:
        """The pools as they are now, each with its name."""
        found: dict[ReaperPool, str] = {}
        if self.all:
            found = {pool: name_of(pool) for pool in fork.pools()}
        for ref in self._given:
            source: Any = ref()
            if isinstance(source, ReaperPool):
                found[source] = name_of(source)
            elif source is not None:
                found[source.pool] = _name_of_engine(source)
        if self._histograms:
            for pool in found:
                if pool.timings is None:
                    pool.timings = Timings()
        return [
            (pool, one_line(name, 200).strip() or "-")
            for pool, name in found.items()
        ]

    def _reading(
        self, name: str, group: list[tuple[ReaperPool, Stats]]
    ) -> Reading:
        stats = [each for _, each in group]
        counters = Counter(self._gone.get(name, {}))
        for pool, _ in group:
            counters.update(self._known[weakref.ref(pool)][1])
        # what was disposed of has a limit still, but no use for it
        open_ones = [
            (pool, each) for pool, each in group if _is_open(pool, each)
        ] or group[-1:]
        return Reading(
            name=name,
            states={
                "idle": sum(each.idle for each in stats),
                "used": sum(each.in_use for each in stats),
                "opening": sum(each.opening for each in stats),
            },
            waiting=sum(each.waiting for each in stats),
            longest_wait=max(each.longest_wait for each in stats),
            most=_sum_of([each.limit for _, each in open_ones]),
            most_idle=_sum_of([each.size or None for _, each in open_ones]),
            least_idle=sum(pool.settings.min_idle for pool, _ in open_ones),
            counters={each: counters[each] for each in _COUNTERS},
            closed={
                event.removeprefix("closed "): count
                for event, count in sorted(counters.items())
                if event.startswith("closed ")
            },
            histograms=_histograms(self._timings.get(name)),
        )


def _check(source: object) -> None:
    pool = getattr(source, "pool", source)
    if not isinstance(pool, ReaperPool):
        raise ArgumentError(
            "An exporter takes engines whose pool is a ReaperPool, or such "
            f"pools; this is {type(pool).__name__}"
        )


def _name_of_engine(engine: Engine) -> str:
    """As OpenTelemetry's conventions ask for, where the pool has none.

    :return: address, port and database, as far as they are given; never
     who connects, nor a password.

    """
    pool: Any = engine.pool
    given: str | None = pool.given_name
    if given is not None:
        return given
    url = engine.url
    backend = url.get_backend_name()
    port = "" if url.port is None else f":{url.port}"
    database = "" if url.database is None else f"/{url.database}"
    # but for a path: from a password that is not encoded, as the host then is
    if "@" in database and backend != "sqlite":
        return f"{backend}/***"
    address = redact.host(url.host) if url.host else backend
    return redact.named(f"{address}{port}{database}")


def _is_open(pool: ReaperPool, stats: Stats) -> bool:
    return pool.started or not stats.opened


def _counters(stats: Stats) -> Counter[str]:
    counters: Counter[str] = Counter()
    for name in _COUNTERS:
        counters[name] = getattr(stats, name)
    for reason, count in stats.closed.items():
        counters[f"closed {reason}"] = count
    return counters


def _sum_of(limits: list[int | None]) -> int | None:
    """Together; None if any of them is without one."""
    total = 0
    for limit in limits:
        if limit is None:
            return None
        total += limit
    return total


def _histograms(timings: dict[int, Timings] | None) -> Histograms | None:
    if timings is None:
        return None
    return sum((each.histograms() for each in timings.values()), Histograms())
