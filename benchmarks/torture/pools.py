"""The pools that are compared, and how many connections each opens."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from typing import Any

from sqlalchemy import URL
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

from .accounting import connection_name

SIZE = 8
OVERFLOW = 4
LIMIT = SIZE + OVERFLOW

POOLS: dict[str, dict[str, Any]] = {
    "reaper": {
        "poolclass": ReaperPool,
        "reaping_frequency": 0.5,
        "dead_connection_timeout": 0.5,
        "max_age": 5,
        "min_idle": 2,
        "keepalive": 2,
    },
    "queue": {
        "poolclass": QueuePool,
        "pool_pre_ping": True,
        "pool_recycle": 5,
    },
}


def make_engine(kind: str, url: URL) -> Engine:
    return create_engine(
        url,
        pool_size=SIZE,
        max_overflow=OVERFLOW,
        pool_timeout=3,
        **POOLS[kind],
    )


class Connections:
    """Names each connection of an engine, and counts those that are open.

    On the client's side, where the limit is: a server learns of a close
    when the network tells it.
    """

    def __init__(self, engine: Engine) -> None:
        self._opening = 0
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._began = threading.local()
        # which limit was in force from when on
        self._limits = [(0.0, LIMIT)]
        self.most = 0
        self.over = 0
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "connect", self._connected)

    def begin(self) -> None:
        """A thread is about to check out, under the limit of now."""
        self._began.at = time.monotonic()

    def set_limit(self, limit: int) -> None:
        """Before the pool grows, and after it was told to shrink."""
        with self._lock:
            self._limits.append((time.monotonic(), limit))

    def in_child(self) -> None:
        """In a forked child, where another thread may have had the lock."""
        self._lock = threading.Lock()
        self._open = weakref.WeakSet()
        self._opening = 0

    def _connect(self, dialect: Any, record: Any, args: Any, kw: Any) -> Any:
        # min_idle's are opened by no thread of the bench's
        since = getattr(self._began, "at", time.monotonic() - 10)
        with self._lock:
            self._opening += 1
            # a loop, as an ended process of a connection cannot tell
            count = self._opening + sum(not c.closed for c in self._open)
            self.most = max(self.most, count)
            self.over += count > self._allowed(since)
        connection = None
        try:
            connection = dialect.connect(*args, **kw)
            return connection
        finally:
            with self._lock:
                self._opening -= 1
                if connection is not None:
                    self._open.add(connection)

    def _connected(self, connection: Any, record: Any) -> None:
        number = next(self._numbers)
        record.info["torture"] = connection_name(os.getpid(), number)

    def _allowed(self, since: float) -> int:
        """The highest limit that was in force since then."""
        highest = 0
        for at, limit in reversed(self._limits):
            highest = max(highest, limit)
            if at <= since:
                break
        return highest


def slots_missing(engine: Engine, limit: int, patience: float) -> int:
    """Take all that the pool has to give, and give it back.

    :param patience: seconds that each may take.

    """
    taken: list[Any] = []
    deadline = time.monotonic() + patience
    try:
        while len(taken) < limit and time.monotonic() < deadline:
            try:
                taken.append(engine.raw_connection())
            except Exception:
                # a time-out, or a broken connection: the next may be whole
                continue
    finally:
        for connection in taken:
            connection.close()
    return limit - len(taken)
