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


class AtHand:
    """What a thread has reserved, where a few looks tell whether it lasts.

    Nothing of this keeps the handle or its connection; it is of no use, and
    harmless, once the lease has ended.

    :param handle: what was reserved.

    :param block: for which it was, if for one.

    """

    __slots__ = ("ref", "block", "level")

    def __init__(self, handle: Handle, block: weakref.ref[Any] | None):
        level = handle.lease.level
        assert level is not None, "it is reserved"
        self.ref = handle.lease
        self.block = block
        self.level = level.home


class Blocks:
    """The blocks of one context manager that is entered while it is in use.

    By its own thread, within its block, or by another one.
    """

    __slots__ = ("_within",)

    def __init__(self) -> None:
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


class Again:
    """What can be entered while it is in use.

    If its first entry is interrupted on the last lines, nobody will leave
    that, and it seems to be in use for ever.  That is harmless: each entry
    is then one of the inner ones.
    """

    __slots__ = ("entered", "inner")

    entered: bool
    """Is the first block entered?  It is looked at and set in lines between
    which no other thread comes: there is no call, nor a jump, from the one
    to the other."""

    inner: Blocks | None
    """The others, if there ever was one."""

    def _enter_again(self, block: Any) -> Any:
        if self.inner is None:
            blocks = Blocks()
            if self.inner is None:
                self.inner = blocks
        return self.inner.enter(block)


class Using(Again):
    """A block that uses the thread's reserved connection.

    Most are blocks within the block that reserved it, and nothing is to be
    done at their end: those cost a few looks, and no object but this one.
    It is made by :meth:`.ReservingPool.with_connection`, which sets its
    fields itself, since a call of ``__init__()`` costs as much as the looks.
    """

    __slots__ = ("source", "limit", "made", "inside", "__weakref__")

    source: ReservingPool

    limit: float | None
    """Seconds that a checkout may take."""

    made: Any
    """What was reserved for the block."""

    inside: tuple[Level, Level] | None
    """Of the handle, in which it works outside and in which inside of the
    block, where that is inside of others' work."""

    def __enter__(self) -> Any:
        if not self.entered:
            self.entered = True
            handle = self.source.at_hand()
            return self._enter() if handle is None else handle
        return self._enter_again(self.source.with_connection(self.limit))

    def _enter(self) -> Any:
        before = self.source.own().reserved
        try:
            handle = self.source.connection_for(
                weakref.ref(self), self.limit
            )
            if handle is not before:
                self.made = handle
            elif usable(handle):
                self._go_inside(handle)
            return handle
        except BaseException:
            # nobody will leave what was not entered
            self._go_outside()
            self.made, self.entered = None, False
            if self.source.own().reserved is not before:
                self.source.release_connection()
            raise

    def _go_inside(self, handle: Any) -> None:
        """Others may have begun on it since: work inside of theirs."""
        first = handle.first if isinstance(handle, Join) else None
        outer = (first or handle.lease.level).home.active
        inner = outer.reservation.join_again(outer)
        if inner is not None:
            self.inside = outer, inner
            outer.go_inside(inner)

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
        if self.made is not None or self.inside is not None:
            self._leave()
        self.entered = False

    def _leave(self) -> None:
        try:
            self._go_outside()
            if self.made is not None:
                self._release()
        except BaseException:
            # however it was interrupted; what was done has no effect again
            self._release()
            raise
        finally:
            self.made, self.entered = None, False

    def _go_outside(self) -> None:
        if self.inside is not None:
            outer, inner = self.inside
            outer.go_outside(inner)
            inner.end()
            self.inside = None

    def _release(self) -> None:
        made = self.made
        if made is not None and made is self.source.own().reserved:
            self.source.release_connection()
        else:
            # a generator's block may be left in another thread
            give_back(made)
