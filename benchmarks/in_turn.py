"""QueuePool with the least that serves threads in the order they come.

What this costs, to put a connection into the hands of a thread that sleeps,
any pool pays that is fair; what a fair pool costs beside it is its own.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import TimeoutError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.pool import QueuePool


class Turnstile:
    """Lets so many in, and the others in the order in which they came."""

    def __init__(self, places: int):
        self._free = places
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def enter(self, timeout: float) -> bool:
        """Wait for one's turn.

        :param timeout: seconds.

        :return: False if that did not come in time.

        """
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            bell = threading.Lock()
            bell.acquire()
            self._waiting.append(bell)
        if bell.acquire(timeout=timeout):
            return True
        with self._lock:
            if bell in self._waiting:
                self._waiting.remove(bell)
                return False
        # in the very last moment
        return True

    def leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class InTurnPool(QueuePool):
    """Its threads go through a turnstile before they ask.

    As far as benches need it: of a limited size, with a time limit.
    """

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        **options: Any,
    ):
        super().__init__(creator, pool_size, max_overflow, **options)
        turnstile = self._turnstile = Turnstile(pool_size + max_overflow)

        def leave(dbapi_connection: Any, record: Any) -> None:
            turnstile.leave()

        for ended in ("checkin", "detach"):
            event.listen(self, ended, leave)

    def connect(self) -> PoolProxiedConnection:
        if not self._turnstile.enter(self.timeout()):
            raise TimeoutError("nobody came back in time")
        try:
            return super().connect()
        except BaseException:
            self._turnstile.leave()
            raise
