"""Looking for circles: for threads that wait for each other.

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

import weakref
from time import monotonic
from typing import TYPE_CHECKING

from . import deadlock
from . import liveness
from .lease import Lease
from .place import Circle
from .place import Place

if TYPE_CHECKING:
    from .stock import StockedPool


class Circles:
    """Those of one pool.

    :param pool: referred to weakly.

    """

    def __init__(self, pool: StockedPool):
        self._pool_ref = weakref.ref(pool)

    @property
    def _pool(self) -> StockedPool:
        pool = self._pool_ref()
        assert pool is not None, "whoever calls has the pool"
        return pool

    def somebody_goes_on(self) -> bool:
        """Does a holder live that stands in no line?

        What nearly always is so, and is found out without a look at each of
        those who wait.
        """
        pool = self._pool_ref()
        assert pool is not None, "whoever calls has the pool"
        leases = pool._leases
        try:
            # mostly the first one does, so that a copy would be in vain
            return any(map(_is_free, leases.values()))
        except RuntimeError:
            # one has come or gone meanwhile
            return any(map(_is_free, leases.copy().values()))

    def suspicious(self) -> bool:
        """Is a look worth while?  Nothing is asked for that."""
        if self._pool.settings.on_deadlock == "off" or (
            self.somebody_goes_on()
        ):
            return False
        waiters = self.patient()
        return bool(waiters) and (
            deadlock.circle(
                self.counting(),
                self._pool.queue.live(),
                {waiter.holder for waiter in waiters},
            )
            is not None
        )

    def patient(self) -> list[Place]:
        """Who is in line and waits."""
        return [
            each
            for each in self._pool.queue.line()
            if isinstance(each, Place) and each.counts
        ]

    def seen(self, place: Place) -> Circle | None:
        """Those who wait for each other, as it seems, or None.

        :param place: the last to have joined them, maybe.

        """
        pool = self._pool
        leases = self.counting()
        if not leases or len(leases) < pool.queue.live():
            return None
        line = {each.holder: each for each in self.patient()}
        # it may have left the line, its time being up
        line[place.holder] = place
        members = deadlock.circle(leases, pool.queue.live(), line)
        if members is None:
            return None
        cursors = False
        for lease in leases:
            if self._goes_on(lease):
                return None
            cursors = cursors or reads(lease)
        return Circle(
            leases,
            [line[member] for member in members],
            certain=not cursors,
            since=place.since,
        )

    def counting(self) -> list[Lease]:
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
        return self.runs(lease)

    def runs(self, lease: Lease) -> bool:
        if lease.worked_on():
            return True
        connection = lease.entry.driver_connection
        return self._pool.may_look_into(connection) and liveness.running(
            connection
        )

    def _stands(self, circle: Circle, but: Place | None = None) -> bool:
        """Under the queue's lock: is all as it was seen?

        :param but: it may have left the line, its time being up.

        """
        pool = self._pool
        queue = pool.queue
        if queue.closed or queue.limit is None:
            return False
        if len(circle.leases) < queue.limit:
            return False
        for waiter in circle.waiters:
            if waiter.entry is not None and waiter is not but:
                return False
        for lease in circle.leases:
            if pool._leases.get(lease) is not lease:
                return False
            if queue.turn(lease.entry) != lease.turn:
                return False
        waiting = {waiter.holder for waiter in circle.waiters}
        return (
            deadlock.circle(circle.leases, queue.live(), waiting) is not None
        )

    def broken(self, circle: Circle, place: Place) -> tuple[bool, bool]:
        """Have a thread leave the line, if that is what the pool is to do.

        :return: whether it has; if not, whether the circle is to be told of.

        """
        pool = self._pool
        mode = pool.settings.on_deadlock
        raises = mode == "raise" and circle.certain and place in circle.waiters
        news: list[Circle] = []

        def standing() -> bool:
            if not self._stands(circle):
                return False
            if _mark(circle, place):
                news.append(circle)
            # at once, as it may wake up by itself
            place.refused = raises
            return raises

        if pool.queue.leave_if(place, standing):
            circle.over = monotonic()
            return True, False
        return False, bool(news) and circle.certain and mode != "off"

    def was_one(self, place: Place, now: float) -> bool:
        """Was a circle the reason, for most of the time that was waited?"""
        circle = place.circle
        if circle is None:
            circle = self.seen(place)
            return circle is not None and self._stands(circle, place)
        leases = self._pool._leases
        if circle.over is None:
            if any(leases.get(of) is not of for of in circle.leases):
                # one of them went on after all, nobody knows when
                return False
            if place in circle.waiters:
                circle.over = now
        over = now if circle.over is None else circle.over
        return over - circle.since >= (now - place.since) / 2


def _is_free(lease: Lease) -> bool:
    """Has it a holder that lives and stands in no line?"""
    last = lease.last_holder
    # one from before a dispose() frees no slot
    return (
        not last.waits and lease.entry.slot.counted and last.alive
    )


def reads(lease: Lease) -> bool:
    return any(liveness.cursor_open(cursor) for cursor in lease.cursors())


def _mark(circle: Circle, place: Place) -> bool:
    """Let all who are in it know of it; is it news to any of them?"""
    news = False
    for member in {*circle.waiters, place}:
        known = member.circle
        if (
            known is None
            or known.over is not None
            or circle.certain > known.certain
        ):
            news = news or member in circle.waiters
            member.circle = circle
    return news
