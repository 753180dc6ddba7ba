"""The reaper's rounds over 10,000 connections; a dead thread's, and who waits.

A round is what the reaper's thread does for a pool, and what it has a helper
do, one after the other in one thread.  In rounds of their own the lock that
checkouts need is replaced by one that takes the time for which it is held.

From a thread's last line to the moment when the thread that waits has its
connection, the times in which the driver connects taken off.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from time import perf_counter
from time import sleep
from typing import Any
from typing import Callable

import psycopg2
from sqlalchemy import create_engine
from sqlalchemy import make_url

from sa_reaperpool import ReaperPool

from . import stub_driver
from .rows import Bar
from .rows import Row
from .rows import Skip
from .rows import quantile
from .rows import row_of
from .settings import Settings

MANY = 10_000
DUE = 10

OURS = "ReaperPool"


def rounds(settings: Settings) -> list[Row]:
    """A round over 10,000 idle connections of which 10 are due."""
    count = settings.rounds(25, 5)
    causes: dict[str, dict[str, Any]] = {
        "max_age": {"max_age": 3600},
        "all options": {
            "max_age": 3600,
            "idle_timeout": 3600,
            "keepalive": 3600,
            "min_idle": 100,
        },
    }
    rows = []
    for cause, options in causes.items():
        pool = _full(MANY, **options)
        taken, held = [], []
        for number in range(2 * count):
            _age(pool.idle_entries()[number % 2 * (MANY - DUE) :][:DUE])
            if number < count:
                taken.append(_milliseconds(lambda: _round(pool)))
            else:
                held.append(_longest_hold(pool))
            assert pool.checkedin() == MANY - DUE, "it did its work"
            _fill(pool, MANY)
        what = f"a round over {MANY:,} idle, {DUE} due"
        rows += [
            row_of(what, OURS, taken, "ms", Bar("at most", 5), cause),
            row_of(
                "the same, longest hold of the checkouts' lock",
                OURS,
                held,
                "ms",
                Bar("at most", 0.2),
                cause,
            ),
        ]
    handles = [pool.connect() for _ in range(MANY)]
    leased = [_milliseconds(lambda: _round(pool)) for _ in range(count)]
    rows.append(row_of(f"a round over {MANY:,} held", OURS, leased, "ms"))
    for handle in handles:
        handle.close()
    return rows


def _full(size: int, **options: Any) -> Any:
    engine = create_engine(
        "stub://",
        poolclass=ReaperPool,
        pool_size=size,
        max_overflow=0,
        reaping_frequency=None,
        jitter=0,
        **options,
    )
    _fill(engine.pool, size)
    return engine.pool


def _fill(pool: Any, size: int) -> None:
    for handle in [pool.connect() for _ in range(size)]:
        handle.close()


def _age(entries: list[Any]) -> None:
    for entry in entries:
        entry.opened_at -= 7200


def _round(pool: Any) -> None:
    def submit(key: object, task: Callable[[], object]) -> None:
        task()

    pool.tend_leases(monotonic(), submit)
    pool.tend(monotonic(), submit)


def _milliseconds(use: Callable[[], object]) -> float:
    began = perf_counter()
    use()
    return (perf_counter() - began) * 1e3


class _TimedLock:
    """Takes the place of a queue's lock, and notes the longest hold."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.longest = 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.longest = max(self.longest, perf_counter() - self._since)
        self._lock.release()

    def _is_owned(self) -> Any:
        return self._lock._is_owned()


def _longest_hold(pool: Any) -> float:
    """In milliseconds, in one round."""
    lock = pool.queue._lock
    pool.queue._lock = timed = _TimedLock(lock)
    try:
        _round(pool)
    finally:
        pool.queue._lock = lock
    return timed.longest * 1e3


# the end of a thread


def deaths(settings: Settings) -> list[Row]:
    """A thread's end, to its connection serving a thread that waits."""
    rows = _served_after_an_end(settings, "stub driver", stub_driver.connect)
    what = rows[0].what.replace("stub driver", "psycopg2")
    try:
        url = make_url(settings.url)
    except Skip as reason:
        return [*rows, Row(what, OURS, None, note=str(reason))]
    dsn = url.set(drivername="postgresql").render_as_string(False)
    return rows + _served_after_an_end(
        settings, "psycopg2", lambda: psycopg2.connect(dsn)
    )


def _served_after_an_end(
    settings: Settings, driver: str, connect: Callable[[], Any]
) -> list[Row]:
    count = settings.rounds(300, 30)
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "a reservation": ("connection", {}),
        "dead_connection_timeout=0": (
            "connect",
            {"dead_connection_timeout": 0},
        ),
    }
    log = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")
    disabled, log.disabled = log.disabled, True
    rows = []
    try:
        for way, (verb, options) in ways.items():
            waits = sorted(_waits(connect, verb, options, count))
            row = Row(
                f"a thread's end to its waiter's service, p99, {driver}",
                OURS,
                quantile(waits, 0.99),
                "ms",
                (waits[0], waits[-1]),
                Bar("at most", 10),
                f"{way}; median {quantile(waits, 0.5):.2g}",
            )
            rows.append(row)
    finally:
        log.disabled = disabled
    return rows


def _waits(
    connect: Callable[[], Any], verb: str, options: dict[str, Any], count: int
) -> list[float]:
    """Milliseconds, beyond the driver's connect."""
    connecting: list[float] = []

    def timed_connect() -> Any:
        began = perf_counter()
        try:
            return connect()
        finally:
            connecting.append(perf_counter() - began)

    pool = ReaperPool(
        timed_connect, pool_size=1, max_overflow=0, timeout=60, **options
    )
    waits = []
    for _ in range(count):
        ended, served = _die_while_another_waits(pool, verb)
        waits.append((served - ended - connecting[-1]) * 1e3)
    pool.dispose()
    return waits


def _die_while_another_waits(pool: Any, verb: str) -> tuple[float, float]:
    """When a thread that held the connection ended, and when one had it."""
    kept: list[Any] = []
    has, may_end = threading.Event(), threading.Event()
    times = [0.0, 0.0]

    def hold() -> None:
        # something refers to it still; else it would be returned
        kept.append(getattr(pool, verb)())
        has.set()
        may_end.wait()
        times[0] = perf_counter()

    def wait() -> None:
        handle = pool.connect()
        times[1] = perf_counter()
        handle.close()

    threads = [threading.Thread(target=each) for each in (hold, wait)]
    threads[0].start()
    has.wait()
    threads[1].start()
    while not pool.queue.waiting():
        sleep(0.0005)
    # and asleep
    sleep(0.002)
    may_end.set()
    for thread in threads:
        thread.join()
    return times[0], times[1]
