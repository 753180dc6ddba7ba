"""A checkout that finds nothing: how it waits, and what it is told."""

from __future__ import annotations

import weakref
from time import monotonic
from typing import TYPE_CHECKING
from typing import Any
from typing import Collection

from . import deadlock
from . import diagnosis
from . import holder
from . import liveness
from .circles import Circles
from .circles import reads
from .complaint import complaint
from .diagnosis import Held
from .diagnosis import Scene
from .errors import CheckoutTimeout
from .errors import PoolDeadlock
from .errors import TooManyWaiting
from .habits import Habits
from .holder import Holder
from .lease import Lease
from .lease import describe
from .place import Circle
from .place import Place

if TYPE_CHECKING:
    from .stock import StockedPool


class Exhaustion:
    """What is known of a pool for when it has nothing to lend.

    :param pool: referred to weakly.

    """

    def __init__(self, pool: StockedPool):
        self._pool_ref = weakref.ref(pool)
        self.habits = Habits()
        self.circles = Circles(pool)
        self._connect_error: str | None = None
        self._connect_failed_at = 0.0
        self._telling: set[Holder] = set()

    @property
    def _pool(self) -> StockedPool:
        pool = self._pool_ref()
        assert pool is not None, "whoever calls has the pool"
        return pool

    # connects

    def opened(self) -> None:
        """A connection has been opened."""
        self._connect_error = None

    def failed_to_open(self, error: BaseException) -> None:
        """A connect has failed."""
        # as text: an error keeps its frames, and these an entry
        self._connect_error = complaint(error, self._pool.creator)
        self._connect_failed_at = monotonic()

    @property
    def connect_error(self) -> tuple[str, float] | None:
        """The newest, in short and without passwords, and when it was;
        None if something has been opened since."""
        error = self._connect_error
        return None if error is None else (error, self._connect_failed_at)

    # waiting

    def look_for_deadlock(self, place: Place) -> None:
        """See whether this thread, in line by now, has closed a circle.

        :raises PoolDeadlock: it has, and has left the line; that is, with
         ``on_deadlock="raise"``.

        """
        if self.circles.somebody_goes_on():
            return
        circle = self.circles.seen(place)
        if circle is not None and self._broken(circle, place):
            raise self._error(
                PoolDeadlock, place, "not waited for, on_deadlock raise"
            )

    def look_again(self) -> None:
        """For the reaper: is there a circle that nobody has closed?

        Something has ended meanwhile by which one of them could go on.
        """
        waiters = self.circles.patient()
        if not waiters:
            return
        circle = self.circles.seen(waiters[-1])
        if circle is None:
            return
        last = max(circle.waiters, key=lambda place: place.since)
        if self._broken(circle, last):
            last.wake()

    def _broken(self, circle: Circle, place: Place) -> bool:
        """Tell of a circle; has this one left the line to break it?"""
        left, to_be_told = self.circles.broken(circle, place)
        if to_be_told:
            self._warn(place)
        return left

    def _warn(self, place: Place) -> None:
        if place.holder in self._telling:
            # a log's handler that writes to this very database
            return
        try:
            self._telling.add(place.holder)
            scene = self._scene(place, deadlock=True)
            sentence = diagnosis.verdict(scene).sentence
            self._pool.logger.warning(
                "%s", diagnosis.report(scene, sentence, "on_deadlock warn")
            )
        finally:
            self._telling.discard(place.holder)

    # telling

    def refusal(self, place: Place | None = None) -> CheckoutTimeout:
        """For a checkout that got nothing from the line.

        :param place: where it stood; None if it was the line of those who
         are to connect, see ``max_connecting``.

        """
        if place is not None and place.turned_away:
            return self._error(
                TooManyWaiting,
                place,
                f"as many wait as may, max_waiting {place.most}",
            )
        if place is not None and place.refused:
            return self._error(
                PoolDeadlock,
                place,
                "not waited for any longer, on_deadlock raise",
            )
        limit = self._pool._checkouts.limit(self._pool.time_limit)
        allowed = "none" if limit is None else f"{limit:0.2f}"
        return self._error(
            CheckoutTimeout, place, f"connection timed out, timeout {allowed}"
        )

    def _error(
        self,
        kind: type[CheckoutTimeout],
        place: Place | None,
        outcome: str,
    ) -> CheckoutTimeout:
        self._pool._tally.add("timeouts")
        scene = self._scene(place, deadlock=kind is PoolDeadlock)
        self.habits.refused(monotonic())
        reason, sentence = diagnosis.verdict(scene)
        return kind(
            # SQLAlchemy adds an address to it
            diagnosis.report(scene, sentence, outcome) + "\n",
            waited=scene.waited,
            limit=scene.limit,
            size=scene.size,
            overflow=scene.overflow,
            waiting=scene.waiting,
            verdict=sentence,
            reason=reason,
            leases=tuple(held.info for held in scene.leases),
            connect_error=scene.connect_error,
            logging_name=scene.name,
        )

    def _scene(self, place: Place | None, deadlock: bool) -> Scene:
        pool = self._pool
        queue = pool.queue
        now = monotonic()
        waited = pool._checkouts.taken()
        if not waited and place is not None:
            # looked at by another thread
            waited = now - place.since
        line = queue.line()
        waiting = {each.holder for each in self.circles.patient()}
        others = len(line)
        if place is not None:
            others -= place in line
            if place.counts:
                deadlock = deadlock or self.circles.was_one(place, now)
                waiting.add(place.holder)
        leases = sorted(self.circles.counting(), key=lambda lease: lease.taken)
        asking = holder.current()
        opening = [
            entry for entry in queue.entries() if not entry.connected
        ]
        room = 0
        if queue.limit is not None:
            room = max(0, queue.limit - queue.live())
        return Scene(
            leases=tuple(
                self._held(lease, asking, waiting, now) for lease in leases
            ),
            waited=waited,
            limit=pool._checkouts.limit(pool.time_limit),
            size=pool.size(),
            overflow=pool.overflow(),
            waiting=others,
            deadlock=deadlock,
            opening=len(opening) + room,
            opening_for=max(
                (
                    now - entry.connecting_since
                    for entry in opening
                    if entry.connecting_since
                ),
                default=0.0,
            ),
            connect_error=self._connect_error,
            failed_ago=now - self._connect_failed_at,
            usual=self.habits.usual(),
            wanted=self.habits.wanted(
                len(leases), others + 1, now, max(waited, 1.0)
            ),
            # beside a free slot nobody waits but for a turn to connect
            permits=(
                pool.settings.max_connecting
                if place is None or room or queue.limit is None
                else None
            ),
            name=pool.given_name,
            within=pool._checkouts.outer_ones(),
        )

    def _held(
        self,
        lease: Lease,
        asking: Holder,
        waiting: Collection[Holder],
        now: float,
    ) -> Held:
        connection: Any = lease.entry.driver_connection
        open_one = None
        if self._pool.may_look_into(connection):
            open_one = liveness.in_transaction(connection)
        return Held(
            describe(lease, now, open_one),
            own=lease.last_holder is asking,
            waits=deadlock.stuck(lease, waiting),
            busy=self.circles.runs(lease),
            reads=reads(lease),
        )
