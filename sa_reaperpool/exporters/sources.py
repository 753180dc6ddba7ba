"""What exporters read: the figures of pools, by name.

Pools of one name are one here, and added up: so are the pools that an
engine had before and after a ``dispose()`` (history.py).  Counters never
fall: what pools counted that are gone stays with their name.
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
from ..history import History
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
        # each, and whether its times are measured
        self._given: list[tuple[weakref.ref[Any], bool]] = []
        self.all = False
        self._all_measured = False
        self._begin()
        self.add(given, histograms)

    def add(self, given: tuple[Source, ...], histograms: bool) -> None:
        """Read these as well; as the class has them."""
        for each in given:
            _check(each)
        with self.lock:
            self._given += [(weakref.ref(each), histograms) for each in given]
            if not given:
                self.all = True
                self._all_measured = self._all_measured or histograms
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
        # what was seen, and the name that it had
        self._known: dict[History, str] = {}
        # where the times of these are, or were, counted
        self._timings: dict[History, dict[int, Timings]] = {}
        # by name: what those have left whose pools are gone, all of them
        self._gone: dict[str, Counter[str]] = {}
        self._gone_times: dict[str, Histograms] = {}

    def read(self) -> list[Reading]:
        """The figures as they are now."""
        with self.lock:
            return self._read()

    def _read(self) -> list[Reading]:
        groups: dict[str, list[tuple[ReaperPool, Stats]]] = {}
        for pool, name in self.pools():
            groups.setdefault(name, []).append((pool, pool.stats()))
            self._known[pool.history] = name
            if pool.timings is not None:
                known = self._timings.setdefault(pool.history, {})
                known[id(pool.timings)] = pool.timings
        for history in [each for each in self._known if each.over]:
            self._put_away(history)
        return [self._reading(name, group) for name, group in groups.items()]

    def _put_away(self, history: History) -> None:
        name = self._known.pop(history)
        self._gone.setdefault(name, Counter()).update(history.totals())
        times = _together(self._timings.pop(history, {}))
        before = self._gone_times.get(name, Histograms())
        self._gone_times[name] = before + times

    def pools(self) -> list[tuple[ReaperPool, str]]:
        """The pools as they are now, each with its name."""
        found: dict[ReaperPool, str] = {}
        measured: list[ReaperPool] = []
        if self.all:
            found = {pool: name_of(pool) for pool in fork.pools()}
            measured += found if self._all_measured else []
        for ref, histograms in self._given:
            source: Any = ref()
            if source is None:
                continue
            pool: ReaperPool = getattr(source, "pool", source)
            if pool is source:
                found[pool] = name_of(pool)
            else:
                found[pool] = _name_of_engine(source)
            measured += [pool] if histograms else []
        for pool in measured:
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
        times = []
        for history, its_name in self._known.items():
            if its_name == name:
                counters.update(history.totals())
                if history in self._timings:
                    times.append(_together(self._timings[history]))
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
            histograms=(
                sum(times, self._gone_times.get(name, Histograms()))
                if times
                else None
            ),
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
    if pool.started:
        return True
    # or it was disposed of
    return not stats.opened and not pool.history.is_over_for(pool)


def _sum_of(limits: list[int | None]) -> int | None:
    """Together; None if any of them is without one."""
    total = 0
    for limit in limits:
        if limit is None:
            return None
        total += limit
    return total


def _together(timings: dict[int, Timings]) -> Histograms:
    return sum((each.histograms() for each in timings.values()), Histograms())
