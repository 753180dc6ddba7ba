"""The handle that a user holds while his lease lasts.

The usual return is one function, :meth:`.Handle.close`, as the usual
checkout is, :meth:`.ShortWay.connect` in short.py.
"""

from __future__ import annotations

from operator import attrgetter
from time import monotonic
from types import MethodType
from typing import TYPE_CHECKING
from typing import Any
from typing import cast

from sqlalchemy.pool import reset_rollback
from sqlalchemy.pool.base import _ConnectionFairy

from .. import process
from ..callers import Line
from ..callers import application_line
from ..callers import called_by_sqlalchemy
from ..callers import called_here
from ..errors import ConnectionReclaimed
from ..handle import Noting
from ..handle import raise_if_reclaimed
from ..lease import Lease
from ..lease import begun
from ..lost import warn_of_lost
from ..reaper import reaper as _reaper
from .ended import NO_FINALISER
from .ended import EndedHandle
from .ended import PartedHandle
from .ended import ReclaimedHandle
from .ended import dbapi_connection_slot
from .ended import finaliser_of
from .ended import finish_joins
from .ended import is_parents
from .ended import take_apart
from .no_dialect import NO_DIALECT

if TYPE_CHECKING:
    from .entry import Entry
    from .pool import AdaptedQueuePool

_new = object.__new__
_page = process.page


def lent() -> bool:
    """In place of an entry's weak reference to its handle, which the pool
    has; with the lease's own in it, the two would refer to each other."""
    return True


class Handle(Noting, _ConnectionFairy):
    """What a user holds while his lease lasts.

    Each way in which a lease can end well first takes the lease, so that
    nothing is touched that the pool took back meanwhile.

    The reaper may change the class of a handle while one of its methods
    runs.  So these do without super(), which would look at the class
    again, and call what must not depend on it as a function.
    """

    __slots__ = ()

    _pool: AdaptedQueuePool
    _finalizer: Any = NO_FINALISER

    # Nothing in Python has the handle as it is called: an exception there
    # may be kept by somebody, and with its frames what these have.
    __del__ = property(attrgetter("lease.collected"))

    def __copy__(self) -> Handle:
        # another one would return the connection, too
        return self

    # The connection is had from the lease's entry: the slot for it is filled
    # only once the lease has ended, when this is another class.

    @property
    def dbapi_connection(self) -> Any:
        try:
            # with no call between, in which threads may be switched: with
            # the lease ends what it says of the connection
            lease = self.__dict__["lease"]
            connection = lease.entry.dbapi_connection
        except KeyError:
            # taken back at this moment
            return None
        lease.taken_out()
        if lease.level is not None and not called_from_within(2):
            lease.level.expose(connection)
        return connection

    @dbapi_connection.setter
    def dbapi_connection(self, connection: Any) -> None:
        dbapi_connection_slot.__set__(self, connection)

    @property
    def driver_connection(self) -> Any:  # type: ignore[override]
        lease = self.lease
        lease.taken_out()
        connection = lease.entry.driver_connection
        if lease.level is not None and not called_from_within(2):
            lease.level.expose(connection)
        return connection

    @property
    def is_valid(self) -> bool:
        try:
            # not by self.lease, which one that was taken back at this moment
            # would refuse
            lease = self.__dict__["lease"]
        except KeyError:
            return False
        return lease.entry.dbapi_connection is not None

    @property
    def leased(self) -> bool:
        """Does its lease last?"""
        lease = self.__dict__.get("lease")
        return lease is not None and lease in self._pool._leases

    def close(self, transaction_reset: bool = False) -> None:
        # As connect(): where all is as usual, what SQLAlchemy and
        # StockedPool._give_back() do between them.
        lease = None
        resetting = False
        # no other try inside: who raises at its line, is not caught
        try:
            lease = self.lease
            pool = lease.pool
            entry = lease.entry
            # a fork meanwhile gives the child's pool another
            queue = pool.queue
            # as StockedPool.put_off()
            if (
                queue._lock._is_owned()
                or _reaper._duty._is_owned()
                or _reaper._lock._is_owned()
            ) and _put_off_close(self, transaction_reset):
                return
            if (
                pool._unusual
                or pool._all_checkins
                or pool._all_resets
                or not lease.usual
                or entry.finalize_callback
            ):
                _ConnectionFairy._close_special(self, transaction_reset)
                return
            if pool._leases.pop(lease, None) is None:
                # taken back
                return
            self.__class__ = EndedHandle  # type: ignore[assignment]
            self._counter = 0
            if not transaction_reset and (
                pool._reset_on_return is reset_rollback
            ):
                resetting = True
                # Each in one line with the look whether this is a child of
                # the process whose connection it is: a signal's handler may
                # fork, and so may what a finaliser does.
                if pool._dialect_given is NO_DIALECT:
                    if _page[0] and entry.process == pool.process: entry.dbapi_connection.rollback()  # fmt: skip  # noqa: E501, E701
                else:
                    roll_back = pool._dialect_given.do_rollback
                    if (
                        type(roll_back) is MethodType
                        and roll_back.__func__ is pool._plain_rollback
                    ):
                        # all that it would do
                        if _page[0] and entry.process == pool.process: entry.dbapi_connection.rollback()  # fmt: skip  # noqa: E501, E701
                    else:
                        # it takes the connection to be in the handle
                        self.dbapi_connection = entry.dbapi_connection
                        if _page[0] and entry.process == pool.process: roll_back(self)  # fmt: skip  # noqa: E501, E701
                resetting = False
            entry.fairy_ref = None
            self.dbapi_connection = self._connection_record = None
            del self.lease
            if (
                entry.outdated is None
                and entry.dbapi_connection is not None
                and pool.settings.max_age is None
            ):
                entry.idle_since = entry.traffic_at = now = monotonic()
                held = now - lease.taken
                pool.returned((now, held))
                if pool.timings is not None:
                    pool.timings.used(held)
                entry.lent_at = 0.0
                # FairQueue.lay()
                slot = entry.slot
                turn = next(queue._turns)
                slot.turn = slot.place = turn; queue.queue.append(entry)  # fmt: skip  # noqa: E501, E702
                if (
                    queue._waiters
                    or queue._shedding
                    or queue._inbox
                    or queue._makers
                    or not slot.counted
                    or 0 < queue.maxsize < len(queue.queue)
                ):
                    # in a child that is the parent's queue
                    if _page[0] and entry.process == pool.process: queue.rearrange(entry, slot, now, held)  # fmt: skip  # noqa: E501, E701
                if now >= pool._turn_over:
                    pool.let_others_run(now, turn, lease.last_holder)
            else:
                pool._give_back(entry)
        except BaseException as error:
            if lease is None:
                if isinstance(error, ConnectionReclaimed):
                    # just before; who only closes is not told
                    self.__dict__.pop("told", None)
                    return
                lease = self.__dict__.get("lease")
            elif resetting and _reset_failed(self, lease, error):
                return
            _let_go(self, lease)
            raise

    _close_special = close

    def _checkout_existing(self) -> Handle:
        # from now on it takes more than one close() to end it
        self.lease.usual = False
        return cast(Handle, _ConnectionFairy._checkout_existing(self))

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        if self.__dict__.pop("reset_due", False):
            # see rollback()
            transaction_was_reset = False
        lease = _end(self)
        if lease is not None:
            if lease.level is not None and lease.level.reservation.begun:
                # After a commit that failed SQLAlchemy believes that this
                # is over; a JoinOrder has left it open.
                transaction_was_reset = False
            lost = finish_joins(lease, self._pool)
            _ConnectionFairy._checkin(self, transaction_was_reset)
            warn_of_lost(lost)

    def invalidate(
        self, e: BaseException | None = None, soft: bool = False
    ) -> None:
        if soft:
            _ConnectionFairy.invalidate(self, e, soft=True)
            return
        if self._pool.put_off(lambda: self.invalidate(e)):
            return
        lease = self.__dict__.get("lease")
        lost: list[str] = []
        try:
            if _end(self):
                if lease is not None and lease.level is not None:
                    lost = lease.level.reservation.drop(
                        lease, "was invalidated"
                    )
                _ConnectionFairy.invalidate(self, e)
        except BaseException:
            _let_go(self, lease)
            raise
        warn_of_lost(lost)

    def detach(self) -> None:
        lease = self.__dict__.get("lease")
        level = None if lease is None else lease.level
        if level is not None:
            # either leaves all as it is
            level.reservation.check_owner()
            level.reservation.refuse_if_joined("detach()")
        try:
            if _end(self):
                if lease is not None and level is not None:
                    level.reservation.part(lease)
                _ConnectionFairy.detach(self)
                if level is not None:
                    self.__dict__["level"] = level.reservation.base
                    self.__class__ = PartedHandle  # type: ignore[assignment]
        except BaseException:
            _let_go(self, lease)
            raise
        raise_if_reclaimed(self)


def _end(handle: Handle) -> Lease | None:
    """Take a handle's lease, to end it well; None if it is not there.

    From then on this is a plain handle of SQLAlchemy's.
    """
    process.check()
    lease = handle.__dict__.get("lease")
    if lease is None or handle._pool._leases.pop(lease, None) is None:
        return None
    # in this order: where there is no lease there is no Handle either
    handle.__class__ = EndedHandle  # type: ignore[assignment]
    handle.dbapi_connection = lease.entry.dbapi_connection
    del handle.lease
    return lease  # type: ignore[no-any-return]


def _put_off_close(handle: Handle, was_reset: bool) -> bool:
    """Put off a close(), if need be; the lease lasts until then."""
    # not in close() itself, where each use of self would take longer
    return handle._pool.put_off(lambda: handle._close_special(was_reset))


def _reset_failed(
    handle: _ConnectionFairy, lease: Lease, error: BaseException
) -> bool:
    """As SQLAlchemy does where the reset of a return fails.

    :return: False if it was interrupted, rather.

    """
    pool, entry = lease.pool, lease.entry
    if is_parents(entry):
        take_apart(handle)
        return isinstance(error, Exception)
    pool.logger.error("Exception during reset or similar", exc_info=True)
    if isinstance(error, Exception):
        entry.invalidate(error)
        entry.fairy_ref = None
        take_apart(handle)
        pool._give_back(entry)
        return True
    return False


def _let_go(handle: _ConnectionFairy, lease: Lease | None) -> None:
    """Give up what an interrupted return had in its hands.

    Its user is done with the connection.  Unless this was given back, or
    taken back, nobody has it any more, in a state that nobody knows.
    """
    if lease is None or isinstance(handle, ReclaimedHandle):
        return
    take_apart(handle)
    lease.pool._leases.pop(lease, None)
    if not is_parents(lease.entry):
        lease.pool.give_up(lease.entry, lease.turn)


def called_from_within(depth: int) -> bool:
    """Is it SQLAlchemy or this package that takes the raw connection?

    The one to look at it, or to set its isolation level, the other to do
    what it then notes.
    """
    return called_by_sqlalchemy(depth + 1) or called_here(depth + 1)


def attach(fairy: Any, pool: AdaptedQueuePool) -> Handle:
    """Turn SQLAlchemy's new handle into one with a lease.

    At no line are there fewer than one finaliser that would return it.
    """
    entry = fairy._connection_record
    if entry is None:
        # a listener of the checkout event ended it already
        return cast(Handle, fairy)
    line = application_line(2)
    lease = begun(fairy, pool, entry, pool.queue.turn(entry), line)
    lease.usual = not fairy._echo
    entry.lent_at = lease.taken
    fairy.lease = lease
    detach_other = finaliser_of(fairy)
    fairy.__class__ = Handle
    # with no call between: SQLAlchemy's has nothing to do once it is told
    # that the handle is not gone
    pool._leases[lease] = lease; entry.fairy_ref = lent  # fmt: skip  # noqa: E702
    detach_other()
    return cast(Handle, fairy)


def lend(entry: Entry, pool: AdaptedQueuePool, line: Line | None) -> Handle:
    """A new handle with a lease on an entry that is fit, as connect()'s."""
    handle: Handle = _new(Handle)
    handle._connection_record = entry
    handle._pool = pool
    handle._echo = False
    handle._counter = 1
    handle.lease = lease = begun(handle, pool, entry, entry.slot.turn, line)
    lease.usual = True
    entry.fairy_ref = lent  # type: ignore[assignment]
    entry.lent_at = lease.taken
    pool._leases[lease] = lease
    return handle
