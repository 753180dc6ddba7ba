"""The short way: the usual checkout, in one function."""

from __future__ import annotations

import gc
import sys
import time
from logging import DEBUG
from time import monotonic
from typing import Any

from sqlalchemy.pool.base import _ConnectionRecord

from .. import fork
from .. import process
from ..callers import INNER
from ..callers import STRING
from ..callers import is_generated
from ..checkout import UNSET
from ..holder import here as _here
from ..labels import current as current_label
from ..lease import Lease
from .ended import is_parents
from .ended import take_apart
from .entry import Entry
from .handles import Handle
from .handles import lent
from .verbs import PoolVerbs

_new = object.__new__
_page = process.page
# to see it replaced, as a test of SQLAlchemy's does; a class shows its names
# in a view, through which to look takes longer
[_record_names] = gc.get_referents(vars(_ConnectionRecord))
_record_checkout = _record_names["checkout"]

_TURN = 0.002
"""Seconds that a thread goes on with checkouts while others wait to run."""

_BUSY = 200
"""Returns in that time by which threads are known to fight."""


class ShortWay(PoolVerbs):
    """A pool whose usual checkout takes little time."""

    def connect(self, timeout: float | None = UNSET) -> Any:
        """Check a connection out.

        With ``reservation="thread"``, join the one that this thread has.

        What is returned stands for the connection, or for whatever object
        the creator made: its attributes and methods are had from it, but
        for those that SQLAlchemy's handles have themselves (``close()``,
        which gives it back, ``invalidate()``, ``detach()``, ``info``,
        ``cursor()``, ``commit()``, ``rollback()`` and a few more), and
        ``handle[key]``, ``len(handle)`` and the like.  For these there is
        the object itself, ``handle.driver_connection``.  It is to be used
        only as long as the handle is.

        ``with pool.connect() as handle:`` gives it back at the end of the
        block.

        :param timeout: seconds that this checkout may take, None for as
         long as it takes; without it, what :meth:`.checkout_timeout` says,
         or the pool's ``timeout``.

        :raises CheckoutTimeout: none came free within the time limit.

        :raises CreatorError: there is nothing to open it with, or what
         that opened cannot be pooled.

        :raises PoolShutdown: the pool is shut down, or is while this waits.

        :raises JoinRefused: this thread has one that cannot be joined.

        """
        # Where all is as usual, this is what TakingPool.check_out() and
        # SQLAlchemy do between them: an idle connection is fit, nobody waits
        # (or newcomers are let in) and nobody listens.  It is one function,
        # as each call would be a fiftieth of it.  Whatever is not usual goes
        # the long way.
        entry = lease = handle = turn = None
        try:
            queue = self.queue
            idle = queue.queue
            if not (
                self._unusual
                or self._all_checkouts
                or not idle
                or (queue._waiters and monotonic() >= queue.open_until)
                or queue._shedding
                or _record_names["checkout"] is not _record_checkout
                # a KeyError where the level has not been asked for
                or self._logs_at[DEBUG]
            ):
                # before there is something to lose: what is met here for
                # the first time is an error, and goes the long way
                holder = _here.holder
                # as application_line()
                frame: Any = sys._getframe(1)
                while True:
                    while INNER[(place := frame.f_code).co_filename]:
                        frame = frame.f_back
                    if place.co_filename != STRING or not is_generated(frame):
                        instruction = frame.f_lasti
                        break
                    frame = frame.f_back
                entry = idle.pop() if queue.use_lifo else idle.popleft()
                connection = entry.dbapi_connection
                slot = entry.slot
                if not (
                    connection is None
                    or slot.hollow
                    or entry.outdated is not None
                    or self._invalidate_time > entry.starttime
                    or entry._soft_invalidate_time > entry.starttime
                    or (entry.look is not None and not entry.look.quiet())
                    or (self._recycle > -1 and self._too_old(entry))
                ):
                    handle = _new(Handle)
                    handle._connection_record = entry
                    handle._pool = self  # type: ignore[assignment]
                    handle._echo = False
                    handle._counter = 1
                    # as lease.begun()
                    handle.lease = lease = Lease(handle)
                    lease.pool = self
                    lease.entry = entry
                    lease.turn = slot.turn
                    lease.taken = lease.touched = entry.lent_at = monotonic()
                    lease._last = holder
                    lease.seen = [holder]
                    lease._code = place
                    lease._place = instruction
                    lease.level = lease.working = lease.anchor = None
                    lease.kept = lease.leak_reported = lease.seen_busy = False
                    lease.quiet_since = 0.0
                    lease.usual = True
                    lease.label = current_label()
                    entry.fairy_ref = lent  # type: ignore[assignment]
                    self._leases[lease] = lease
                    next(self.checkouts)
                    if self.timings is not None:
                        next(self.timings.at_once)
                    # in one line, since a signal's handler may fork
                    if _page[0] and entry.process == self.process: return handle  # fmt: skip  # noqa: E501, E701
                elif _page[0] and entry.process == self.process:
                    # an interruption after it must not take it for this
                    # one's own
                    turn = slot.turn
                    queue.put(entry, made=not slot.hollow, back=True)
                    entry = None
                if entry is not None:
                    # this is the child
                    self.leave_to_parent(entry, handle)
                    entry = None
        except (LookupError, AttributeError):
            if entry is not None:
                self._unlend(entry, lease, handle, turn)
                raise
            # or another thread was faster
        except BaseException:
            if entry is not None:
                self._unlend(entry, lease, handle, turn)
            raise
        return self.connect_at_length(timeout)

    def let_others_run(self, now: float, turn: int, holder: Any) -> None:
        """Let go of the interpreter, where threads fight over it.

        Where many do nothing but check out and return, none of them waits
        for a connection, but all for the interpreter, which lets each go on
        for 5 ms; whoever is interrupted in the midst of a checkout by that
        has waited for as long as all others together.  Called now and then.
        """
        if self.timings is not None:
            self.timings.count_if_many()
        busy = turn - self._turn_then > _BUSY and not self.queue.greenlets
        self._turn_over, self._turn_then = now + _TURN, turn
        if busy and self._whose_turn is not holder:
            # not for one that is alone
            self._whose_turn = holder
            time.sleep(1e-6)

    def may_lend(self) -> bool:
        """Does SQLAlchemy do nothing at a checkout but to make a handle?"""
        return not (
            self._unusual
            or self._all_checkouts
            or _record_names["checkout"] is not _record_checkout
            or self.logger.isEnabledFor(DEBUG)
        )

    def _unlend(
        self,
        entry: Entry,
        lease: Lease | None,
        handle: Handle | None,
        turn: int | None,
    ) -> None:
        """Give up what an interrupted checkout had in its hands.

        :param turn: the queue's, at which it got the entry; None where that
         is the present one.

        """
        if is_parents(entry):
            self.leave_to_parent(entry, handle)
            return
        if turn is None:
            turn = entry.slot.turn
        if lease is not None:
            # since when it was registered, it may have become somebody else's
            turn = getattr(lease, "turn", turn)
            self._leases.pop(lease, None)
        if handle is not None:
            take_apart(handle)
        self.give_up(entry, turn)

    def leave_to_parent(self, entry: Entry, handle: Handle | None) -> None:
        """In a child: forget what the forking thread was about to get."""
        fork.keep((entry, entry.dbapi_connection))
        if handle is not None:
            lease = handle.__dict__.get("lease")
            if lease is not None:
                self._leases.pop(lease, None)
            take_apart(handle)

    def is_fit(self, entry: Entry) -> bool:
        """Can this be lent just as it is?  As connect() looks at one."""
        slot = entry.slot
        return not (
            entry.dbapi_connection is None
            or slot.making
            or slot.hollow
            or entry.outdated is not None
            or self._invalidate_time > entry.starttime
            or entry._soft_invalidate_time > entry.starttime
            or (entry.look is not None and not entry.look.quiet())
            or (self._recycle > -1 and self._too_old(entry))
            # to be looked after, and all to be looked at, from then on
            or not self._started
        )
