"""What the views of ``python -m sa_reaperpool watch`` are given, and share."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from .lease import LeaseInfo
from .snapshot import Snapshot
from .words import one_line


@dataclass(frozen=True)
class Event:
    """What happened: a reap, or what the program itself tells."""

    #: in seconds from the start
    at: float
    #: the reason of a reap, or a sentence
    words: str
    #: of a reap
    lease: LeaseInfo | None = None


@dataclass(frozen=True)
class Frame:
    """All that there is to see at one moment."""

    snapshot: Snapshot
    #: the newest last
    events: Sequence[Event]
    #: connections taken back so far
    reaped: int
    elapsed: float
    #: when it will end
    seconds: float
    database: str
    #: to hold a connection for so long is worth a look
    long: float


class View(AbstractContextManager["View"], Protocol):
    """Shows frames while it is entered."""

    def show(self, frame: Frame) -> None: ...


class Feed:
    """Keeps what happens, in whatever thread, until somebody looks.

    :param most: so many events; the oldest ones go.

    """

    def __init__(self, most: int = 200) -> None:
        self._started = time.monotonic()
        # re-entrant: a collector's finaliser may lead to here, from here
        self._lock = threading.RLock()
        self._events: deque[Event] = deque(maxlen=most)
        #: reaps, by the line that had taken the connection
        self.lines: Counter[str] = Counter()

    def tell(self, words: str) -> None:
        self._add(Event(self._now(), words))

    def reaped(self, lease: LeaseInfo, reason: str) -> None:
        """Listens for the pool's event of that name."""

        self._add(Event(self._now(), reason, lease))

    def events(self) -> tuple[list[Event], int]:
        """The newest last, and how many reaps there were so far."""

        with self._lock:
            return list(self._events.copy()), self.lines.total()

    def _add(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
            if event.lease is not None:
                self.lines[event.lease.where] += 1

    def _now(self) -> float:
        return time.monotonic() - self._started


def shortened(where: str, width: int, size: Callable[[str], int]) -> str:
    """An application's line, with as many of its folders as there is room
    for: what tells one from another stands at the end.

    :param size: measures a text.

    """
    where = one_line(where, 400)
    path, colon, rest = where.rpartition(":")
    while size(where) > width:
        shorter = re.sub(r"^[/\\]*[^/\\]*[/\\]", "", path, count=1)
        if shorter in (path, ""):
            break
        path = shorter
        where = f"{path}{colon}{rest}"
    return where
