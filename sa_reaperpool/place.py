"""A thread in line for a connection, and the circle that it may be in."""

from __future__ import annotations

import dataclasses
from time import monotonic
from typing import TYPE_CHECKING
from typing import Callable
from typing import Sequence

from . import holder
from . import labels
from .callers import application_line
from .lease import Lease
from .waiter import GONE
from .waiter import Waiter

if TYPE_CHECKING:
    from .exhaustion import Exhaustion


LONG = 0.5
"""Seconds after which who waits looks at what others were to look at."""


@dataclasses.dataclass(eq=False)
class Circle:
    """Threads that wait for each other, and what they hold."""

    leases: Sequence[Lease]
    waiters: Sequence[Place]
    certain: bool
    """Else there is a cursor, from which another thread might fetch."""

    since: float
    over: float | None = None
    """When one of them gave up."""


class Place(Waiter):
    """A thread in line for a connection.

    :param exhaustion: of the pool.

    :param since: the time.

    :param patient: does it wait at all?

    :param most: how many may wait.

    :param look: what is still to be done, with the time, if it waits long.

    """

    __slots__ = (
        "holder",
        "counts",
        "most",
        "turned_away",
        "circle",
        "refused",
        "look",
        "label",
        "line",
        "_of",
        "_before",
    )

    def __init__(
        self,
        exhaustion: Exhaustion,
        since: float,
        patient: bool,
        most: int | None,
        look: Callable[[float], object] | None = None,
    ):
        Waiter.__init__(self, None, since)
        self._of = exhaustion
        self.holder = here = holder.current()
        # a signal's handler may ask while its thread stands in line
        self._before = here.waits
        self.counts = patient
        self.most = most if patient else None
        self.turned_away = False
        self.circle: Circle | None = None
        self.refused = False
        """Was it taken out of the line, to break a circle?"""

        self.look = look
        self.label = labels.current()
        self.line = application_line(4) if patient else None
        """The application's line that asks."""

    def taken(self) -> None:
        if self.counts:
            # before the look, so that of two who look at the same time at
            # least one sees the other
            self.holder.waits = True
            self._of.look_for_deadlock(self)

    def sleep(self, seconds: float | None) -> None:
        look = self.look
        if look is None:
            Waiter.sleep(self, seconds)
            return
        self.look = None
        Waiter.sleep(self, LONG if seconds is None else min(LONG, seconds))
        if self.entry is None:
            look(monotonic())

    def turn_away(self) -> None:
        self.turned_away = True

    def leave(self) -> None:
        """It has been served, or not, and stands in line no more.

        What it was given is the checkout's: an entry that is lost must not
        live on in here.  Somebody may refer to this for longer, as who
        waits with it in a circle.
        """
        self.entry = GONE
        self.look = None
        self.holder.waits = self._before
