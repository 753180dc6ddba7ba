"""A request, and what the threads that serve it have reserved.

An ASGI server runs one request in several threads, each of which may
reserve a connection, and each of which serves other requests as well, in
between or later.  So within a request a thread's reservations are the
request's: they are found by who asks in the same thread within the same
request, and by nobody else.  That is why the next request which comes to a
thread can neither get the connection of one that is still going on, nor
that of one whose end is just giving it back.

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
from contextvars import ContextVar
from typing import TYPE_CHECKING

from . import holder
from .checkout import Own
from .holder import Holder
from .using import usable

if TYPE_CHECKING:
    from .reservation import ReservingPool

REQUEST: ContextVar[Request | None] = ContextVar("REQUEST", default=None)
"""The request that is being served here, or None."""


class Request:
    """One request, as far as connections are concerned."""

    def __init__(self) -> None:
        self._parts: dict[tuple[ReservingPool, Holder], Own] = {}

    def own(self, pool: ReservingPool) -> Own:
        """What the calling thread has of a pool, in this request."""
        part = (pool, holder.current())
        own = self._parts.get(part)
        if own is None:
            self._forget_ended()
            own = self._parts.setdefault(part, Own())
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
            try:
                pool.end_reservation(own.reserved)
            except Exception:
                # its own failure, and not that of the next one
                pool.logger.error(
                    "Exception at the end of a request\n%s",
                    traceback.format_exc(),
                )
