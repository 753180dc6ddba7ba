"""The one room where private parts of SQLAlchemy are met.

The package relies on the following names, each guarded by a test in
tests/test_adapter.py which fails when it changes.

``Pool._do_get()``, ``Pool._do_return_conn()``
    What a checkout takes its record from and a return gives it to;
    ``QueuePool`` itself overrides the same two.

``Pool._creator``, ``Pool._should_wrap_creator()``
    What opens a connection, as it was given, and what makes of it the
    function through which every connect goes, the first and each reconnect;
    wrapped here so that the pool knows the moment.

``Pool._close_connection()``
    Through which every close goes.

``Pool._invalidate()``
    Called by ``Connection`` when an error is a disconnect, to mark all
    connections of the pool as suspect.

``Pool._dialect``, ``_timeout``, ``_max_overflow``, ``_pool``, ``_overflow``,
``_recycle``, ``_pre_ping``, ``_reset_on_return``, ``_orig_logging_name``
    A pool's state under the names that SQLAlchemy and its tests use.

``Pool._invalidate_time``, ``_ConnectionRecord._soft_invalidate_time``
    Connections that are older are replaced at their next checkout; where
    none is to be, a checkout goes the short way.

``_clslevel`` of a class's events, ``_listen()`` of a class of events
    Who listens to all pools' checkouts and returns, in collections that
    stay the same; and the moment when somebody begins to listen to one's.

``Pool._should_log_debug()``, and ``_dispatch`` as an argument of ``Pool``
    What a finaliser is told of logging; how ``recreate()`` hands on events.

``_ConnDialect``
    The dialect of a pool that belongs to no engine; derived from, for its
    ``_do_ping_w_event()`` raises.

``Dialect._do_ping_w_event()``
    Asks the server, in the way of ``pre_ping``.

``_ConnectionRecord`` (``connect=False``, ``fairy_ref``, ``starttime``,
``get_connection()``, ``_checkin_failed()``,
``_is_hard_or_soft_invalidated()``, ``finalize_callback``)
    The entry of a pool.  Made unconnected, so that a slot can be taken
    before the connect begins.

``_ConnectionFairy`` (``_pool``, ``_connection_record``, ``_counter``,
``_echo``, ``_checkin()``, ``_close_special()``, ``_checkout_existing()``,
and ``dbapi_connection`` as a slot)
    The handle.  Its class is changed once SQLAlchemy's own checkout is
    done with it, so that this is exactly SQLAlchemy's own.

``_dispatch_target`` of a class of events
    Whose events they are; that is how the pool has one more.

``_exec_once_mutex``, ``_exec_w_sync_once`` of an event's listeners
    What SQLAlchemy holds during a pool's first connect; is that done.

``only_once()``: ``once``, ``fn`` and ``retry_on_exception`` inside of it
    What it has still to call once.  It is empty while that is called.

``_finalize_fairy()``, ``_ConnectionFairy._finalizer`` (2.1),
``_strong_ref_connection_records`` (2.0)
    What returns a handle that was garbage collected.  It is replaced by a
    weak reference in ``pool._leases``, so that this return too has to win
    the lease before it touches the connection.
"""

from __future__ import annotations

import gc
import sys
import time
import weakref
from logging import DEBUG
from time import monotonic
from types import CodeType
from types import FrameType
from types import MethodType
from types import SimpleNamespace
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import Collection
from typing import Iterator
from typing import cast

from sqlalchemy import event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import Pool
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool import base as _base
from sqlalchemy.pool import reset_commit
from sqlalchemy.pool import reset_rollback
from sqlalchemy.pool.base import _ConnDialect
from sqlalchemy.pool.base import _ConnectionFairy
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.pool.base import _finalize_fairy
from sqlalchemy.pool.events import PoolEvents

from . import dead_end
from . import fork
from . import liveness
from . import process
from .checkout import UNSET
from .errors import ConnectionReclaimed
from .handle import Dead
from .handle import Joining
from .handle import Noting
from .handle import Parted
from .handle import Refusing
from .handle import raise_if_reclaimed
from .holder import here as _here
from .labels import current as current_label
from .lease import INNER
from .lease import Lease
from .lease import LeaseInfo
from .lease import Line
from .lease import application_line
from .lease import begun
from .lease import called_by_sqlalchemy
from .lease import called_here
from .lease import is_generated
from .lease import lease_ended
from .lost import warn_of_lost
from .reaper import reaper as _reaper
from .timings import Timings

if TYPE_CHECKING:
    from .queue import FairQueue

# 2.0 has no finalizer object, but a weak reference kept in this dictionary
_strong_refs: dict[Any, Any] | None = getattr(
    _base, "_strong_ref_connection_records", None
)


_driver_connection = _ConnectionFairy.__dict__["driver_connection"]
_dbapi_connection_slot = _ConnectionFairy.__dict__["dbapi_connection"]
_new = object.__new__
_page = process.page
# to see it replaced, as a test of SQLAlchemy's does; a class shows its names
# in a view, through which to look takes longer
[_record_names] = gc.get_referents(vars(_ConnectionRecord))
_record_checkout = _record_names["checkout"]

_NO_FINALISER: Any = SimpleNamespace(detach=lambda: None, alive=False)
"""A handle's from when it has a lease, whose weak reference is one."""


class Entry(_ConnectionRecord):
    """A place in the pool, and the connection in it, if any.

    Times are seconds on the monotonic clock; they are set by the pool.
    """

    # slots, since they are read at each checkout, and by the reaper of
    # thousands of entries in a row
    __slots__ = (
        "opened_at",
        "idle_since",
        "traffic_at",
        "spread",
        "outdated",
        "lent_at",
        "connecting_since",
        "probe",
        "look",
        "socket",
        "slot",
        "pool",
        "process",
        "_soft_invalidate_time",
    )

    opened_at: float
    """When the connection was opened."""

    idle_since: float
    """When it was returned, or opened if it never was."""

    traffic_at: float
    """When the server was last heard."""

    spread: float
    """The fraction by which its max_age and keepalive are shortened."""

    outdated: str | None
    """Why it is not to be used any longer: ``refreshed``, ``shutdown``, or
    why it was taken back."""

    lent_at: float
    """When it was last checked out; 0 once it was returned."""

    connecting_since: float
    """When the connect began that is under way; 0 if none is."""

    probe: liveness.Probe | None
    """Looks at its socket."""

    look: Any
    """Tells the one who is about to lend it, by ``quiet()``, whether it seems
    alive; None where nobody is to look."""

    socket: dead_end.Socket | None
    """Which one its connection had when it was opened."""

    slot: Any
    """The queue's."""

    def __init__(self, pool: AdaptedQueuePool):
        super().__init__(pool, connect=False)
        # in place of a deque, which has 600 bytes for what is mostly empty
        self.finalize_callback = cast(Any, [])
        self.opened_at = self.idle_since = self.traffic_at = 0.0
        self.lent_at = self.connecting_since = self.spread = 0.0
        self.outdated = self.probe = self.look = self.slot = None
        self.socket = None
        self.pool = weakref.ref(pool)
        self.process = pool.process
        # SQLAlchemy's own; here so that to look at it is cheap
        self._soft_invalidate_time = 0

    @property
    def connected(self) -> bool:
        return self.dbapi_connection is not None

    @property
    def has_rules_of_user(self) -> bool:
        """Has a Connection set its isolation level, or the like?

        Who did has it reset at the return.
        """
        return bool(self.finalize_callback)

    def __del__(self) -> None:
        # Lost by an interrupted line, while the pool lives on.  When they
        # go together, its connections are left to their driver, as ever.
        # A forked child that ends drops what is its parent's.
        try:
            pool = self.pool()
            if self.dbapi_connection is None or pool is None:
                return
            if not process.forked() and self.process == process.number:
                pool.explain_close(self, "failed")
                self.close()
        except Exception:
            pass

    def renew(self) -> None:
        """Before a checkout: connect anew if this is to be replaced.

        If that fails, it gives itself back, to be connected by the next.
        """
        try:
            self.get_connection()
        except BaseException as error:
            self._checkin_failed(error, _fairy_was_created=False)
            raise

    def invalidate(
        self, e: BaseException | None = None, soft: bool = False
    ) -> None:
        if not soft and _is_parents(self):
            # what failed here did so in a child, which closes nothing of it
            self.dbapi_connection = None
            return
        super().invalidate(e, soft)

    def discard(self, error: BaseException | None = None) -> None:
        """Close the connection and give the place back, by its own way.

        The events fire as for any connection that is invalidated.
        """
        self._checkin_failed(cast(BaseException, error))


class EndedHandle(_ConnectionFairy):
    """What a handle is once its lease ended well: one of SQLAlchemy's own.

    By way of these two SQLAlchemy resets the connection.
    """

    __slots__ = ()

    _finalizer: Any = _NO_FINALISER

    def rollback(self) -> None:
        # as in close(): a handler may have forked on the way to here
        record = self._connection_record
        if record is None or (_page[0] and record.process == self._pool.process): self.dbapi_connection.rollback()  # type: ignore[attr-defined]  # fmt: skip  # noqa: E501, E701

    def commit(self) -> None:
        record = self._connection_record
        if record is None or (_page[0] and record.process == self._pool.process): self.dbapi_connection.commit()  # type: ignore[attr-defined]  # fmt: skip  # noqa: E501, E701

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        # one that was detached is closed now, if there was no close before
        if self.dbapi_connection is None or not _put_off_end(
            self, transaction_was_reset
        ):
            _ConnectionFairy._checkin(self, transaction_was_reset)


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
    _finalizer: Any = _NO_FINALISER

    # The connection is had from the lease's entry: the slot for it is filled
    # only once the lease has ended, when this is another class.

    @property
    def dbapi_connection(self) -> Any:
        lease = self.__dict__.get("lease")
        if lease is None:
            # taken back at this moment
            return None
        lease.taken_out()
        connection = lease.entry.dbapi_connection
        if lease.level is not None and not _called_from_within(2):
            lease.level.expose(connection)
        return connection

    @dbapi_connection.setter
    def dbapi_connection(self, connection: Any) -> None:
        _dbapi_connection_slot.__set__(self, connection)

    @property
    def driver_connection(self) -> Any:  # type: ignore[override]
        lease = self.lease
        lease.taken_out()
        connection = lease.entry.driver_connection
        if lease.level is not None and not _called_from_within(2):
            lease.level.expose(connection)
        return connection

    @property
    def is_valid(self) -> bool:
        lease = self.__dict__.get("lease")
        return lease is not None and (
            lease.entry.dbapi_connection is not None
        )

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
                or (_reaper._others and _reaper._lock._is_owned())
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
                if pool._dialect_given is _NO_DIALECT:
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
            # it is a weak reference, and would fire
            lease = None
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
    # with the lease goes its weak reference, before that can fire
    del handle.lease
    return lease  # type: ignore[no-any-return]


def _put_off_close(handle: Handle, was_reset: bool) -> bool:
    """Put off a close(), if need be; the lease lasts until then."""
    # not in close() itself, where each use of self would take longer
    return handle._pool.put_off(lambda: handle._close_special(was_reset))


def _put_off_end(handle: _ConnectionFairy, was_reset: bool) -> bool:
    """Put off what resets and closes a detached connection, if need be."""
    pool = cast(AdaptedQueuePool, handle._pool)
    return pool.put_off(lambda: handle._checkin(was_reset))


def _reset_failed(
    handle: _ConnectionFairy, lease: Lease, error: BaseException
) -> bool:
    """As SQLAlchemy does where the reset of a return fails.

    :return: False if it was interrupted, rather.

    """
    pool, entry = lease.pool, lease.entry
    if _is_parents(entry):
        _take_apart(handle)
        return isinstance(error, Exception)
    pool.logger.error("Exception during reset or similar", exc_info=True)
    if isinstance(error, Exception):
        entry.invalidate(error)
        entry.fairy_ref = None
        _take_apart(handle)
        pool._give_back(entry)
        return True
    return False


def finish_joins(lease: Lease, pool: AdaptedQueuePool) -> list[str]:
    """Before a lease's connection is returned: undo what joins left open.

    :return: for :func:`.warn_of_lost`, once it has been returned.

    """
    if lease.level is None:
        return []
    # A listener is for who resets in a way of his own, instead of by one of
    # the pool's; it is taken for one that does not commit.
    undoes = pool._reset_on_return is _base.reset_rollback or (
        bool(pool.dispatch.reset)
        and pool._reset_on_return is not _base.reset_commit
    )
    return lease.level.reservation.finish(lease, undoes)


def _let_go(handle: _ConnectionFairy, lease: Lease | None) -> None:
    """Give up what an interrupted return had in its hands.

    Its user is done with the connection.  Unless this was given back, or
    taken back, nobody has it any more, in a state that nobody knows.
    """
    if lease is None or isinstance(handle, ReclaimedHandle):
        return
    _take_apart(handle)
    lease.pool._leases.pop(lease, None)
    if not _is_parents(lease.entry):
        lease.pool.give_up(lease.entry, lease.turn)


def _is_parents(entry: Entry) -> bool:
    """Is it the parent's of this process?  Then it is kept, for ever."""
    pool = entry.pool()
    ours = pool is None or entry.process == pool.process
    if ours and not process.forked():
        return False
    fork.keep((entry, entry.dbapi_connection))
    return True


def _take_apart(handle: _ConnectionFairy) -> None:
    """See to it that this refers to nothing of the pool's any more."""
    handle.__class__ = EndedHandle
    handle.__dict__.pop("lease", None)
    handle.dbapi_connection = cast(Any, None)
    handle._connection_record = None


class ReclaimedHandle(Refusing, _ConnectionFairy):
    """What a handle is once the pool took its connection back."""

    __slots__ = ()

    _checkout_existing = Refusing.cursor

    def _close_special(self, transaction_reset: bool = False) -> None:
        pass

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        pass


class PartedHandle(Parted, _ConnectionFairy):
    """What a reserved handle is once it was detached."""

    __slots__ = ()

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        if _put_off_end(self, transaction_was_reset):
            return
        reservation = self.level.reservation
        self.__class__ = _ConnectionFairy  # type: ignore[assignment]
        commits = self._pool._reset_on_return is _base.reset_commit
        lost = reservation.parted_end()
        _ConnectionFairy._checkin(self, transaction_was_reset)
        warn_of_lost([] if commits else lost)


_NOBODY: Any = SimpleNamespace()
"""What a join that was closed is joined to."""


class Join(Joining, _ConnectionFairy):
    """A handle on a connection that its thread holds already.

    :param base: the handle through which that is held.

    :param stands_in: for a block for which that was made, and is nobody's.

    :raises JoinRefused: joining would harm what is going on there.

    """

    __slots__ = ()

    _pool: AdaptedQueuePool

    def __init__(self, base: Handle, stands_in: bool = False):
        # without that of the class above, which makes a finaliser
        self._pool = base._pool
        self._counter = 1
        self._echo = base._echo
        self._connection_record = base._connection_record
        self.base = base
        level = base.lease.level
        assert level is not None, "only what is reserved is joined"
        whose = level.reservation
        begin = whose.stand_in if stands_in else whose.join
        self.level = self.first = begin(self)

    @property
    def dbapi_connection(self) -> Any:  # type: ignore[override]
        base = self.base
        if self.is_valid:
            connection = base.lease.entry.dbapi_connection
            return self._taken(connection, _called_from_within(2))
        if called_by_sqlalchemy(2):
            if isinstance(base, ReclaimedHandle):
                return Dead(base)
            self.level.refuse()
        self.first.undone = False
        return None

    @property
    def driver_connection(self) -> Any:  # type: ignore[override]
        if not self.is_valid:
            self.first.undone = False
            return None
        connection = _driver_connection.__get__(self.base)
        return self._taken(connection, _called_from_within(2))

    def _taken(self, connection: Any, by_others: bool) -> Any:
        self.base.lease.taken_out()
        if not by_others:
            self.level.expose(connection)
        return connection

    @property
    def is_valid(self) -> bool:
        base = self.base
        return not self.first.ended and type(base) is Handle and base.leased

    def _checkout_existing(self) -> Join:
        return self

    def let_go(self) -> None:
        """It is over; whoever keeps it is not to keep the connection."""
        self.base = _NOBODY
        self._connection_record = None

    def close(self) -> None:
        self.first.undone = False
        if self.is_valid:
            try:
                self.first.end()
            except Exception as error:
                # the base's next use will meet it
                self._pool.logger.error(
                    "Exception while a join was closed: %s", error
                )

    def _close_special(self, transaction_reset: bool = False) -> None:
        self.close()

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        self.close()

    def detach(self) -> None:
        self.level.reservation.refuse_change(self.level, "detach()")

    def invalidate(
        self, e: BaseException | None = None, soft: bool = False
    ) -> None:
        # The connection is one, and so unfit for all of them.
        lease = self.base.__dict__.get("lease")
        if lease is None or self.level.ended:
            return
        if soft:
            self.base.invalidate(e, soft=True)
        else:
            self._pool.take_back(
                lease, "invalidated", f"{self.level} was invalidated"
            )


def is_inherited(fairy: Any, pool: AdaptedQueuePool) -> bool:
    """Is this connection, just checked out, the parent's of this process?

    If so, it is never returned.
    """
    entry = fairy._connection_record
    if entry is None or entry.process == pool.process:
        return False
    fork.keep((entry, fairy.dbapi_connection))
    # in 2.0 this is the finaliser
    entry.fairy_ref = None
    _no_finaliser(fairy)
    fairy.dbapi_connection = fairy._connection_record = None
    return True


def _no_finaliser(fairy: Any) -> None:
    if _strong_refs is None:
        fairy._finalizer.detach()
    else:
        _strong_refs.pop(weakref.ref(fairy), None)


def _called_from_within(depth: int) -> bool:
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
    pool._leases[lease] = lease
    entry.lent_at = lease.taken
    entry.fairy_ref = _lent
    _no_finaliser(fairy)
    fairy.lease = lease
    fairy.__class__ = Handle
    return cast(Handle, fairy)


def lend(
    entry: Entry, pool: AdaptedQueuePool, line: Line | None
) -> Handle:
    """A new handle with a lease on an entry that is fit, as connect()'s."""
    handle: Handle = _new(Handle)
    handle._connection_record = entry
    handle._pool = pool
    handle._echo = False
    handle._counter = 1
    handle.lease = lease = begun(handle, pool, entry, entry.slot.turn, line)
    lease.usual = True
    entry.fairy_ref = _lent  # type: ignore[assignment]
    entry.lent_at = lease.taken
    pool._leases[lease] = lease
    return handle


def _lent() -> bool:
    """In place of an entry's weak reference to its handle, which the pool
    has; with the lease's own in it, the two would refer to each other."""
    return True


def fence(handle: Any, error: ConnectionReclaimed) -> None:
    """See to it that this handle never touches its connection again.

    :param error: what its uses will raise.

    """
    handle.__dict__["reclaimed"] = error
    handle.__class__ = ReclaimedHandle
    _dbapi_connection_slot.__set__(handle, None)
    handle._connection_record = None
    handle.__dict__.pop("lease", None)


class _Returned(EndedHandle):
    """Stands for a handle that is gone, while its connection is reset.

    SQLAlchemy would make one with a finaliser, as for a checkout.  When its
    making is interrupted, that finaliser returns the connection, and what
    handles the interruption closes it in the hands of whoever is next.
    """

    __slots__ = ()

    def __init__(self, entry: Entry, pool: AdaptedQueuePool):
        self._pool = pool
        self._counter = 0
        self._echo = pool._should_log_debug()
        self._connection_record = entry
        self.dbapi_connection = cast(Any, entry.dbapi_connection)


def return_collected(
    entry: Entry, pool: AdaptedQueuePool, ref: weakref.ref[Any]
) -> None:
    """Return a connection whose handle was garbage collected."""
    # as SQLAlchemy wants to see it
    entry.fairy_ref = ref
    fairy = _Returned(entry, pool)
    if _strong_refs is None:
        _finalize_fairy(
            None, entry, pool, fairy._echo, fairy=fairy, is_gc_cleanup=True
        )
    else:
        _finalize_fairy(None, entry, pool, ref, fairy._echo, fairy=fairy)  # type: ignore[arg-type]


def return_fenced(lease: Lease, pool: AdaptedQueuePool) -> list[str]:
    """Return a connection whose handle has been fenced.

    :return: for :func:`.warn_of_lost`.

    """
    lost = finish_joins(lease, pool)
    entry = lease.entry
    fairy = _Returned(entry, pool)
    connection = fairy.dbapi_connection
    if _strong_refs is None:
        _finalize_fairy(connection, entry, pool, fairy._echo, fairy=fairy)
    else:
        _finalize_fairy(
            connection,
            entry,
            pool,
            None,
            fairy._echo,  # type: ignore[arg-type]
            fairy=fairy,
        )
    return lost


class NoDialect(_ConnDialect):
    """The dialect of a pool without one: there is nobody to ask."""

    def _do_ping_w_event(self, dbapi_connection: Any) -> bool:
        return True


_NO_DIALECT = NoDialect()

_TURN = 0.002
"""Seconds that a thread goes on with checkouts while others wait to run."""

_BUSY = 200
"""Returns in that time by which threads are known to fight."""

_PLAIN_ROLLBACKS = (_ConnDialect.do_rollback, DefaultDialect.do_rollback)


class AdaptedQueuePool(QueuePool):
    """A QueuePool whose hooks are the verbs of the class derived from it."""

    _leases: dict[weakref.ref[Any], Lease]
    queue: FairQueue[Entry] = None  # type: ignore[assignment]
    # no object of a class in Python: to find one in the pool, where there is
    # another in its class, takes longer
    _dialect_given: Any = None
    _inherited: frozenset[int] = frozenset()
    process: int = 0
    """Whose connections these are."""

    _started: bool = False
    suspected_at: float = 0.0
    """When a connection was found dead last."""
    checkouts: Iterator[int]
    returned: Callable[[tuple[float, float]], None] = None  # type: ignore[assignment]  # noqa: E501
    _turn_over: float = 0.0
    _turn_then: int = 0
    _whose_turn: Any = None
    _logs_at: dict[int, bool] = {}
    timings: Timings | None = None
    """Where its times are counted, if an exporter wants them."""
    _plain_rollback: Any = None
    """The dialect's, if all it does is to call the connection's."""
    _unusual: bool = True
    """Do all checkouts and returns have to go the long way?"""
    _all_checkouts: Collection[Any] = ()
    """Who listens to all pools'."""
    _all_checkins: Collection[Any] = ()
    _all_resets: Collection[Any] = ()
    _opener: Callable[[Any], Any] = None  # type: ignore[assignment]
    _closer: Callable[[Any], object] | None = None

    # verbs

    def _take_entry(self) -> Entry:
        raise NotImplementedError()

    def _give_back(self, entry: Entry) -> None:
        raise NotImplementedError()

    def _handle_collected(self, ref: weakref.ref[Any]) -> None:
        raise NotImplementedError()

    def put_off(self, task: Callable[[], object]) -> bool:
        raise NotImplementedError()

    def _connect(self, entry: Entry, connect: Callable[[Any], Any]) -> Any:
        raise NotImplementedError()

    def explain_close(self, entry: Entry, reason: str) -> None:
        raise NotImplementedError()

    def give_up(self, entry: Entry, turn: int) -> None:
        raise NotImplementedError()

    def take_back(self, lease: Lease, reason: str, why: str) -> bool:
        raise NotImplementedError()

    def _closed(self, connection: Any, terminated: bool) -> None:
        raise NotImplementedError()

    def _watch_socket(self, entry: Entry, connection: Any) -> None:
        raise NotImplementedError()

    def hear(self, entry: Entry | None, error: BaseException) -> None:
        """Something failed: is it news of the server?"""
        raise NotImplementedError()

    def no_creator(self) -> Exception:
        raise NotImplementedError()

    def connect_at_length(self, timeout: float | None) -> Any:
        raise NotImplementedError()

    def connect_as_sqlalchemy(self) -> Any:
        """A handle as SQLAlchemy makes it, by way of :meth:`._do_get`."""
        return super().connect()

    # the short way

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
        # Where all is as usual, this is what StockedPool.check_out() and
        # SQLAlchemy do between them: an idle connection is fit, nobody waits
        # (or newcomers are let in) and nobody listens.  It is one function,
        # as each call would be a fiftieth of it.  Whatever is not usual goes
        # the long way.
        entry = lease = handle = None
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
                place: CodeType | None = None
                instruction = 0
                frame: FrameType | None = sys._getframe(1)
                while frame is not None:
                    code = frame.f_code
                    inner = INNER[code.co_filename]
                    if inner and (inner is True or is_generated(frame)):
                        frame = frame.f_back
                    else:
                        place, instruction = code, frame.f_lasti
                        break
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
                    handle._pool = self
                    handle._echo = False
                    handle._counter = 1
                    # as lease.begun()
                    handle.lease = lease = Lease(handle, lease_ended)
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
                    entry.fairy_ref = _lent  # type: ignore[assignment]
                    self._leases[lease] = lease
                    next(self.checkouts)
                    if self.timings is not None:
                        self.timings.waited(0.0)
                    # in one line, since a signal's handler may fork
                    if _page[0] and entry.process == self.process: return handle  # fmt: skip  # noqa: E501, E701
                elif _page[0] and entry.process == self.process:
                    queue.put(entry, made=not slot.hollow, back=True)
                    entry = None
                if entry is not None:
                    # this is the child
                    self.leave_to_parent(entry, handle)
                    entry = None
        except (LookupError, AttributeError):
            if entry is not None:
                self._unlend(entry, lease, handle)
                raise
            # or another thread was faster
        except BaseException:
            if entry is not None:
                self._unlend(entry, lease, handle)
            raise
        return self.connect_at_length(timeout)

    def let_others_run(self, now: float, turn: int, holder: Any) -> None:
        """Let go of the interpreter, where threads fight over it.

        Where many do nothing but check out and return, none of them waits
        for a connection, but all for the interpreter, which lets each go on
        for 5 ms; whoever is interrupted in the midst of a checkout by that
        has waited for as long as all others together.
        """
        busy = turn - self._turn_then > _BUSY
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
        self, entry: Entry, lease: Lease | None, handle: Handle | None
    ) -> None:
        """Give up what an interrupted checkout had in its hands."""
        if _is_parents(entry):
            self.leave_to_parent(entry, handle)
            return
        turn = entry.slot.turn
        if lease is not None:
            # since when it was registered, it may have become somebody else's
            turn = getattr(lease, "turn", turn)
            self._leases.pop(lease, None)
        if handle is not None:
            _take_apart(handle)
        self.give_up(entry, turn)

    def leave_to_parent(self, entry: Entry, handle: Handle | None) -> None:
        """In a child: forget what the forking thread was about to get."""
        fork.keep((entry, entry.dbapi_connection))
        if handle is not None:
            lease = handle.__dict__.get("lease")
            if lease is not None:
                self._leases.pop(lease, None)
            _take_apart(handle)

    # SQLAlchemy's hooks

    def _do_get(self) -> Entry:
        return self._take_entry()

    def _do_return_conn(self, record: Any) -> None:
        self._give_back(record)

    def _should_wrap_creator(self, creator: Any) -> Any:
        if creator is None:
            # no connect, and so none that failed
            return self._refuse_to_connect
        self._opener = super()._should_wrap_creator(creator)
        # Looked up only once _connect() noted the epoch, so that whatever
        # an older creator opened is from before the refresh.
        return lambda record: self._connect(
            record, lambda record: self._opener(record)
        )

    def _refuse_to_connect(self, record: Any) -> Any:
        raise self.no_creator()

    def _close_connection(
        self, connection: Any, *, terminate: bool = False
    ) -> None:
        if id(connection) in self._inherited:
            return
        if self._closer is None:
            super()._close_connection(connection, terminate=terminate)
        else:
            self._close_its_own_way(self._closer, connection)
        # not if that was interrupted: it may not have come to it
        self._closed(connection, terminate)

    def _close_its_own_way(
        self, closer: Callable[[Any], object], connection: Any
    ) -> None:
        self.logger.debug("Closing connection %r", connection)
        try:
            closer(connection)
        except Exception:
            # as with a driver's own close(): whoever is freeing the slot
            # goes on
            self.logger.error(
                "Exception closing connection %r", connection, exc_info=True
            )

    def _invalidate(
        self,
        connection: Any,
        exception: BaseException | None = None,
        _checkin: bool = True,
    ) -> None:
        # The pool closed this one itself; that tells nothing of the others.
        base = connection.base if isinstance(connection, Join) else connection
        if not isinstance(base, ReclaimedHandle):
            super()._invalidate(connection, exception, _checkin)

    # SQLAlchemy's state

    @property
    def _dialect(self) -> Any:
        given = self._dialect_given
        return _NO_DIALECT if given is None else given

    @_dialect.setter
    def _dialect(self, dialect: Any) -> None:
        # Set by an engine that is made with this pool: maybe long after the
        # first connect, and once more by each other engine.  Before that
        # engine's first checkout, since another thread's error may be going
        # through the dialect's listeners at any later time.
        _recognise_reclaimed(dialect)
        self._dialect_given = dialect
        if self.queue is not None:
            self.look_whether_usual()
            for entry in self.queue.entries():
                self._watch_socket(entry, entry.dbapi_connection)

    @property
    def _pool(self) -> Any:  # type: ignore[override]
        return self.queue

    @property
    def _overflow(self) -> int:
        return self.queue.live() - self.queue.maxsize

    @_overflow.setter
    def _overflow(self, value: int) -> None:
        # nobody counts here but the queue
        pass

    def _init_base(
        self,
        creator: Any,
        queue: FairQueue[Entry],
        max_overflow: int,
        timeout: float | None,
        **kw: Any,
    ) -> None:
        Pool.__init__(self, creator, **kw)
        self.queue = queue
        self.look_whether_usual()
        self._max_overflow = max_overflow
        self._timeout = cast(float, timeout)

    def look_whether_usual(self) -> None:
        """See whether checkouts and returns may go the short way.

        Called when that may have changed: to ask each time takes long; an
        event's listeners alone, whether there are any, a fiftieth of a
        checkout.
        """
        events = self.dispatch
        kind = type(self)
        self._unusual = bool(
            not self._started
            # a class derived from this, with hooks of its own
            or kind._do_get is not AdaptedQueuePool._do_get
            or kind._do_return_conn is not AdaptedQueuePool._do_return_conn
            or self._pre_ping
            or self._reset_on_return is reset_commit
            or events.checkout
            or events.checkin
            or events.reset
        )
        # in the pool itself, where they are found faster than in its class
        self._dialect_given = self._dialect
        self.timings = self.timings
        self._turn_over = self._turn_over
        # where a logger notes what it has found out; it forgets that when
        # any logger is changed
        self._logs_at = getattr(self.logger, "_cache", {})
        dialect = self._dialect_given
        plain = getattr(type(dialect), "do_rollback", None)
        if plain not in _PLAIN_ROLLBACKS or getattr(
            dialect, "skip_autocommit_rollback", False
        ):
            plain = None
        self._plain_rollback = plain
        # those of all pools, in collections that never are others
        of_class: Any = kind.dispatch
        self._all_checkouts = of_class.checkout._clslevel[kind]
        self._all_checkins = of_class.checkin._clslevel[kind]
        self._all_resets = of_class.reset._clslevel[kind]

    def _base_arguments(self) -> dict[str, Any]:
        """What recreate() passes on of SQLAlchemy's own state."""
        return {
            "pool_size": self.queue.maxsize,
            "max_overflow": self._max_overflow,
            "timeout": self._timeout,
            "use_lifo": self.queue.use_lifo,
            "recycle": self._recycle,
            "echo": self.echo,
            "logging_name": self._orig_logging_name,
            "reset_on_return": self._reset_on_return,
            "_dispatch": self.dispatch,
            "dialect": self._dialect,
        }

    @property
    def creator(self) -> Any:
        """What opens a connection, as it was given; None if it was not."""
        return self._creator

    def use_creator(self, creator: Callable[..., Any]) -> None:
        """Open connections with this from now on."""
        self._creator = creator

    def missing_for_reset(self, connection: Any) -> str | None:
        """The method that a return would call and this object lacks.

        Where there is a dialect, it is the dialect that resets.
        """
        if self.has_dialect:
            return None
        for style, name in (
            (reset_rollback, "rollback"),
            (reset_commit, "commit"),
        ):
            if self._reset_on_return is style:
                if not callable(getattr(connection, name, None)):
                    return name
        return None

    def close_raw(self, connection: Any) -> None:
        """Close a connection that no record has."""
        self._close_connection(connection, terminate=True)

    def change_limits(self, max_overflow: int, timeout: float | None) -> None:
        """What QueuePool is given once, and this pool may be anew."""
        self._max_overflow = max_overflow
        self._timeout = cast(float, timeout)

    @property
    def given_name(self) -> str | None:
        """The ``logging_name`` that the pool was given."""
        return self._orig_logging_name

    @property
    def time_limit(self) -> float | None:
        """Seconds that a checkout may take, unless it says otherwise."""
        return self._timeout

    @property
    def max_overflow(self) -> int:
        """Connections beyond the size; -1 for any number."""
        return self._max_overflow

    @property
    def dialect_in_use(self) -> Any:
        return self._dialect

    @property
    def has_dialect(self) -> bool:
        return not isinstance(self._dialect, _ConnDialect)

    def may_look_into(self, connection: Any) -> bool:
        """Is this a DBAPI connection, whose state any thread may read?

        What another client calls ``info``, say, may speak to its server,
        while the thread that has the client does so as well.
        """
        return self.has_dialect or hasattr(type(connection), "cursor")

    def driver_of(self, connection: Any) -> Any:
        """The driver's own connection."""
        return self._dialect.get_driver_connection(connection)

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

    def suspect(self, entry: Entry) -> bool:
        """Will SQLAlchemy replace this connection at its next checkout?

        That is, was it, or were all in the pool, invalidated.
        """
        return entry._is_hard_or_soft_invalidated()

    def to_be_replaced(self, entry: Entry) -> bool:
        """Will SQLAlchemy connect this entry at its next checkout?

        But for what it finds out only then.
        """
        return (
            not entry.connected or self._too_old(entry) or self.suspect(entry)
        )

    def _too_old(self, entry: Entry) -> bool:
        """Is its connection past the pool's ``recycle``?"""
        return (
            self._recycle > -1
            and time.time() - entry.starttime > self._recycle
        )

    def recycled(self, connection: Any) -> bool:
        """Is this connection past the pool's ``recycle``?"""
        return any(
            entry.dbapi_connection is connection and self._too_old(entry)
            for entry in self.queue.entries()
        )

    def ping(self, entry: Entry) -> bool:
        """Ask the server; any failure to answer means no."""
        try:
            return bool(
                self._dialect._do_ping_w_event(
                    cast(Any, entry.dbapi_connection)
                )
            )
        except Exception as error:
            self.logger.debug("Ping failed: %s", error)
            return False

    def ping_and_roll_back(self, entry: Entry) -> bool:
        """For an idle connection: leave no transaction behind."""
        if not self.has_dialect:
            # nobody to ask, and none that was left
            return True
        if not self.ping(entry):
            return False
        try:
            cast(Any, entry.dbapi_connection).rollback()
        except Exception as error:
            self.logger.debug("Rollback after a ping failed: %s", error)
            return False
        return True

    def unlock_first_connect(self) -> None:
        """Undo what an interruption of a pool's first connect may leave.

        SQLAlchemy runs the events of the first connect under a mutex.  A
        trace function that raises at its ``try:`` leaves that locked, and
        every later connect would wait for it.  At worst this lets two
        threads initialise a dialect at a time.
        """
        events: Any = self.dispatch.connect
        mutex = getattr(events, "_exec_once_mutex", None)
        if mutex is not None and mutex.locked():
            events._exec_once_mutex = None

    def inherit(self, entries: list[Any]) -> None:
        """In a forked child: these are the parent's, not to be closed.

        They are kept for ever, so that their ids are nobody else's.
        """
        self._inherited |= {
            id(entry.dbapi_connection)
            for entry in entries
            if entry is not None and entry.dbapi_connection is not None
        }
        for events in (self.dispatch.connect, self.dispatch.first_connect):
            _forget_first_run(events)


def _recognise_reclaimed(dialect: Any) -> None:
    """Let Connection treat ConnectionReclaimed as a disconnect.

    And let the pool hear of its errors.
    """
    if not isinstance(dialect, Dialect):
        return
    for listener in (_reclaimed_is_disconnect, _heard):
        # each by itself, as the lines before may have been interrupted
        if not event.contains(dialect, "handle_error", listener):
            event.listen(dialect, "handle_error", listener)


def _heard(context: Any) -> None:
    """Let the pool hear what a Connection's error says of the server."""
    connection = context.connection
    if context.is_pre_ping or connection is None:
        return
    if connection.closed or connection.invalidated:
        return
    handle = connection.connection
    if isinstance(handle, Join):
        handle = handle.base
    lease = getattr(handle, "__dict__", {}).get("lease")
    if lease is not None:
        handle._pool.hear(lease.entry, context.original_exception)


def _forget_first_run(events: Any) -> None:
    """In a forked child: a first connect of the parent's never ends here.

    Its thread holds SQLAlchemy's mutex, and may have the dialect half
    initialised, which is to happen once.
    """
    mutex = getattr(events, "_exec_once_mutex", None)
    if mutex is None or not mutex.locked():
        return
    if not events._exec_w_sync_once:
        for listener in events:
            _rearm(listener)
    events._exec_once_mutex = None


def _rearm(listener: Any) -> None:
    """Have a listener called once more that its wrapper is just calling."""
    names = getattr(getattr(listener, "__code__", None), "co_freevars", ())
    if {"once", "fn", "retry_on_exception"} <= set(names):
        cells = dict(zip(names, listener.__closure__))
        once = cells["once"].cell_contents
        if not once and cells["retry_on_exception"].cell_contents:
            once.append(cells["fn"].cell_contents)


class ReaperPoolEvents(PoolEvents):
    """The events of a pool, and one more.

    Listened for as any other: ``@event.listens_for(pool, "reap")``.
    """

    _dispatch_target = AdaptedQueuePool  # type: ignore[assignment]

    @classmethod
    def _listen(cls, event_key: Any, **kw: Any) -> None:
        super()._listen(event_key, **kw)
        if isinstance(event_key.dispatch_target, AdaptedQueuePool):
            event_key.dispatch_target.look_whether_usual()

    def reap(self, lease: LeaseInfo, reason: str) -> None:
        """The pool has taken a connection back from who held it.

        The connection is closed and its slot free.  Called in the thread
        that took it back, usually one of the reaper's; an exception is
        logged and otherwise ignored.

        :param lease: the :class:`.LeaseInfo` as it was just before.

        :param reason: one word: ``abandoned``, ``dead``, ``reclaimed``,
         ``disconnected`` or ``invalidated``; ``released``: a request ended
         while one of its threads, or a cursor, still used what it had
         reserved.

        """


def _why_a_cursor_fails(connection: Any) -> ConnectionReclaimed | None:
    """What the driver's error means where it is a reclaimed one's.

    A result is fetched without the handle, which would have told.
    """
    if connection is None or connection.closed or connection.invalidated:
        return None
    handle = connection.connection
    if not isinstance(handle, ReclaimedHandle):
        return None
    handle.__dict__["told"] = True
    return handle.__dict__["reclaimed"]  # type: ignore[no-any-return]


def _reclaimed_is_disconnect(context: Any) -> ConnectionReclaimed | None:
    error = context.original_exception
    if not isinstance(error, ConnectionReclaimed):
        if context.sqlalchemy_exception is None:
            return None
        error = _why_a_cursor_fails(context.connection)
        if error is None:
            return None
    context.is_disconnect = True
    context.invalidate_pool_on_disconnect = False
    # 2.0 would wrap it in a StatementError, which nobody looks for
    return None if context.sqlalchemy_exception is None else error.again()
