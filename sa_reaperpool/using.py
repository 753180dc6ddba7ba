"""A ``with`` block that uses the connection which its thread reserves."""

from __future__ import annotations

import itertools
import weakref
from types import TracebackType
from typing import TYPE_CHECKING
from typing import Any

from . import holder
from .adapter import Handle
from .adapter import Join
from .level import Level

if TYPE_CHECKING:
    from .lease import Lease
    from .reservation import ReservingPool


def usable(handle: Any) -> bool:
    """Can this still be used for what it was reserved for?"""
    if isinstance(handle, Join):
        return handle.is_valid
    return type(handle) is Handle and handle.leased


def give_back(handle: Any) -> None:
    """End a reservation, if it has not ended."""
    if handle is not None and usable(handle):
        # which another thread may have ended meanwhile
        lease = handle.__dict__.get("lease")
        if lease is not None:
            lease.anchor = None
        handle.close()


def left_behind(handle: Any) -> bool:
    """Was the block left for which this was reserved?

    The end of a block may be interrupted, before its first line and once
    more within its clearing up.  It is known by this: there is no block.
    """
    block = handle.__dict__.get("block")
    return block is not None and block() is None


def all_left_behind(leases: dict[Any, Lease]) -> list[Any]:
    """The handles that were, and inside of which nobody works.

    Joins first, so that they are closed before what they have joined.
    """
    found: list[Any] = []
    for lease in leases.copy().values():
        if lease.level is not None:
            handles = lease.level.reservation.handles()
            found += itertools.takewhile(left_behind, handles)
    return found


class Blocks:
    """The blocks of one context manager that is entered while it is in use.

    By its own thread, within its block, or by another one.
    """

    __slots__ = ("entered", "_within")

    def __init__(self) -> None:
        self.entered = True
        """Is the first one entered?"""
        self._within: list[tuple[Any, Any]] = []

    def enter(self, inner: Any) -> Any:
        entered = inner.__enter__()
        self._within.append((holder.current(), inner))
        return entered

    def leave(self) -> Any:
        """The block that this thread is to leave; None for the first one."""
        here = holder.current()
        for place in reversed(range(len(self._within))):
            thread, inner = self._within[place]
            if thread is here:
                del self._within[place]
                return inner
        return None


class Using:
    """A block that uses the thread's reserved connection."""

    __slots__ = (
        "_source",
        "_limit",
        "_made",
        "_level",
        "_outer",
        "_inner",
        "__weakref__",
    )

    def __init__(self, pool: ReservingPool, timeout: float | None):
        self._source = pool
        self._limit = timeout
        self._made: Any = None
        self._level: Level | None = None
        self._inner: Blocks | None = None

    def __enter__(self) -> Any:
        if self._inner is None:
            self._inner = Blocks()
        elif self._inner.entered:
            return self._inner.enter(Using(self._source, self._limit))
        self._inner.entered = True
        self._made = self._level = None
        before = self._source.own().reserved
        try:
            handle = self._source.connection_for(
                weakref.ref(self), self._limit
            )
            if handle is not before:
                self._made = handle
            elif usable(handle):
                self._go_inside(handle)
            return handle
        except BaseException:
            # nobody will leave what was not entered
            self._inner.entered = False
            if self._source.own().reserved is not before:
                self._source.release_connection()
            raise

    def _go_inside(self, handle: Any) -> None:
        """Others may have begun on it since: work inside of theirs."""
        first = handle.first if isinstance(handle, Join) else None
        outer = (first or handle.lease.level).home.active
        inner = outer.reservation.join_again(outer)
        if inner is not None:
            self._outer = outer
            self._level = inner
            outer.go_inside(inner)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        inner = None if self._inner is None else self._inner.leave()
        if inner is not None:
            inner.__exit__(kind, error, trace)
            return
        if self._inner is not None:
            self._inner.entered = False
        try:
            if self._level is not None:
                self._go_outside()
            if self._made is not None:
                self._release()
        except BaseException:
            # however it was interrupted; what was done has no effect again
            self._release()
            raise

    def _go_outside(self) -> None:
        level: Any = self._level
        self._outer.go_outside(level)
        level.end()

    def _release(self) -> None:
        made = self._made
        if made is not None and made is self._source.own().reserved:
            self._source.release_connection()
        else:
            # a generator's block may be left in another thread
            give_back(made)
