"""QueuePool with the least that serves threads in the order they come.

What this costs, to put a connection into the hands of a thread that sleeps,
any pool pays that is fair; what a fair pool costs beside it is its own.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from sqlalchemy.pool import QueuePool
from sqlalchemy.util.queue import Empty
from sqlalchemy.util.queue import Full


class InTurn:
    """In place of SQLAlchemy's queue."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False):
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._idle: deque[Any] = deque()
        self._waiting: deque[tuple[threading.Lock, list[Any]]] = deque()
        self._lock = threading.Lock()

    def qsize(self) -> int:
        return len(self._idle)

    def empty(self) -> bool:
        return not self._idle

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self._idle)

    def put(
        self, item: Any, block: bool = True, timeout: float | None = None
    ) -> None:
        with self._lock:
            if self._waiting:
                bell, hands = self._waiting.popleft()
                hands.append(item)
                bell.release()
            elif self.full():
                raise Full()
            else:
                self._idle.append(item)

    def put_nowait(self, item: Any) -> None:
        self.put(item, False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        hands: list[Any] = []
        bell = threading.Lock()
        with self._lock:
            if self._idle and not self._waiting:
                return self._idle.popleft()
            if not block:
                raise Empty()
            bell.acquire()
            self._waiting.append((bell, hands))
        if not bell.acquire(timeout=-1 if timeout is None else timeout):
            with self._lock:
                if not hands:
                    self._waiting.remove((bell, hands))
                    raise Empty()
        return hands[0]

    def get_nowait(self) -> Any:
        return self.get(False)


class InTurnPool(QueuePool):
    # there is no public way to give it another queue
    _queue_class = InTurn  # type: ignore[assignment]
