"""The checkout that a thread is in: its time limit, and what it has.

What it has is written down from the very line on at which it is this
thread's, so that an exception at any later one finds it.  To leave it to
the frames would not do: whoever keeps an exception keeps its traceback,
and with that the frames and the entry in them.
"""

from __future__ import annotations

import threading
import weakref
from time import monotonic
from typing import Any
from typing import Callable

from .holder import Holder

UNSET: Any = object()


class Checkout:
    """One checkout.

    :param timeout: its own time limit, if any.

    :param outer: the checkout around it, if an event's listener makes it.

    """

    __slots__ = ("timeout", "outer", "began", "entry", "turn", "line")

    def __init__(self, timeout: float | None, outer: Checkout | None = None):
        self.timeout = timeout
        self.outer = outer
        self.began = monotonic()
        self.entry: Any = None
        self.turn: int | None = None
        self.line: Any = None
        """The application's, where that was looked for already."""


class Own:
    """What a thread has of a pool for its further checkouts to find."""

    base: weakref.ref[Any] | None = None
    """The handle that the thread's further checkouts may join."""

    reserved: Any = None
    """What ``connection()`` returned, while it lasts."""

    at_hand: Any = None
    """Where to look whether that can be used just so (using.py)."""

    connections: dict[Any, Any] | None = None
    """What ``with_connection(engine)`` gave, by engine."""


class PartsOwn(Own):
    """The same, in a part of a request (request.py).

    :param thread: whose part.

    """

    made: Callable[[], Any] = staticmethod(lambda: None)
    """A weak reference to what was reserved last."""

    passing = False
    """Is this a worker thread, which then serves another request?"""

    over = False
    """Is the part over?"""

    dropping = False

    def __init__(self, thread: Holder):
        self.thread = thread

    def lasts(self) -> bool:
        """Is there still something of it?"""
        base = None if self.base is None else self.base()
        return base is not None or self.made() is not None

    def drop(self) -> None:
        """Have it returned, unless something else still refers to it."""
        self.dropping = True
        try:
            self.reserved = self.connections = None
        finally:
            self.dropping = False


class Checkouts(threading.local, Own):
    """A pool's checkouts, each thread's its own."""

    current: Checkout | None = None
    block: float | None = UNSET

    former: weakref.ref[PartsOwn] | None = None
    """What it last had in a request of which it served a part."""

    def limit(self, default: float | None) -> float | None:
        """Seconds that this checkout may take; None for ever."""
        current = self.current
        if current is not None and current.timeout is not UNSET:
            return current.timeout
        return default if self.block is UNSET else self.block

    def left(self, default: float | None, now: float) -> float | None:
        """Seconds that are left of them.

        :param now: the time.

        """
        current = self.current
        if current is None:
            return self.limit(default)
        limit = current.timeout
        if limit is UNSET:
            limit = default if self.block is UNSET else self.block
        return None if limit is None else limit - (now - current.began)

    def outer_ones(self) -> int:
        """How many checkouts, in which it is made, have a connection."""
        checkout = None if self.current is None else self.current.outer
        count = 0
        while checkout is not None:
            count += checkout.entry is not None
            checkout = checkout.outer
        return count

    def taken(self) -> float:
        """Seconds since this checkout began; 0 outside of one."""
        current = self.current
        return 0.0 if current is None else monotonic() - current.began
