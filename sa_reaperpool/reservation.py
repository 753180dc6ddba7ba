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
from typing import Any
from typing import Iterator
from typing import cast

from sqlalchemy import Connection

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
from .request import REQUEST
from .request import make_room
from .stock import StockedPool
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
        psycopg run is cancelled.  Another driver's close may wait for what
        it runs: for half a second where the driver tells its socket, which
        is shut down then, else to its end.
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
