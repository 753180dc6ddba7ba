"""A lease: one checkout, from the moment it is made to its end.

The states of a pooled connection, and who may move it::

                      connect()              attach()
       (free slot) ------------> in transit ----------> leased
                                  ^   |                  |  |
                 reaper claims,   |   | put()            |  |
                 a checkout gets  |   v                  |  |
                                  idle <-----------------'  |
                                         return             |
       (free slot) <----------------------------------------'
                            reclaim, then close

* *idle*: the entry is in the queue.  One locked step takes it out.
* *leased*: the lease is in ``pool._leases``, under its handle's weak
  reference.  **Taking it out of there, one atomic** ``dict.pop()``, **ends
  it**, and whoever gets it from that call, and nobody else, does what has
  to be done: a return resets the connection and puts it into the queue, a
  reclaim fences the handle and closes it.  The loser does nothing.
* *in transit*: neither; only a frame refers to the entry (it is being
  opened, checked, reset or closed).  If that frame is interrupted, the entry
  is garbage, and its slot is free (see slots.py).

A handle's class says which of these it is in: a ``Handle`` while leased, a
plain SQLAlchemy handle once it ended well, and a ``ReclaimedHandle`` once
the pool took it back (adapter/).
"""

from __future__ import annotations

import dataclasses
import weakref
from time import monotonic
from types import CodeType
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import TypeVar

from . import holder as _holder
from . import labels
from . import process
from .callers import Line
from .callers import written
from .holder import Holder
from .holder import here as _here

if TYPE_CHECKING:
    from .level import Level

T = TypeVar("T")

_page = process.page


class _Watched(weakref.ref[Any]):
    """A cursor of a lease, and until when it was there."""

    __slots__ = ("until",)

    until: float


def _cursor_ended(ref: weakref.ref[Any]) -> None:
    # anywhere, any time; at interpreter exit the name may be gone already
    if monotonic is not None:
        ref.until = monotonic()  # type: ignore[attr-defined]


class Lease(weakref.ref[Any]):
    """One checkout: the entry, who uses it, since when, and from where.

    It is itself the weak reference to its handle, under which the pool has
    it: one object less in every checkout.  Made by :func:`.begun`.

    It has no callback: that its handle is collected it is told by that one's
    ``__del__()``.  When a weak reference is freed, CPython (3.10 to 3.13, and
    maybe later) lets go of what it refers to by its own attributes while it
    is known to its object; if finalisers run in that, and the object is found
    to be garbage meanwhile, the process crashes over the callback.
    """

    __slots__ = (
        "pool",
        "entry",
        "turn",
        "taken",
        "seen",
        "seen_busy",
        "working",
        "kept",
        "quiet_since",
        "leak_reported",
        "usual",
        "touched",
        "_last",
        "_code",
        "_place",
        "level",
        "anchor",
        "label",
        "__weakref__",
    )

    pool: Any
    """Whose it is."""

    entry: Any
    """What is leased."""

    turn: int
    """The queue's, at which it was got."""

    taken: float
    """When it began, in seconds on the monotonic clock."""

    seen: list[Holder | _Watched]
    """Who took or used it, in the order in which they came, and the cursors
    that it gave out; one list, as most leases see little."""

    seen_busy: bool
    """Was a cursor open, or a command running, when it was last judged?"""

    working: Holder | None
    """Who runs a command of which neither a cursor nor every driver tells."""

    touched: float
    """When it was last used, but for its cursors."""

    kept: bool

    quiet_since: float
    """When the reaper first saw that it runs nothing, since its last use."""

    leak_reported: bool

    usual: bool
    """May it be returned by the short way (adapter/)?"""

    level: Level | None
    """The base's in its reservation, if it is reserved (joins.py)."""

    anchor: Any
    """The handle, while the pool itself keeps it for its thread."""

    label: str | None
    """What the program was doing, in its own words (labels.py)."""

    _last: Holder
    _code: CodeType | None
    _place: int

    @property
    def reserved(self) -> bool:
        """Is it one thread's alone?"""
        return self.level is not None

    @property
    def used(self) -> float:
        """When it was last used, as far as that is seen."""
        ended = [ref.until for ref in self._watched() if ref() is None]
        return max(self.touched, *ended) if ended else self.touched

    @used.setter
    def used(self, at: float) -> None:
        self.touched = at

    @property
    def line(self) -> Line | None:
        """The application's line that took it, unformatted."""
        return None if self._code is None else (self._code, self._place)

    @property
    def where(self) -> str:
        return written(self.line)

    @property
    def last_holder(self) -> Holder:
        """Who took it, or used it since."""
        return self._last

    def touch(self) -> None:
        """The calling thread uses the connection.

        :raises NotOwner: it is reserved by another one.

        """
        if not _page[0]:
            process.check()
        self.touched = monotonic()
        try:
            holder = _here.holder
        except AttributeError:
            holder = _holder.current()
        if holder is not self._last:
            if self.level is not None:
                self.level.reservation.check_owner()
            self._last = holder
            self._add(holder)

    def collected(self) -> None:
        """Called when its handle is garbage; also if it has ended."""
        try:
            pool = self.pool
            # where the pool is garbage as well, connections are left to
            # their driver, as ever
            if self not in pool._leases or self.entry.pool() is None:
                return
        except (AttributeError, TypeError):
            # Interrupted as it began; what is in no dictionary so far has no
            # hash, and gets none once its handle is gone.
            return
        pool._handle_collected(self)

    def begin_work(self) -> Holder:
        """Who used it last begins a command.

        :return: for :meth:`.end_work`, which follows.

        """
        self.working = holder = self._last
        return holder

    def end_work(self, begun: Holder | None) -> None:
        """It is over, if it has begun."""
        if begun is not None:
            self.touched = monotonic()
            self.working = None

    def worked_on(self) -> bool:
        """Is such a command being run?

        It is not by a thread that was interrupted before it could say so,
        and has ended since.
        """
        holder = self.working
        return holder is not None and holder.alive

    def taken_out(self) -> None:
        """Somebody takes the raw connection out of its handle.

        To use it past the pool, or merely to look at it: that keeps the
        connection for another while, and makes nobody a holder.
        """
        self.touched = monotonic()

    def _add(self, holder: Holder) -> None:
        # A lease may pass through thousands of threads in its life.  Those
        # that ended are dropped one by one, so that a thread which joins
        # meanwhile is never dropped with them.
        holders = self.holders
        if holder not in holders:
            self.seen.append(holder)
        if len(holders) > 8:
            for other in holders:
                if not other.alive and other is not holder:
                    _remove(self.seen, other)

    @property
    def holders(self) -> list[Holder]:
        """Who took or used it, in the order in which they came; a copy."""
        return [each for each in self.seen.copy() if isinstance(each, Holder)]

    def _watched(self) -> list[_Watched]:
        return [
            each for each in self.seen.copy() if isinstance(each, _Watched)
        ]

    def watch(self, cursor: Any) -> None:
        """While this cursor is alive and open, the connection is in use.

        Fetching from it is not seen here; its end is.
        """
        try:
            watched = _Watched(cursor, _cursor_ended)
        except TypeError:
            # a driver's cursor without weak references: not watched
            return
        watched.until = 0.0
        self.seen.append(watched)
        if len(self.seen) > 8:
            # One by one: another thread may append meanwhile.  Those that
            # ended did so before the present use.
            for ref in self._watched():
                if ref() is None:
                    _remove(self.seen, ref)

    def cursors(self) -> list[Any]:
        """The cursors that are still referred to, open or not."""
        return [
            cursor for ref in self._watched() if (cursor := ref()) is not None
        ]

    def abandoned(self) -> bool:
        """Have all ended who took or used it?"""
        for holder in self.holders:
            if holder.alive:
                return False
        return True

    def names(self) -> str:
        return ", ".join(
            f"{holder.name!r}{'' if holder.alive else ' (ended)'}"
            for holder in self.holders
        )


def begun(
    handle: Any, pool: Any, entry: Any, turn: int, line: Line | None
) -> Lease:
    """The lease of a checkout that ends now.

    :param turn: the queue's, at which the entry was got.

    :param line: the application's, that asked for it.

    """
    lease = Lease(handle)
    lease.pool = pool
    lease.entry = entry
    lease.turn = turn
    lease.taken = lease.touched = monotonic()
    lease._last = holder = _holder.current()
    lease.seen = [holder]
    lease.level = lease.working = lease.anchor = lease._code = None
    lease.kept = lease.leak_reported = lease.seen_busy = False
    lease.quiet_since = 0.0
    lease.usual = False
    lease.label = labels.current()
    if line is not None:
        lease._code, lease._place = line
    return lease


def _remove(items: list[T], item: T) -> None:
    try:
        items.remove(item)
    except ValueError:
        # another thread tidies up as well
        pass


@dataclasses.dataclass(frozen=True)
class HolderInfo:
    """A thread that took or used a connection, as it was when asked."""

    name: str
    alive: bool


@dataclasses.dataclass(frozen=True)
class LeaseInfo:
    """A lease as it was when asked; times in seconds, no secrets."""

    holders: tuple[HolderInfo, ...]
    held_for: float
    unused_for: float
    where: str
    in_transaction: bool | None
    kept: bool
    label: str | None = None


def describe(
    lease: Lease,
    now: float,
    in_transaction: bool | None,
    write: Callable[[Line | None], str] = written,
) -> LeaseInfo:
    return LeaseInfo(
        holders=tuple(
            HolderInfo(holder.name, holder.alive)
            for holder in lease.holders
        ),
        held_for=max(0.0, now - lease.taken),
        unused_for=max(0.0, now - lease.used),
        where=write(lease.line),
        in_transaction=in_transaction,
        kept=lease.kept,
        label=lease.label,
    )
