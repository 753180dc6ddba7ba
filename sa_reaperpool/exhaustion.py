"""A checkout that finds nothing: how it waits, and what it is told.

Before a thread falls asleep in line it looks whether it has just closed a
circle: whether each connection of the pool is now held by threads that wait
for one (deadlock.py).  The looking is done with no lock held, since it asks
drivers as well.  What was seen is then seen once more under the queue's
lock, where nobody can get a connection or leave the line, and in the same
step the one who looked leaves, if that is what the pool is to do.  So of
two threads that close a circle together, only one finds it.

A circle can only be closed by a thread that begins to wait (it is noticed
at once), or by the end of something that would have let another one go on:
a further holder's thread, a cursor.  That is noticed by the reaper, as the
thread ends or in its next round; without it, when somebody's time is up,
and tells in the verdict.
"""

from __future__ import annotations

import dataclasses
import weakref
from time import monotonic
from typing import TYPE_CHECKING
from typing import Any
from typing import Collection
from typing import Sequence

from . import deadlock
from . import diagnosis
from . import holder
from . import labels
from . import liveness
from .callers import application_line
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
from .waiter import Waiter

if TYPE_CHECKING:
    from .stock import StockedPool


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


class Exhaustion:
    """What is known of a pool for when it has nothing to lend.

    :param pool: referred to weakly.

    """

    def __init__(self, pool: StockedPool):
        self._pool_ref = weakref.ref(pool)
        self.habits = Habits()
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

    def place(self, left: float | None) -> Place:
        """For a thread that is about to wait.

        :param left: seconds that it may.

        """
        return Place(
            self,
            patient=left is None or left > 0,
            most=self._pool.settings.max_waiting,
        )

    def look_for_deadlock(self, place: Place, waiter: Waiter) -> None:
        """See whether this thread, in line by now, has closed a circle.

        :raises PoolDeadlock: it has, and has left the line; that is, with
         ``on_deadlock="raise"``.

        """
        if self._somebody_goes_on():
            return
        circle = self._circle(place, waiter)
        if circle is not None and self._broken(circle, place, waiter):
            raise self._error(
                PoolDeadlock, place, "not waited for, on_deadlock raise"
            )

    def _somebody_goes_on(self) -> bool:
        """Does a holder live that stands in no line?

        What nearly always is so, and is found out without a look at each of
        those who wait.
        """
        for lease in self._pool._leases.copy().values():
            last = lease.last_holder
            # one from before a dispose() frees no slot
            if last.place is None and lease.entry.slot.counted and last.alive:
                return True
        return False

    def look_again(self) -> None:
        """For the reaper: is there a circle that nobody has closed?

        Something has ended meanwhile by which one of them could go on.
        """
        waiters = self._patient()
        if not waiters:
            return
        circle = self._circle(waiters[-1].place, waiters[-1])
        if circle is None:
            return
        last: Any = max(circle.waiters, key=lambda waiter: waiter.since)
        if self._broken(circle, last.place, last):
            last.wake()

    def suspicious(self) -> bool:
        """Is :meth:`.look_again` worth while?  Nothing is asked for that."""
        if self._pool.settings.on_deadlock == "off" or (
            self._somebody_goes_on()
        ):
            return False
        waiters = self._patient()
        return bool(waiters) and (
            deadlock.circle(
                self._counting(),
                self._pool.queue.live(),
                {waiter.place.holder for waiter in waiters},
            )
            is not None
        )

    def _patient(self) -> list[Any]:
        """Who is in line and waits, each with its place."""
        return [
            each
            for each in self._pool.queue.line()
            if isinstance(each.place, Place) and each.place.counts
        ]

    def _broken(self, circle: Circle, place: Place, waiter: Waiter) -> bool:
        """Tell of a circle; has this waiter left the line to break it?"""
        pool = self._pool
        mode = pool.settings.on_deadlock
        raises = mode == "raise" and circle.certain and circle.has(place)
        news: list[Circle] = []

        def standing() -> bool:
            if not self._stands(circle):
                return False
            if _mark(circle, place):
                news.append(circle)
            # at once, as it may wake up by itself
            place.refused = raises
            return raises

        if pool.queue.leave_if(waiter, standing):
            circle.over = monotonic()
            return True
        if news and circle.certain and mode != "off":
            self._warn(place)
        return False

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

    def _circle(self, place: Place, waiter: Waiter) -> Circle | None:
        """Those who wait for each other, as it seems, or None.

        :param place: the last to have joined them, maybe.

        """
        pool = self._pool
        leases = self._counting()
        if not leases or len(leases) < pool.queue.live():
            return None
        line = {each.place.holder: each for each in self._patient()}
        # it may have left the line, its time being up
        line[place.holder] = waiter
        members = deadlock.circle(leases, pool.queue.live(), line)
        if members is None:
            return None
        cursors = False
        for lease in leases:
            if self._goes_on(lease):
                return None
            cursors = cursors or _reads(lease)
        return Circle(
            leases,
            [line[member] for member in members],
            certain=not cursors,
            since=place.since,
        )

    def _counting(self) -> list[Lease]:
        """The leases of connections that count: not those from before a
        dispose(), which free no slot."""
        queue = self._pool.queue
        return [
            lease
            for lease in self._pool._leases.copy().values()
            if queue.counts(lease.entry)
        ]

    def _goes_on(self, lease: Lease) -> bool:
        """Is there a sign that this comes free, whoever holds it?"""
        if lease() is None:
            # its finaliser is about to return it
            return True
        probe = lease.entry.probe
        if probe is not None and probe() is liveness.Look.CLOSED:
            # which the reaper will take back
            return True
        return self._runs(lease)

    def _runs(self, lease: Lease) -> bool:
        if lease.worked_on():
            return True
        connection = lease.entry.driver_connection
        return self._pool.may_look_into(connection) and liveness.running(
            connection
        )

    def _stands(self, circle: Circle) -> bool:
        """Under the queue's lock: is all as it was seen?"""
        pool = self._pool
        queue = pool.queue
        if queue.closed or queue.limit is None:
            return False
        if len(circle.leases) < queue.limit:
            return False
        if any(waiter.entry is not None for waiter in circle.waiters):
            return False
        for lease in circle.leases:
            if pool._leases.get(lease) is not lease:
                return False
            if queue.turn(lease.entry) != lease.turn:
                return False
        waiting = {waiter.place.holder for waiter in circle.waiters}  # type: ignore[union-attr]
        return (
            deadlock.circle(circle.leases, queue.live(), waiting) is not None
        )

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
        waiting = {each.place.holder for each in self._patient()}
        others = len(line)
        if place is not None:
            others -= any(each.place is place for each in line)
            if place.counts:
                deadlock = deadlock or self._was_deadlock(place, now)
                waiting.add(place.holder)
        leases = sorted(self._counting(), key=lambda lease: lease.taken)
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
            busy=self._runs(lease),
            reads=_reads(lease),
        )

    def _was_deadlock(self, place: Place, now: float) -> bool:
        """Was a circle the reason, for most of the time that was waited?"""
        circle = place.circle
        if circle is None:
            circle = self._circle(place, Waiter(place=place))
            return circle is not None and self._stands(circle)
        leases = self._pool._leases
        if circle.over is None:
            if any(leases.get(of) is not of for of in circle.leases):
                # one of them went on after all, nobody knows when
                return False
            if circle.has(place):
                circle.over = now
        over = now if circle.over is None else circle.over
        return over - circle.since >= (now - place.since) / 2


def _reads(lease: Lease) -> bool:
    return any(liveness.cursor_open(cursor) for cursor in lease.cursors())


def _mark(circle: Circle, place: Place) -> bool:
    """Let all who are in it know of it; is it news to any of them?"""
    news = False
    for each in [*circle.waiters, None]:
        member = place if each is None else each.place
        assert isinstance(member, Place)
        known = member.circle
        if (
            known is None
            or known.over is not None
            or circle.certain > known.certain
        ):
            news = news or each is not None
            member.circle = circle
    return news
