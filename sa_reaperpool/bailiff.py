"""Judging one pool's leases, and taking back what is due.

What is to be done is decided by upkeep.py.  A lease that is acted on is
claimed first, in one step: it is taken out of ``pool._leases``.  Nothing
here holds a lock while it acts, and the failure of one connection is its
own.
"""

from __future__ import annotations

import traceback
import weakref
from time import monotonic
from typing import TYPE_CHECKING
from typing import Callable

from . import adapter
from . import liveness
from . import upkeep
from .adapter import Entry
from .cancel import end_command
from .errors import ConnectionReclaimed
from .lease import Lease
from .lease import LeaseInfo
from .lease import describe
from .lost import warn_of_lost
from .words import one_line

if TYPE_CHECKING:
    from .reaper import Submit
    from .stock import StockedPool


_COUNTED = {
    "abandoned": "reaped",
    "invalidated": "failed",
    "disconnected": "shutdown",
    "released": "reclaimed",
}
"""Why a lease ended, as the statistics call it."""

_BARELY_LOST = 0.05
"""Seconds that what seems lost is given, in case its finaliser just runs."""

_LOOK_AGAIN = 1.0
"""Seconds between looks whether the servers of all leases are there.

There may be thousands of leases, and as many ends of threads for each of
which somebody asks.
"""

_NEVER = float("-inf")

_DELIBERATE = ("abandoned", "reclaimed")
"""What somebody may have meant to be so."""


class Bailiff:
    """Reports, reaps and reclaims.

    :param pool: whose leases; referred to weakly.

    """

    def __init__(self, pool: StockedPool):
        self._pool_ref = weakref.ref(pool)
        self._recover_at: float | None = None
        self._look_at = 0.0

    @property
    def _pool(self) -> StockedPool:
        pool = self._pool_ref()
        assert pool is not None, "whoever calls has the pool"
        return pool

    def reap(self, now: float) -> int:
        """Take back what its holders, all ended, left behind."""
        pool = self._pool
        if pool.has_lost():
            pool.recover_lost()
        verdicts, _ = upkeep.judge_leases(
            list(pool._leases.values()), pool.settings, now
        )
        return sum(self._act_alone(lease, act) for lease, act in verdicts)

    def something_is_due(self, now: float) -> bool:
        """Might :meth:`.tend_leases` act on a lease, or find one lost?

        Whoever is about to wait asks it, and all of it in one pass.
        """
        pool = self._pool
        settings = pool.settings
        if settings.leak_timeout or settings.reclaim_timeout:
            return True
        grace = settings.dead_connection_timeout
        before = _NEVER if grace is None else now - grace
        for lease in pool._leases.copy().values():
            if lease() is None or lease.level is not None:
                return True
            # its cursors may have been used later
            if lease.touched <= before and lease.used <= before:
                return True
        return pool.queue.unsettled()

    def tend_leases(self, now: float, submit: Submit) -> float | None:
        pool = self._pool
        verdicts, due = upkeep.judge_leases(
            list(pool._leases.values()), pool.settings, now
        )
        look_again = self._tend_lost(now, submit)
        if look_again is not None:
            due = look_again if due is None else min(due, look_again)
        looks = now >= self._look_at
        for lease, act in verdicts:
            if act is upkeep.Act.LOOK and not looks:
                again = self._look_at
            elif act is upkeep.Act.WATCH:
                again = self._watch(lease, now)
            elif self.worth_acting(lease, act):
                # two for one lease are two things to do
                key = (lease, act)
                submit(key, bound(self._act_alone, pool, lease, act))
                continue
            elif act is upkeep.Act.REAP:
                # A cursor is open, or was, whose end nobody will tell of.
                again = now + max(
                    1.0, pool.settings.dead_connection_timeout or 0.0
                )
            elif act is upkeep.Act.RECLAIM:
                # used, past the handle
                lease.quiet_since = 0.0
                again = self._watch(lease, now)
            else:
                # looked at, and its server is there
                self._look_at = now + _LOOK_AGAIN
                continue
            due = again if due is None else min(due, again)
        exhaustion = pool._exhaustion
        if exhaustion.circles.suspicious():
            # which may log
            submit("deadlock", bound(exhaustion.look_again, pool))
        return due

    def _tend_lost(self, now: float, submit: Submit) -> float | None:
        """Have recovered what is lost; not what is lost just now.

        Another thread may be in the midst of returning it.
        """
        pool = self._pool
        if not pool.has_lost():
            self._recover_at = None
            return None
        if self._recover_at is None:
            self._recover_at = now + _BARELY_LOST
        if now < self._recover_at:
            return self._recover_at
        self._recover_at = None
        submit("lost", pool.recover_lost)
        return None

    def _watch(self, lease: Lease, now: float) -> float:
        """See whether a lease is quiet; when is it to be seen again?"""
        patience = self._pool.settings.reclaim_timeout or 0.0
        if self._in_use(lease):
            return now + patience / 4
        lease.quiet_since = now
        return now + patience

    def worth_acting(self, lease: Lease, act: upkeep.Act) -> bool:
        if act is upkeep.Act.REPORT:
            return True
        if act is upkeep.Act.LOOK:
            probe = lease.entry.probe
            if probe is None or probe() is not liveness.Look.CLOSED:
                return False
            # a cursor that is merely open gives nothing any more
            return not self._running(lease)
        if act is upkeep.Act.RECLAIM:
            # which has been watched for long
            return not self._in_use(lease)
        return not self._in_use_lately(lease)

    def _in_use_lately(self, lease: Lease) -> bool:
        """Is it in use, or was it when it was judged before?

        What is fetched meanwhile is not seen, so that its use may have
        ended a moment ago: from now on it has its grace.
        """
        before, lease.seen_busy = lease.seen_busy, self._in_use(lease)
        if lease.seen_busy or (before and not lease.reserved):
            lease.used = monotonic()
            return True
        return False

    def _in_use(self, lease: Lease) -> bool:
        if any(liveness.cursor_open(cursor) for cursor in lease.cursors()):
            return True
        return self._running(lease)

    def _running(self, lease: Lease) -> bool:
        if lease.worked_on():
            return True
        connection = lease.entry.driver_connection
        return self._pool.may_look_into(connection) and liveness.running(
            connection
        )

    def _act_alone(self, lease: Lease, act: upkeep.Act) -> int:
        try:
            return self._act(lease, act)
        except Exception:
            # its own failure, and not that of the next one
            self._pool.logger.error("Exception during upkeep", exc_info=True)
            return 0

    def _act(self, lease: Lease, act: upkeep.Act) -> int:
        if act is upkeep.Act.WATCH:
            self._watch(lease, monotonic())
            return 0
        # in a helper thread time has passed since the decision
        still, _ = upkeep.judge_leases(
            [lease], self._pool.settings, monotonic()
        )
        if (lease, act) not in still or not self.worth_acting(lease, act):
            return 0
        if act is upkeep.Act.REPORT:
            self._report_leak(lease)
            return 0
        if act is upkeep.Act.LOOK:
            return self.reclaim(
                lease, "dead", "the server closed the connection"
            )
        if act is upkeep.Act.RECLAIM:
            return self.reclaim(
                lease, "reclaimed", "it was not used for the reclaim_timeout"
            )
        return self.reclaim(lease, "abandoned", "all its holders have ended")

    def reclaim(self, lease: Lease, reason: str, why: str) -> bool:
        """Fence a lease's handle, close its connection, free the slot.

        :return: False if the lease ended meanwhile.

        """
        pool = self._pool
        ref, taken = lease, None
        connection = lease.entry.dbapi_connection
        try:
            taken = pool._leases.pop(ref, None)
            if taken is None:
                return False
            handle = ref()
            if handle is None:
                # its finaliser was just about to do this
                adapter.finish_joins(lease, pool)
                adapter.return_collected(lease.entry, pool)
                return True
            told = self._description(lease)
            error = pool.reclaimed(self._story(lease, why), reason)
            level = lease.level
            lost = [] if level is None else level.reservation.lost()
            adapter.fence(handle, error)
            self._close_and_tell(lease.entry, reason, error, told)
            taken = None
            warn_of_lost(lost)
            return True
        except BaseException:
            if taken is not None:
                # Interrupted.  A handle that somebody keeps must not keep
                # the entry: fenced, it lets go of it.
                handle = ref()
                if handle is not None:
                    adapter.fence(handle, pool.reclaimed(why, reason))
                pool.give_up(lease.entry, lease.turn)
                pool.close_without_telling(lease.entry, connection, reason)
            raise

    def give_back(self, lease: Lease, why: str) -> None:
        """Fence a lease's handle, and return its connection to the pool.

        For who cannot know whether its holder is done with it.  If that
        uses the connection at this moment, it is closed instead.
        """
        pool = self._pool
        taken = None
        lost: list[str] = []
        try:
            taken = pool._leases.pop(lease, None)
            if taken is None:
                return
            told = self._description(lease)
            error = pool.reclaimed(self._story(lease, why), "released")
            handle = lease()
            if handle is not None:
                adapter.fence(handle, error)
            # In this order: a cursor is either seen here, or its holder sees
            # that it is too late (handle.py).
            if self._in_use(lease):
                self._close_and_tell(lease.entry, "released", error, told)
            else:
                lost = adapter.return_fenced(lease, pool)
        except BaseException:
            if taken is not None:
                handle = lease()
                if handle is not None and "reclaimed" not in vars(handle):
                    adapter.fence(handle, pool.reclaimed(why, "released"))
                pool.give_up(lease.entry, lease.turn)
            raise
        warn_of_lost(lost)

    def _description(self, lease: Lease) -> LeaseInfo | None:
        """For those who listen, before it is closed."""
        if not self._pool.dispatch.reap:
            return None
        open_one = liveness.in_transaction(lease.entry.driver_connection)
        return describe(lease, monotonic(), open_one)

    def _tell(self, told: LeaseInfo | None, reason: str) -> None:
        if told is None:
            return
        for listener in self._pool.dispatch.reap:
            try:
                listener(told, reason)
            except Exception:
                self._pool.logger.error(
                    "Exception in a listener for reap\n%s",
                    traceback.format_exc(),
                )

    def _close_and_tell(
        self,
        entry: Entry,
        reason: str,
        error: ConnectionReclaimed,
        told: LeaseInfo | None,
    ) -> None:
        self._close_reclaimed(entry, reason, error)
        # after the slot is free, which a log's handler may wait for
        hint = "  If that is how it should be, call pool.keep()."
        self._pool.logger.warning(
            "%s%s", error, hint if reason in _DELIBERATE else ""
        )
        self._tell(told, reason)

    def _close_reclaimed(
        self, entry: Entry, reason: str, error: ConnectionReclaimed
    ) -> None:
        pool = self._pool
        counted = _COUNTED.get(reason, reason)
        pool.explain_close(entry, counted)
        # If an event's listener raises before the close, SQLAlchemy returns
        # it all the same; it is not to be lent then.
        entry.outdated = counted
        connection = entry.dbapi_connection
        try:
            if connection is not None and pool.may_look_into(connection):
                driver_connection = entry.driver_connection
                end_command(driver_connection)
                pool.in_others_hands[id(connection)] = driver_connection
            entry.discard(error)
        except Exception:
            pool.logger.error(
                "Exception while a connection was taken back\n%s",
                traceback.format_exc(),
            )
            pool.close_without_telling(entry, connection, counted)

    def _story(self, lease: Lease, why: str) -> str:
        now = monotonic()
        name = self._pool.given_name
        return (
            f"The pool{f' {name!r}' if name else ''} took back a connection: "
            f"{why}.  Held by {lease.names()} for {now - lease.taken:.1f} s, "
            f"last used {now - lease.used:.1f} s ago, "
            f"checked out at {_where(lease)}."
        )

    def _report_leak(self, lease: Lease) -> None:
        if lease in self._pool._leases and not lease.leak_reported:
            lease.leak_reported = True
            self._pool.logger.warning(
                "Possible leak: a connection is held by %s for %.1f s, last "
                "used %.1f s ago, checked out at %s.  If that is how it "
                "should be, call pool.keep().",
                lease.names(),
                monotonic() - lease.taken,
                monotonic() - lease.used,
                _where(lease),
            )


def _where(lease: Lease) -> str:
    """The line that checked it out, and the label, if it has one."""
    if lease.label is None:
        return lease.where
    return f"{lease.where}, label {one_line(lease.label)!r}"


def bound(
    method: Callable[..., object], pool: StockedPool, *args: object
) -> Callable[[], object]:
    """A task that keeps the pool alive until it is done."""

    def task(pool: StockedPool = pool) -> None:
        method(*args)

    return task
