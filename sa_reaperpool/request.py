"""A request, and what the threads that serve it have reserved.

An ASGI server runs one request in several threads.  Each may reserve a
connection, and each serves other requests as well, in between or later.  So
within a request what a thread has is not the thread's, but this request's,
and further calls find it there:

* In the event loop's thread, requests take turns at every ``await``.  Each
  has what it reserved there until its end.
* A worker thread runs one *part* of a request, a function, from beginning
  to end, and then a part of some other.  What is reserved in a part is found
  within that part.  It is kept by the context that the part runs in, and so
  by nothing once the part is over; unless others refer to it, as a block
  does that was not left so far, it is garbage then, and so is returned.

Therefore the next request that comes to a thread can neither get the
connection of one that is still going on, nor that of one whose end is just
giving it back.  And a request that waits for a connection has none from its
earlier parts, which could make it wait for ever.

A request is known by :data:`REQUEST`, a context variable: what starts a
thread for a part of it, or a task, hands it on (``asyncio.to_thread()`` and
anyio do; ``loop.run_in_executor()`` does not).

To return a connection is a round trip, which must not be made in the event
loop's thread.  If a part's context goes there, what the part has is left to
the reaper's helpers.  Where there is no reaper, the next part to reserve,
or the request's end, drops it.

A request's end gives back what is reserved in it, from a thread of its own.
A part of the request may be running still: what awaited it was cancelled.
What settles such a race is the lease (lease.py): whoever takes it, in one
atomic step, ends the reservation, and only then the connection is touched.
The part's handle is fenced, so that its next use raises
:class:`.ConnectionReclaimed`.  The end only reads what is kept here; it
writes nothing that a part might be writing at the time.

What is reserved later still, by a part or task that outlives its request,
lasts until that is done, or releases it.
"""

from __future__ import annotations

import traceback
import weakref
from contextvars import ContextVar
from time import monotonic
from time import sleep
from typing import TYPE_CHECKING
from typing import Any

from . import holder
from . import process
from .checkout import PartsOwn
from .guards import level_of
from .holder import Holder
from .reaper import reaper
from .using import give_back
from .using import usable

if TYPE_CHECKING:
    from .reservation import ReservingPool

REQUEST: ContextVar[Request | None] = ContextVar("REQUEST", default=None)
"""The request that is being served here, or None."""

_PART: ContextVar[Part | None] = ContextVar("_PART", default=None)
"""The part of a request that runs in a worker thread; only its context
refers to it."""


class Part:
    """What a request has in one thread.

    :param home: the thread of the request's event loop.

    :param whose: the request's, an object like no other's.

    """

    def __init__(self, home: Holder, whose: object):
        self.home = home
        self.whose = whose
        self.thread = holder.current()
        self.owns: dict[ReservingPool, PartsOwn] = {}

    def belongs(self, thread: Holder, whose: object) -> bool:
        # a task that is begun in a part, say, inherits the part's context
        return self.thread is thread and self.whose is whose

    def __del__(self) -> None:
        owns = self.__dict__.get("owns")
        if not owns or process.forked():
            # interrupted as it was made, or nothing to do; or by the end of
            # a copy of one of the parent's threads
            return
        at_home = holder.current() is self.home
        for pool, own in owns.items():
            own.over = True
            if not at_home:
                own.drop()
            elif own.reserved is not None and pool.frequency is not None:
                reaper.run_soon(pool, own.drop)


class Request:
    """One request, as far as connections are concerned."""

    def __init__(self) -> None:
        self._whose = object()
        self._home = Part(holder.current(), self._whose)
        self._owns: dict[int, tuple[ReservingPool, PartsOwn]] = {}

    # what its threads ask

    def own(self, pool: ReservingPool) -> PartsOwn:
        """What the calling thread has of a pool."""
        part = self._part()
        return part.owns.get(pool) or self._new_own(pool, part)

    def _new_own(self, pool: ReservingPool, part: Part) -> PartsOwn:
        own = PartsOwn(part.thread)
        own.passing = part is not self._home
        for key, (other_pool, other) in self._owns.copy().items():
            if other_pool is pool and other.thread is own.thread:
                # what it may join is not a matter of parts
                own.base = other.base
            if other.over and not other.lasts():
                # a web socket may be open for days, and have many parts
                self._owns.pop(key, None)
        self._owns[id(own)] = (pool, own)
        part.owns[pool] = own
        return own

    def pools(self) -> list[ReservingPool]:
        """Those of which the calling thread has something."""
        return list(self._part().owns)

    def _part(self) -> Part:
        here = holder.current()
        if here is self._home.thread:
            return self._home
        part = _PART.get()
        if part is None or not part.belongs(here, self._whose):
            part = Part(self._home.thread, self._whose)
            _PART.set(part)
        return part

    def drop_over(self) -> None:
        """Have what was reserved in earlier parts returned."""
        for _, own in self._owns.copy().values():
            if own.over:
                own.drop()

    # its end

    def holds(self) -> bool:
        """Is anything reserved?"""
        return any(
            own.dropping or usable(own.made())
            for _, own in self._owns.copy().values()
        )

    def end(self) -> None:
        """Give back what is reserved, in whatever part.

        Waits for the server, since a reset is a round trip.
        """
        owns = self._owns.copy().values()
        for pool, own in owns:
            _end(pool, own.made())
        # for what a part that is over gives back this very moment, a little
        patience = monotonic() + 1
        while any(own.dropping for _, own in owns) and monotonic() < patience:
            sleep(0.0005)


def make_room(pool: ReservingPool, own: PartsOwn) -> None:
    """A part of a request is about to reserve: drop what is in its way.

    That is what earlier parts of this request have, and what this thread
    had in a part of another one.  Else requests would wait for a thread,
    and all threads for connections that those have.

    :param own: what it has.

    """
    request = REQUEST.get()
    if request is not None and (own.passing or pool.frequency is None):
        request.drop_over()
    if not own.passing:
        return
    former = pool._checkouts.former
    other = None if former is None else former()
    if other is not None and other is not own:
        other.drop()
    pool._checkouts.former = weakref.ref(own)


def _end(pool: ReservingPool, reserved: Any) -> None:
    """End what may be in use; an error is logged."""
    if not usable(reserved):
        return
    level = level_of(reserved)
    begun = level is not None and level.reservation.begun
    lease = reserved.__dict__.get("lease")
    try:
        if lease is None:
            # it is a join
            give_back(reserved)
        else:
            why = "the request that had reserved it ended"
            pool._care.give_back(lease, why)
    except Exception:
        pool.logger.error(
            "Exception while a request's connection was given back\n%s",
            traceback.format_exc(),
        )
    if not begun:
        # whoever goes on has lost nothing, and may have another one
        reserved.__dict__["told"] = True
