"""A thread in the queue: asleep until somebody puts an entry in its hands."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any
from typing import Final

# in the hands of a waiter that left with nothing
GONE: Final = object()


class Waiter:
    """A thread that waits, or has waited, for an entry.

    Who says more of himself is another class, see place.py.

    :param own: the one that it has, and waits for the turn to make.

    :param since: the time.

    """

    __slots__ = ("entry", "own", "since", "_bell")

    # others have an attribute for each of these

    counts: bool = True
    """Is it one of those who wait?  Not if it leaves again at once."""

    most: int | None = None
    """How many may wait; it turns away where as many do already."""

    def __init__(self, own: Any = None, since: float | None = None) -> None:
        self.own = own
        self.entry: Any = None
        self.since = monotonic() if since is None else since
        # A plain lock wakes its waiter in half the time that a Condition
        # takes; it is held from the start, and released once.
        self._bell = threading.Lock()
        self._bell.acquire()

    def taken(self) -> None:
        """It stands in line, in which it was not served at once.

        Called with no lock held.  If this raises, it has left the line.
        """

    def turn_away(self) -> None:
        """As many wait as may."""

    def wake(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            # rung already, by a thread that was interrupted right after
            pass

    def call(self) -> None:
        """Have it look for itself, if it does not so soon anyhow."""
        if self._bell.locked():
            self.wake()

    def sleep(self, seconds: float | None) -> None:
        if seconds is None:
            self._bell.acquire()
        elif seconds > 0:
            self._bell.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def left(self, seconds: float | None) -> float | None:
        """What is left of so many, since it stands in line."""
        return (
            None if seconds is None else self.since + seconds - monotonic()
        )
