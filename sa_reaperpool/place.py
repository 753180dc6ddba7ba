"""A thread in line for a connection, and the circle that it may be in."""

from __future__ import annotations

import dataclasses
from time import monotonic
from typing import TYPE_CHECKING
from typing import Sequence

from . import holder
from . import labels
from .callers import application_line
from .lease import Lease
from .waiter import Waiter

if TYPE_CHECKING:
    from .exhaustion import Exhaustion


@dataclasses.dataclass(eq=False)
class Circle:
    """Threads that wait for each other, and what they hold."""

    leases: Sequence[Lease]
    waiters: Sequence[Waiter]
    certain: bool
    """Else there is a cursor, from which another thread might fetch."""

    since: float
    over: float | None = None
    """When one of them gave up."""

    def has(self, place: Place) -> bool:
        return any(waiter.place is place for waiter in self.waiters)


class Place:
    """A thread in line for a connection.

    :param exhaustion: of the pool.

    :param patient: does it wait at all?

    :param most: how many may wait.

    """

    __slots__ = (
        "holder",
        "since",
        "counts",
        "most",
        "turned_away",
        "circle",
        "refused",
        "label",
        "line",
        "_of",
        "_before",
    )

    def __init__(
        self, exhaustion: Exhaustion, patient: bool, most: int | None
    ):
        self._of = exhaustion
        self.holder = holder.current()
        # a signal's handler may ask while its thread stands in line
        self._before = self.holder.place
        self.since = monotonic()
        self.counts = patient
        self.most = most if patient else None
        self.turned_away = False
        self.circle: Circle | None = None
        self.refused = False
        """Was it taken out of the line, to break a circle?"""

        self.label = labels.current()
        self.line = application_line(2) if patient else None
        """The application's line that asks."""

    def taken(self, waiter: Waiter) -> None:
        if self.counts:
            # before the look, so that of two who look at the same time at
            # least one sees the other
            self.holder.place = self
            self._of.look_for_deadlock(self, waiter)

    def left(self) -> None:
        """It has been served, or not, and stands in line no more."""
        self.holder.place = self._before
