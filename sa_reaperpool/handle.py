"""What a handle does beyond SQLAlchemy's: it notes its uses, or refuses.

These two are mixed into SQLAlchemy's class of handles in adapter/, which
is where private names are met.  A handle is :class:`.Noting` while its
lease lasts, and :class:`.Refusing` once the pool took the connection back.
"""

from __future__ import annotations

import functools
from types import BuiltinMethodType
from types import MethodType
from typing import TYPE_CHECKING
from typing import Any
from typing import NoReturn

from . import liveness
from . import process
from .callers import about_to_close
from .callers import called_by_sqlalchemy
from .callers import caught_by_sqlalchemy
from .errors import ConnectionReclaimed
from .errors import JoinError
from .errors import ReservationError
from .lease import Lease
from .lost import warn_of_lost

if TYPE_CHECKING:
    from .level import Level

_METHODS = (MethodType, BuiltinMethodType)


# They end what runs, for a thread that waits for it.
_BY_ANY_THREAD = frozenset("cancel cancel_safe interrupt".split())


class Noting:
    """Each use is a use of the lease, and makes its thread a holder.

    The reaper may make a handle a :class:`.Refusing` one while a method
    here runs.  What the closed connection then raises would be taken for
    the server's doing, and is replaced by what happened.
    """

    __slots__ = ()

    lease: Lease
    dbapi_connection: Any

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        lease = self.lease
        lease.touch()
        level = lease.level
        try:
            if level is None:
                cursor = _connection_of(self).cursor(*args, **kwargs)
            else:
                cursor = level.new_cursor(
                    _connection_of(self),
                    args,
                    kwargs,
                    called_by_sqlalchemy(2),
                )
        except BaseException as error:
            _failed(self, error)
            raise
        lease.watch(cursor)
        if level is not None:
            # a request's end may have been faster, see Caretaker.give_back()
            raise_if_reclaimed(self)
        return cursor

    def commit(self) -> None:
        lease = self.lease
        begun = None
        try:
            lease.touch()
            begun = lease.begin_work()
            (lease.level or _connection_of(self)).commit()
        except ReservationError:
            if lease.level is not None and called_by_sqlalchemy(2):
                lease.level.commit_refused()
            raise
        except BaseException as error:
            _failed(self, error)
            raise
        finally:
            lease.end_work(begun)

    def rollback(self) -> None:
        lease = begun = None
        try:
            lease = self.lease
            if lease.level is None:
                if lease.pool.delayed_here() and about_to_close():
                    # the return is put off, and resets it in any case
                    self.__dict__["reset_due"] = True
                    lease.usual = False
                    return
                lease.touch()
                begun = lease.begin_work()
                _connection_of(self).rollback()
            else:
                # by any thread
                lease.taken_out()
                begun = lease.begin_work()
                if not (called_by_sqlalchemy(2) and _in_vain(lease.level)):
                    lease.level.rollback()
        except BaseException as error:
            if isinstance(self, Refusing) and called_by_sqlalchemy(2):
                return
            _failed(self, error)
            raise
        finally:
            if lease is not None:
                lease.end_work(begun)

    def __getattr__(self, key: str) -> Any:
        if key == "lease":
            raise AttributeError(key)
        lease = self.lease
        level = lease.level
        if level is not None and key in _BY_ANY_THREAD:
            process.check()
            return getattr(self.dbapi_connection, key)
        lease.touch()
        found = getattr(self.dbapi_connection, key)
        if level is not None:
            return level.attribute(key, found)
        return _watched(lease, found) if isinstance(found, _METHODS) else found


class Joining:
    """A handle of one's own on a connection that its thread holds already.

    It has a level of its own (joins.py) and no lease: that is the base's,
    which it keeps alive.
    """

    __slots__ = ()

    base: Any

    level: Level
    """What it works in; inside of some blocks it is another (using.py)."""

    first: Level
    """What it was made with."""

    def _lease(self) -> Lease:
        """The base's lease, used by the calling thread.

        :raises ConnectionReclaimed: the pool took the connection back.

        :raises JoinEnded: the base was closed.

        """
        lease = self.base.__dict__.get("lease")
        if lease is None:
            raise_if_reclaimed(self.base)
            self.level.refuse()
        lease.touch()
        return lease  # type: ignore[no-any-return]

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        lease = self._lease()
        try:
            cursor = self.level.new_cursor(
                self.base.dbapi_connection,
                args,
                kwargs,
                called_by_sqlalchemy(2),
            )
        except BaseException as error:
            _failed(self.base, error)
            raise
        lease.watch(cursor)
        raise_if_reclaimed(self.base)
        return cursor

    def commit(self) -> None:
        lease = begun = None
        try:
            lease = self._lease()
            begun = lease.begin_work()
            self.level.commit()
        except ReservationError:
            if called_by_sqlalchemy(2):
                self.level.commit_refused()
            raise
        except BaseException as error:
            _failed(self.base, error)
            raise
        finally:
            if lease is not None:
                lease.end_work(begun)

    def rollback(self) -> None:
        if called_by_sqlalchemy(2):
            if not _in_vain(self.level):
                self.level.rollback()
        elif self.level.ended:
            self.level.refuse()
        else:
            self.level.rollback()

    def __getattr__(self, key: str) -> Any:
        if key in ("base", "level", "first"):
            raise AttributeError(key)
        if key in _BY_ANY_THREAD and "lease" in self.base.__dict__:
            process.check()
            return getattr(self.base.dbapi_connection, key)
        self._lease()
        found = getattr(self.base.dbapi_connection, key)
        return self.level.attribute(key, found)


class Parted:
    """A handle that has taken its connection out of the pool, for good.

    It was reserved; if it has only read, and ends so, what joins have
    committed before is still provisional.
    """

    __slots__ = ()

    level: Level
    dbapi_connection: Any

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return self.level.new_cursor(
            self.dbapi_connection, args, kwargs, False
        )

    def commit(self) -> None:
        undone = liveness.aborted(self.dbapi_connection)
        self.dbapi_connection.commit()
        lost = self.level.reservation.parted_end()
        warn_of_lost(lost if undone else [])

    def rollback(self) -> None:
        self.dbapi_connection.rollback()
        warn_of_lost(self.level.reservation.parted_end())

    def __getattr__(self, key: str) -> Any:
        found = getattr(self.dbapi_connection, key)
        level = self.__dict__.get("level")
        return found if level is None else level.attribute(key, found)


class Dead:
    """What SQLAlchemy gets for the connection of a :class:`.Refusing` one.

    It takes that out of the handle where an error would not be known for a
    disconnect's, and then uses it where it would.
    """

    __slots__ = ("_handle",)

    def __init__(self, handle: Any):
        object.__setattr__(self, "_handle", handle)

    def __getattr__(self, key: str) -> NoReturn:
        raise_if_reclaimed(self._handle)
        raise AttributeError(key)

    def __setattr__(self, key: str, value: Any) -> None:
        raise_if_reclaimed(self._handle)


class Refusing:
    """Whatever would touch the connection raises ConnectionReclaimed.

    What would give it back does nothing.
    """

    __slots__ = ()

    reclaimed: ConnectionReclaimed

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.__dict__["told"] = True
        raise self.__dict__["reclaimed"].again()

    cursor = commit = detach = _refuse

    def rollback(self) -> None:
        # A Connection or Session that is being closed looks whether this
        # is valid first.  If it was when it looked, its transaction has
        # ended by now, as it wants it to, and its close() is to be silent.
        if not called_by_sqlalchemy(2):
            self._refuse()

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") and key.endswith("__"):
            # copy, pickle and the like ask for what may be missing
            raise AttributeError(key)
        self._refuse()

    def _taken(self) -> Any:
        if called_by_sqlalchemy(2):
            return Dead(self)
        self._refuse()

    dbapi_connection = property(_taken)
    driver_connection = property(_refuse)
    connection = property(_refuse)

    @property
    def closed(self) -> bool:
        # looked at after an error of a cursor's, for which see adapter/
        if called_by_sqlalchemy(2):
            return True
        self._refuse()

    @property
    def is_valid(self) -> bool:
        return False

    @property
    def is_detached(self) -> bool:
        return False

    def invalidate(
        self, e: BaseException | None = None, soft: bool = False
    ) -> None:
        pass

    def close(self) -> None:
        pass


def _connection_of(handle: Any) -> Any:
    """The connection that a handle stands for, for the handle's own use.

    Its property is for others, who then use it past the handle.
    """
    try:
        # In one line, in which no other thread runs: with the lease ends what
        # it says of the connection.
        return handle.__dict__["lease"].entry.dbapi_connection
    except KeyError:
        # as of what the handle is by now: detached, for example
        return handle.dbapi_connection


def _in_vain(level: Level) -> bool:
    """Is this rollback, by SQLAlchemy, one that nobody has asked for?

    It does one after an error where it knows of no transaction.  There is
    nothing to undo then, least of all a join's work after a JoinOrder.
    """
    if level.idle:
        return True
    return not level.in_transaction() and caught_by_sqlalchemy(JoinError)


def _watched(lease: Lease, method: Any) -> Any:
    """A connection's own method, which may take long or give a cursor.

    As sqlite3's ``backup()``, and its ``execute()`` and psycopg's.
    """
    if not hasattr(type(getattr(method, "__self__", None)), "cursor"):
        # no DBAPI connection
        return method

    @functools.wraps(method)
    def call(*args: Any, **kw: Any) -> Any:
        lease.touch()
        begun = lease.begin_work()
        try:
            result = method(*args, **kw)
        finally:
            lease.end_work(begun)
        if hasattr(result, "fetchone"):
            lease.watch(result)
        return result

    return call


def _failed(handle: Any, error: BaseException) -> None:
    """A handle's use failed, with this.

    :raises ConnectionReclaimed: since the pool took the connection back.

    """
    raise_if_reclaimed(handle)
    lease = handle.__dict__.get("lease")
    pool = None if lease is None else lease.entry.pool()
    if pool is not None:
        pool.hear(lease.entry, error)


def raise_if_reclaimed(handle: Any) -> None:
    if isinstance(handle, Refusing):
        handle.__dict__["told"] = True
        raise handle.reclaimed.again() from None
