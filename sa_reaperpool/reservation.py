"""One connection per thread: who has reserved what.

The calls are ActiveRecord's. What a thread has reserved is kept in two
places: in the thread's own values (:class:`.Checkouts`), where its further
calls find it, and in the lease, so that it outlives a thread that dies
with it: the reaper is to find and report it, not the garbage collector.
Within a request of :class:`.ReleaseConnections` it is the request that
keeps it (request.py), and another request finds nothing of it.

With ``reservation="thread"`` each checkout is a reservation, and joins the
one that the thread has, if it has one.  What joins may do is in joins.py.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from types import TracebackType
from typing import Any
from typing import Iterator
from typing import cast

from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError

from . import guards
from .adapter import Handle
from .adapter import Join
from .checkout import UNSET
from .checkout import Own
from .checkout import PartsOwn
from .errors import NotCheckedOut
from .errors import ProvisionalCommitLost
from .joins import Reservation
from .lease import Lease
from .level import Level
from .request import REQUEST
from .request import make_room
from .stock import StockedPool
from .using import Again
from .using import AtHand
from .using import Using
from .using import all_left_behind
from .using import give_back
from .using import left_behind
from .using import usable


class _Mine(threading.local):
    """The pools of which this thread has reserved, outside of requests."""

    def __init__(self) -> None:
        self.pools: weakref.WeakSet[ReservingPool] = weakref.WeakSet()


_mine = _Mine()
_request = REQUEST.get


class ReservingPool(StockedPool):
    """A pool of which a thread can reserve a connection."""

    # checkout

    def connect_at_length(self, timeout: float | None) -> Any:
        if self.settings.reservation == "thread":
            reserved = self.own().reserved
            if reserved is not None and left_behind(reserved):
                self.release_connection()
            base = self._base()
            if base is not None:
                return Join(base)
        return self.check_out(timeout)

    def look_whether_usual(self) -> None:
        super().look_whether_usual()
        if self.settings.reservation == "thread":
            self._unusual = True

    # checkouts of a thread that has one

    def own(self) -> Own:
        """What this thread has, in the request that it serves, if any."""
        request = REQUEST.get()
        return self._checkouts if request is None else request.own(self)

    def _base(self) -> Handle | None:
        """The handle that this thread's further checkouts join."""
        ref = self.own().base
        base = None if ref is None else ref()
        return base if type(base) is Handle and base.leased else None

    def _lent(self, handle: Handle) -> None:
        if self.settings.reservation == "thread":
            # unless a listener ended it, or has made one meanwhile
            if type(handle) is Handle and self._base() is None:
                self._reserve(handle)
                self.own().base = weakref.ref(handle)

    def _reserve(self, handle: Handle) -> None:
        """From now on this checkout is its thread's alone."""
        guards.install(self.dialect_in_use)
        Reservation(self._leases, handle.lease, self.given_name)

    def _lease_of(self, connection: Any) -> Lease | None:
        if isinstance(connection, Connection) and not connection.closed:
            connection = connection.connection
        if isinstance(connection, Join):
            connection = connection.base if connection.is_valid else None
        lease = getattr(connection, "__dict__", {}).get("lease")
        if lease is not None and self._leases.get(lease) is lease:
            return cast(Lease, lease)
        return None

    def _checked_out(self, connection: Any, what: str) -> Lease:
        lease = self._lease_of(connection)
        if lease is None:
            raise NotCheckedOut(
                f"{what} takes a connection that is checked out of this pool",
                self.given_name,
            )
        return lease

    # reserving

    def connection(self, timeout: float | None = None) -> Any:
        """The thread's reserved connection.

        The first call checks one out, the thread's next ones return the
        same, until it is released.  Like ActiveRecord's ``connection``.

        :param timeout: seconds that the checkout may take; None: what
         :meth:`.checkout_timeout` says, or the pool's ``timeout``.

        :raises CheckoutTimeout: none came free within the time limit.

        """
        handle = self.at_hand()
        return self.connection_for(None, timeout) if handle is None else handle

    def at_hand(self) -> Any:
        """What this thread has reserved, if it can be used just so.

        That is, if it is not another one's join, or taken back, or left
        behind, and if nobody has begun anything on it since.

        :return: None also where it takes more than a few looks to tell, as
         in a request.

        """
        if _request() is not None:
            return None
        found = self._checkouts.at_hand
        if found is None or found.ref not in self._leases:
            return None
        block = found.block
        if block is not None and block() is None:
            return None
        level = found.level.active
        reservation = level.reservation
        begun = reservation.begun
        if begun and begun[-1] is not level or reservation.pending:
            return None
        return found.ref()

    def connection_for(
        self, block: weakref.ref[Any] | None, timeout: float | None
    ) -> Any:
        """The same, for a block: if made for it, it is to go with it."""
        own = self.own()
        reserved = own.reserved
        if reserved is not None:
            if left_behind(reserved):
                self.release_connection()
            elif usable(reserved) or _untold(reserved):
                return reserved
        return self._reserve_one(own, timeout, block)

    def _reserve_one(
        self,
        own: Own,
        timeout: float | None,
        block: weakref.ref[Any] | None,
    ) -> Any:
        own.reserved = own.at_hand = handle = None
        try:
            if isinstance(own, PartsOwn):
                make_room(self, own)
            handle = self.connect(UNSET if timeout is None else timeout)
            if type(handle) is Handle and handle.lease.level is None:
                self._reserve(handle)
            if block is not None:
                handle.__dict__["block"] = block
            if isinstance(own, PartsOwn):
                own.made = weakref.ref(handle)
                own.reserved = handle
            elif type(handle) is Handle:
                _mine.pools.add(self)
                # one line, so that whoever has it can be found
                own.reserved = handle.lease.anchor = handle
                own.at_hand = AtHand(handle, block)
            else:
                _mine.pools.add(self)
                own.reserved = handle
            return handle
        except BaseException:
            own.reserved = own.at_hand = None
            give_back(handle)
            raise

    def with_connection(self, timeout: float | None = None) -> Using:
        """The thread's reserved connection, for a ``with`` block.

        Nested blocks get the same one; the outermost releases it, if it
        was it that made the reservation.  Like ActiveRecord's
        ``with_connection``.

        :param timeout: seconds, as for :meth:`.connection`.

        """
        using = Using()
        using.source = self
        using.limit = timeout
        using.entered = False
        using.made = using.inside = using.inner = None
        return using

    def release_connection(self) -> bool:
        """Give the thread's reserved connection back.

        :return: False if there was none.

        """
        own = self.own()
        reserved = own.reserved
        try:
            had_one = reserved is not None and usable(reserved)
            _close_all(own)
            give_back(reserved)
        except BaseException:
            give_back(reserved)
            raise
        finally:
            # else it was interrupted twice, and is to be found again
            if reserved is None or not usable(reserved):
                own.reserved = own.at_hand = None
        return had_one

    def active_connection(self) -> bool:
        """Does this thread have a reserved connection?"""
        reserved = self.own().reserved
        if reserved is not None and usable(reserved):
            return True
        return self._base() is not None

    def has_lost(self) -> bool:
        return super().has_lost() or bool(all_left_behind(self._leases))

    def recover_lost(self) -> None:
        for handle in all_left_behind(self._leases):
            give_back(handle)
        super().recover_lost()

    # plain checkouts

    def checkout(self, timeout: float | None = None) -> Any:
        """Check a connection out, to be given to :meth:`.checkin`.

        :param timeout: seconds, as for :meth:`.connection`.

        :raises CheckoutTimeout: none came free within the time limit.

        """
        return self.connect(UNSET if timeout is None else timeout)

    def checkin(self, connection: Any) -> None:
        """Return a connection.

        :param connection: what a checkout gave, or an
         :class:`sqlalchemy.Connection`.

        :raises NotCheckedOut: it is not checked out of this pool, or not
         any more.

        :raises NotOwner: another thread, which lives, has reserved it.

        """
        lease = self._checked_out(connection, "checkin()")
        if lease.level is not None:
            lease.level.reservation.check_owner()
        if connection is self.own().reserved:
            self.release_connection()
        else:
            connection.close()

    def remove(self, connection: Any) -> None:
        """Forget a connection: its slot is free.

        Its holder keeps it, working, and closes it in the end.

        :raises NotCheckedOut: it is not checked out of this pool.

        :raises JoinRefused: others in its thread work on it.

        """
        self._checked_out(connection, "remove()")
        connection.detach()

    # all of them

    def connected(self) -> bool:
        """Is any connection open?"""
        return any(entry.connected for entry in self.queue.entries())

    def disconnect(self) -> None:
        """Close all connections, in use or not.

        Who holds one gets :class:`.ConnectionReclaimed` at its next use.
        The pool can be used on, and opens new ones.  What psycopg2 and
        psycopg run is cancelled; other drivers' close may wait for it.
        """
        self._care.close_idle(None, "shutdown")
        for entry in self.queue.entries():
            entry.outdated = entry.outdated or "refreshed"
        self._epoch += 1
        told: list[ProvisionalCommitLost] = []
        for lease in list(self._leases.values()):
            try:
                why = "disconnect() was called"
                self.take_back(lease, "disconnected", why)
            except ProvisionalCommitLost as warning:
                # which is an error here; the others are closed all the same
                told.append(warning)
        if told:
            raise told[0]


class Given:
    """What a block of ``with_connection(engine)`` gave.

    :param connection: the Connection.

    :param block: for which it was made.

    :param level: its join's; None if it is none, and of no use.

    """

    __slots__ = ("connection", "_block", "_level")

    def __init__(
        self,
        connection: Connection,
        block: weakref.ref[Any],
        level: Level | None,
    ):
        self.connection = connection
        self._block = block
        self._level = level

    def at_hand(self) -> bool:
        """Can it be used just so?

        No means that it takes more to tell, as in
        :meth:`.ReservingPool.at_hand`.  A Connection that was closed has
        ended its level, unless the base ended before.
        """
        level = self._level
        if level is None or level.ended:
            return False
        whose = level.reservation
        begun = whose.begun
        return (
            not (begun and begun[-1] is not level)
            and not whose.pending
            and self._block() is not None
            and whose.lease is not None
        )

    def lasts(self) -> bool:
        """Is it what the block around this one has, if there is one?"""
        connection = self.connection
        if connection.closed:
            return False
        if not connection.invalidated and left_behind(connection.connection):
            connection.close()
            return False
        return True


class with_connection(Again):
    """The thread's reserved connection of an engine's pool, for a block.

    Gives an :class:`sqlalchemy.Connection`.  Nested blocks get the same
    one, unless somebody else has uncommitted work in between: inside of a
    session's, say, it is another one, whose work is inside of the session's.
    Who made it closes it, and releases the reservation if that was made.

    It shares the DBAPI connection with what the pool's own calls give, as a
    join: inside a block of :meth:`.ReaperPool.with_connection`, say, it
    never commits or undoes what was begun there.

    :param engine: one with a :class:`.ReaperPool`.

    :raises sqlalchemy.exc.ArgumentError: its pool is another one.

    """

    __slots__ = (
        "_engine",
        "_source",
        "_mine",
        "_outer",
        "_made",
        "__weakref__",
    )

    _mine: Given | None
    """What it has made."""

    _outer: Given | None
    """What is found again after that."""

    def __init__(self, engine: Engine):
        pool = getattr(engine, "pool", None)
        if not isinstance(pool, ReservingPool):
            raise ArgumentError(
                "with_connection() takes an engine whose pool is a "
                f"ReaperPool; this has {type(pool).__name__}"
            )
        self._engine = engine
        self._source = pool
        self.entered = False
        self._mine = self._outer = self._made = self.inner = None

    def __enter__(self) -> Connection:
        if not self.entered:
            self.entered = True
            try:
                return self._enter()
            except BaseException:
                # nobody will leave what was not entered
                self.entered = False
                raise
        again = with_connection(self._engine)
        return self._enter_again(again)  # type: ignore[no-any-return]

    def _enter(self) -> Connection:
        own = self._source.own()
        known: dict[Engine, Given] | None = own.connections
        if known is None:
            known = own.connections = {}
        given = known.get(self._engine)
        if given is not None:
            if given.at_hand():
                return given.connection
            if not given.lasts():
                given = None
            elif not _inside_of_others(given.connection):
                return given.connection
        self._outer = given
        self._mine = mine = self._connect()
        known[self._engine] = mine
        return mine.connection

    def _connect(self) -> Given:
        """A new one, on what the thread has reserved."""
        before = self._source.own().reserved
        block = weakref.ref(self)
        handle = self._source.connection_for(block, None)
        if handle is not before:
            self._made = handle
        base = handle.base if isinstance(handle, Join) else handle
        if usable(base):
            # of its own, so that what it thinks it has begun is its own too
            handle = Join(base, stands_in=base is self._made)
            handle.__dict__["block"] = block
            connection = Connection(self._engine, handle)
            handle.level.user = weakref.ref(connection)
            return Given(connection, block, handle.level)
        return Given(Connection(self._engine, handle), block, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.inner is not None:
            inner = self.inner.leave()
            if inner is not None:
                inner.__exit__(kind, error, trace)
                return
        if self._mine is not None:
            self._leave(self._mine)
        self.entered = False

    def _leave(self, mine: Given) -> None:
        own = self._source.own()
        known = own.connections or {}
        if known.get(self._engine) is mine:
            if self._outer is None:
                del known[self._engine]
            else:
                known[self._engine] = self._outer
        made, self._made = self._made, None
        self._mine = self._outer = None
        mine.connection.close()
        if made is not None and own.reserved is made:
            self._source.release_connection()
        else:
            # the block is left in another thread
            give_back(made)


def release_connections() -> int:
    """Give back what this thread has reserved, in all pools.

    Like ActiveRecord's ``clear_active_connections!``.

    :return: how many connections were given back.

    """
    request = REQUEST.get()
    if request is not None:
        return sum(_release_all(request.pools()))
    pools = list(_mine.pools)
    _mine.pools.clear()
    return sum(_release_all(pools))


def _release_all(pools: list[ReservingPool]) -> Iterator[bool]:
    for number, pool in enumerate(pools, 1):
        try:
            yield pool.release_connection()
        except BaseException:
            # the failure of one is not to keep the others
            deque(_release_all(pools[number:]), maxlen=0)
            raise


def _inside_of_others(connection: Connection) -> bool:
    """Would its statements be inside of newer uncommitted work?

    Or refused, since what it was joined to has ended?
    """
    if connection.invalidated:
        return False
    level = guards.level_of(connection.connection)
    if level is None:
        return False
    return bool(level.ended) or level.reservation.inside(level)


def _untold(handle: Any) -> bool:
    """Was this taken back, or its work undone, and its holder knows not yet?

    Who calls ``connection()`` for each statement would lose in silence what
    the ones before have done.
    """
    if isinstance(handle, Join) and handle.first.undone:
        return True
    base = handle.base if isinstance(handle, Join) else handle
    return "reclaimed" in base.__dict__ and "told" not in base.__dict__


def _close_all(own: Own) -> None:
    connections, own.connections = own.connections, None
    for given in (connections or {}).values():
        given.connection.close()
