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

import contextlib
import dataclasses
import inspect
import os.path
import sys
import weakref
from time import monotonic
from types import CodeType
from types import FrameType
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from . import holder as _holder
from . import labels
from . import process
from .holder import Holder

if TYPE_CHECKING:
    from .level import Level

T = TypeVar("T")

_SQLALCHEMY = os.path.dirname(sqlalchemy.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
# these are applications that happen to live here
_APPLICATIONS = frozenset(
    _HERE + name for name in ("__main__.py", "demo.py", "compare_work.py")
)

_SESSION_CLOSE = Session.close.__code__
# these end in that, and roll back before
_CLOSERS = frozenset(
    (
        Connection.close.__code__,
        inspect.unwrap(Engine.begin).__code__,
        _SESSION_CLOSE,
    )
)

INNER: dict[str, bool | str] = {}
"""By the name of a file: does its code call for somebody else?  "maybe" if
there is more than one of that name; :func:`.application_line` adds names."""

Line = tuple[CodeType, int]
"""A line, by its place in the code: to tell its number takes as long as a
whole checkout where a function is long, and few are ever asked for."""


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
        if not process.page[0]:
            process.check()
        self.touched = monotonic()
        holder = _holder.current()
        if holder is not self._last:
            if self.level is not None:
                self.level.reservation.check_owner()
            self._last = holder
            self._add(holder)

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
    lease = Lease(handle, lease_ended)
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


def lease_ended(lease: weakref.ref[Any]) -> None:
    """Called when a handle is garbage collected that has a lease."""
    try:
        pool = lease.pool  # type: ignore[attr-defined]
    except AttributeError:
        # interrupted as it began
        return
    if pool is not None:
        pool._handle_collected(lease)


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
    lease: Lease, now: float, in_transaction: bool | None
) -> LeaseInfo:
    return LeaseInfo(
        holders=tuple(
            HolderInfo(holder.name, holder.alive)
            for holder in lease.holders
        ),
        held_for=max(0.0, now - lease.taken),
        unused_for=max(0.0, now - lease.used),
        where=lease.where,
        in_transaction=in_transaction,
        kept=lease.kept,
        label=lease.label,
    )


def written(line: Line | None) -> str:
    """An application's line for people."""
    if line is None:
        return "an unknown line"
    code, _ = line
    return f"{code.co_filename}:{number_of(line)} in {code.co_name}"


def number_of(line: Line) -> int:
    """The number of an application's line."""
    code, place = line
    for start, end, number in code.co_lines():
        if start <= place < end and number is not None:
            return number
    return code.co_firstlineno


def here() -> str:
    """The application's line that is being run, for people."""
    return written(application_line())


def application_line(depth: int = 1) -> Line | None:
    """The first line outside SQLAlchemy and this package, unformatted.

    :param depth: so many calls up is the first that may be it.

    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        try:
            inner = INNER[code.co_filename]
        except KeyError:
            inner = INNER[code.co_filename] = _inner(code.co_filename)
        if not (inner and (inner is True or is_generated(frame))):
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def is_generated(frame: FrameType) -> bool:
    """Did SQLAlchemy 2.0 make this function from a string?"""
    # either without a module, or with that of the function it wraps
    module = frame.f_globals.get("__name__", "sqlalchemy")
    return str(module).partition(".")[0] == "sqlalchemy"


def called_by_sqlalchemy(depth: int) -> bool:
    """Is the frame that many calls up one of SQLAlchemy's own?"""
    return sys._getframe(depth).f_code.co_filename.startswith(_SQLALCHEMY)


def about_to_close() -> bool:
    """Is it SQLAlchemy that calls, and will close its Connection next?"""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code in _CLOSERS:
            # the Connection that was given to a session lives on
            return code is not _SESSION_CLOSE or isinstance(
                frame.f_locals["self"].bind, Engine
            )
        if not (
            code.co_filename.startswith(_SQLALCHEMY) or is_generated(frame)
        ):
            return False
        frame = frame.f_back
    return False


def connection_calling() -> Connection | None:
    """The Connection whose method is being run, and has led to this."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Connection):
            return found
        frame = frame.f_back
    return None


def called_here(depth: int) -> bool:
    """Is the frame that many calls up one of this package's?"""
    return sys._getframe(depth).f_code.co_filename.startswith(_HERE)


def caught_by_sqlalchemy(kind: type[BaseException]) -> bool:
    """Is SQLAlchemy just handling such an error, that it will raise on?

    Unlike one that has reached the application, it was caught by a frame
    which is still being run.
    """
    _, error, trace = sys.exc_info()
    if not isinstance(error, kind):
        return False
    running = set()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_SQLALCHEMY):
            running.add(frame)
        frame = frame.f_back
    while trace is not None and trace.tb_frame not in running:
        trace = trace.tb_next
    return trace is not None


def _inner(filename: str) -> bool | str:
    if filename == "<string>":
        return "maybe"
    if filename.startswith(_HERE):
        return filename not in _APPLICATIONS
    # contextlib stands between `with engine.begin()` and its user
    return (
        filename.startswith((_SQLALCHEMY, "<sqlalchemy"))
        or filename == contextlib.__file__
    )
