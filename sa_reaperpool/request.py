"""A request, and what the threads that serve it have reserved.

An ASGI server runs one request in several threads, each of which may
reserve a connection, and each of which serves other requests as well, in
between or later.  So within a request a thread's reservations are the
request's: they are found by who asks in the same thread within the same
request, and by nobody else.  That is why the next request which comes to a
thread can neither get the connection of one that is still going on, nor
that of one whose end is just giving it back.

A worker thread runs one part of a request to its end, and then one of some
other request.  When it reserves a connection for that, it ends what it had
for the one before.  Otherwise requests with a connection would wait for a
thread, and all threads for a connection.  The thread of the event loop is
another matter: there requests take turns at every ``await``, and each keeps
its own.

A request is known by :data:`REQUEST`, a context variable: what starts a
thread for a part of it, or a task, hands it on (``asyncio.to_thread()`` and
anyio do; ``loop.run_in_executor()`` does not).

A request's end gives back what is reserved in it, from a thread of its own.
A thread of the request may be running still: what awaited it was cancelled.
What settles such a race is the lease (lease.py): whoever takes it, in one
atomic step, ends the reservation, and only then the connection is touched.
The thread's handle is fenced, so that its next use raises
:class:`.ConnectionReclaimed`.  The end only reads what is kept here; it
writes nothing that a thread might be writing at the time.

What is reserved later still, by a thread or task that outlives its request,
lasts until it is released, or until that thread or task is done: only the
request keeps its handles, and only the contexts of its parts keep the
request.  With the last of them all are garbage, and so returned.
"""

from __future__ import annotations

import traceback
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING
from typing import Any

from . import holder
from .checkout import Own
from .guards import level_of
from .holder import Holder
from .using import give_back
from .using import usable

if TYPE_CHECKING:
    from .reservation import ReservingPool

REQUEST: ContextVar[Request | None] = ContextVar("REQUEST", default=None)
"""The request that is being served here, or None."""


class Request:
    """One request, as far as connections are concerned."""

    def __init__(self) -> None:
        self._home = holder.current()
        self._parts: dict[tuple[ReservingPool, Holder], Own] = {}

    def own(self, pool: ReservingPool) -> Own:
        """What the calling thread has of a pool, in this request."""
        part = (pool, holder.current())
        own = self._parts.get(part)
        if own is None:
            self._forget_ended()
            own = Own()
            own.passing = part[1] is not self._home
            self._parts[part] = own
        return own

    def _forget_ended(self) -> None:
        # A web socket may be open for days, and see many threads.
        for (pool, thread), own in self._parts.copy().items():
            if not thread.alive and not usable(own.reserved):
                self._parts.pop((pool, thread), None)

    def pools(self) -> list[ReservingPool]:
        """Those of which the calling thread has something."""
        here = holder.current()
        return [pool for pool, thread in self._parts.copy() if thread is here]

    def holds(self) -> bool:
        """Is anything reserved?"""
        return any(usable(own.reserved) for own in self._parts.copy().values())

    def end(self) -> None:
        """Give back what is reserved, by whatever thread.

        Waits for the server, since a reset is a round trip.
        """
        for (pool, _), own in self._parts.copy().items():
            why = "the request that had reserved it ended"
            # whose work is undone in the midst is to hear of it
            _end(pool, own.reserved, why, tell=_begun(own.reserved))


def end_former(pool: ReservingPool, own: Own) -> None:
    """A worker thread reserves: end what it had for another request.

    :param own: what it has in this one.

    """
    former = pool._checkouts.former
    other = None if former is None else former()
    if other is not None and other is not own:
        why = "the thread that had reserved it serves another request"
        _end(pool, other.reserved, why, tell=False)
    pool._checkouts.former = weakref.ref(own)


def _begun(reserved: Any) -> bool:
    level = level_of(reserved)
    return level is not None and level.reservation.begun


def _end(pool: ReservingPool, reserved: Any, why: str, tell: bool) -> None:
    """End what may not be done with.

    Its handle refuses any further use, and if it is in use, the connection
    is closed.  An error is logged.

    :param tell: who asks for one again gets that handle once more, and
     with it the error; else another one.

    """
    if not usable(reserved):
        return
    lease = reserved.__dict__.get("lease")
    try:
        if lease is None:
            # it is a join
            give_back(reserved)
        else:
            pool._care.give_back(lease, why)
    except Exception:
        # which is nobody's here
        pool.logger.error(
            "Exception while a request's connection was given back\n%s",
            traceback.format_exc(),
        )
    if not tell:
        reserved.__dict__["told"] = True
