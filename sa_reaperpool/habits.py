"""How long connections are usually held, and how many are asked for.

What has been seen of late, in two short lists, which each return and each
refused checkout append to.  All times are seconds on the monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque

SEEN = 256
"""So many returns, the last ones, tell what is usual."""

ENOUGH = 5
"""With fewer returns than this, nothing is known to be usual."""


class Habits:
    """What a pool has seen of its users."""

    def __init__(self) -> None:
        self._returns: deque[tuple[float, float]] = deque(maxlen=SEEN)
        self._refusals: deque[float] = deque(maxlen=SEEN)
        # Appending is one step, at any moment, and so is copying: neither a
        # thread nor a finaliser comes between.
        self.returned = self._returns.append
        """Call it with when a connection was returned, and after how long."""
        self.refused = self._refusals.append
        """Call it with when a checkout got nothing."""

    def usual(self) -> float | None:
        """Seconds within which 19 of 20 connections were returned.

        The rare one that was held for hours moves a mean and a maximum,
        but not this.  None where too little has been seen.
        """
        held = sorted(seconds for _, seconds in self._returns.copy())
        if len(held) < ENOUGH:
            return None
        return held[math.ceil(len(held) * 0.95) - 1]

    def wanted(
        self, in_use: int, waiting: int, now: float, span: float
    ) -> int:
        """So many connections the present demand would need.

        By Little's law that is the rate of requests, times the time that
        each holds a connection.  Those that are in use have served so many
        requests within the span; each that was not served, or still waits,
        would have needed its part of one more.

        :param in_use: connections that are.

        :param waiting: threads that got none, who asks included.

        :param span: seconds to look back for.

        :return: at least one more than there are, and at most as many as
         there are threads that hold one or want one now: a thread that
         asks again and again is no greater demand than one.

        """
        since = now - span
        served = sum(at >= since for at, _ in self._returns.copy())
        unserved = sum(at >= since for at in self._refusals.copy()) + waiting
        most = in_use + waiting
        if not served:
            return max(in_use + 1, most)
        wanted = math.ceil(in_use * (served + unserved) / served)
        return max(in_use + 1, min(wanted, most))
