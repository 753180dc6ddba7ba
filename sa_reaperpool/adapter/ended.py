"""What a handle is once its lease has ended, and how the lease ends.

How it ends well by its user's own call is in handles.py; here is what a
finaliser and the pool do.
"""

from __future__ import annotations

import weakref
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import cast

from sqlalchemy.pool import base as _base
from sqlalchemy.pool.base import _ConnectionFairy
from sqlalchemy.pool.base import _finalize_fairy

from .. import fork
from .. import process
from ..errors import ConnectionReclaimed
from ..handle import Parted
from ..handle import Refusing
from ..lease import Lease
from ..lost import warn_of_lost

if TYPE_CHECKING:
    from .entry import Entry
    from .pool import AdaptedQueuePool

_page = process.page

# 2.0 has no finalizer object, but a weak reference kept in this dictionary
_strong_refs: dict[Any, Any] | None = getattr(
    _base, "_strong_ref_connection_records", None
)

dbapi_connection_slot = _ConnectionFairy.__dict__["dbapi_connection"]

NO_FINALISER: Any = SimpleNamespace(detach=lambda: None, alive=False)
"""A handle's from when it has a lease, and by that one of its own."""


class EndedHandle(_ConnectionFairy):
    """What a handle is once its lease ended well: one of SQLAlchemy's own.

    By way of these two SQLAlchemy resets the connection.
    """

    __slots__ = ()

    _finalizer: Any = NO_FINALISER

    def rollback(self) -> None:
        # as in close(): a handler may have forked on the way to here
        record = self._connection_record
        if record is None or (_page[0] and record.process == self._pool.process): self.dbapi_connection.rollback()  # type: ignore[attr-defined]  # fmt: skip  # noqa: E501, E701

    def commit(self) -> None:
        record = self._connection_record
        if record is None or (_page[0] and record.process == self._pool.process): self.dbapi_connection.commit()  # type: ignore[attr-defined]  # fmt: skip  # noqa: E501, E701

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        # one that was detached is closed now, if there was no close before
        if self.dbapi_connection is None or not put_off_end(
            self, transaction_was_reset
        ):
            _ConnectionFairy._checkin(self, transaction_was_reset)


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
        if put_off_end(self, transaction_was_reset):
            return
        reservation = self.level.reservation
        self.__class__ = _ConnectionFairy  # type: ignore[assignment]
        commits = self._pool._reset_on_return is _base.reset_commit
        lost = reservation.parted_end()
        _ConnectionFairy._checkin(self, transaction_was_reset)
        warn_of_lost([] if commits else lost)


def take_apart(handle: _ConnectionFairy) -> None:
    """See to it that this refers to nothing of the pool's any more."""
    handle.__class__ = EndedHandle
    handle.__dict__.pop("lease", None)
    handle.dbapi_connection = cast(Any, None)
    handle._connection_record = None


def is_parents(entry: Entry) -> bool:
    """Is it the parent's of this process?  Then it is kept, for ever."""
    pool = entry.pool()
    ours = pool is None or entry.process == pool.process
    if ours and not process.forked():
        return False
    fork.keep((entry, entry.dbapi_connection))
    return True


def fence(handle: Any, error: ConnectionReclaimed) -> None:
    """See to it that this handle never touches its connection again.

    :param error: what its uses will raise.

    """
    handle.__dict__["reclaimed"] = error
    handle.__class__ = ReclaimedHandle
    dbapi_connection_slot.__set__(handle, None)
    handle._connection_record = None
    handle.__dict__.pop("lease", None)


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


def put_off_end(handle: _ConnectionFairy, was_reset: bool) -> bool:
    """Put off what resets and closes a detached connection, if need be."""
    pool: AdaptedQueuePool = handle._pool  # type: ignore[assignment]
    return pool.put_off(lambda: handle._checkin(was_reset))


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
    finaliser_of(fairy)()
    fairy.dbapi_connection = fairy._connection_record = None
    return True


def finaliser_of(fairy: Any) -> Callable[[], object]:
    """What has SQLAlchemy's own finaliser do nothing."""
    if _strong_refs is None:
        detach: Callable[[], object] = fairy._finalizer.detach
        return detach
    return partial(_strong_refs.pop, weakref.ref(fairy), None)


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


def _gone() -> None:
    """In place of an entry's weak reference to a handle that goes."""


def return_collected(entry: Entry, pool: AdaptedQueuePool) -> None:
    """Return a connection whose handle is garbage collected."""
    # as SQLAlchemy wants to see it
    entry.fairy_ref = _gone  # type: ignore[assignment]
    fairy = _Returned(entry, pool)
    if _strong_refs is None:
        _finalize_fairy(
            None, entry, pool, fairy._echo, fairy=fairy, is_gc_cleanup=True
        )
    else:
        _finalize_fairy(None, entry, pool, _gone, fairy._echo, fairy=fairy)  # type: ignore[arg-type]


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
