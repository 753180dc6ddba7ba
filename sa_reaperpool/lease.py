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
the pool took it back (adapter.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from . import holder as _holder
from . import labels
from . import process
from .holder import Holder

if TYPE_CHECKING:
    from .level import Level

T = TypeVar("T")

_SQLALCHEMY = os.path.dirname(sqlalchemy.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
# these two are applications that happen to live here
_APPLICATIONS = frozenset(_HERE + name for name in ("__main__.py", "demo.py"))
_inner: dict[str, bool] = {}


class _Uses:
    """Until when a lease's cursors were there.

    Not the lease itself, which their weak references would keep alive.
    """

    __slots__ = ("until",)

    until: float


class _Watched(weakref.ref[Any]):
    __slots__ = ("uses",)

    uses: _Uses


def _cursor_ended(ref: weakref.ref[Any]) -> None:
    # anywhere, any time; at interpreter exit the name may be gone already
    if monotonic is not None:
        ref.uses.until = monotonic()  # type: ignore[attr-defined]


class Lease:
    """One checkout: the entry, who uses it, since when, and from where.

    :param entry: what is leased.

    :param turn: the queue's, at which it was got.

    """

    __slots__ = (
        "entry",
        "handle",
        "holders",
        "taken",
        "seen_busy",
        "working",
        "kept",
        "quiet_since",
        "leak_reported",
        "_used",
        "_uses",
        "_last",
        "_where",
        "turn",
        "level",
        "anchor",
        "label",
        "_cursors",
    )

    seen_busy: bool
    """Was a cursor open, or a command running, when it was last judged?"""

    working: Holder | None
    """Who runs a command of which neither a cursor nor every driver tells."""

    handle: weakref.ref[Any]

    quiet_since: float
    """When the reaper first saw that it runs nothing, since its last use."""

    level: Level | None
    """The base's in its reservation, if it is reserved (joins.py)."""

    anchor: Any
    """The handle, while the pool itself keeps it for its thread."""

    def __init__(self, entry: Any, turn: int = 0):
        self.entry = entry
        self.turn = turn
        self.taken = self._used = now = monotonic()
        self._uses = uses = _Uses()
        uses.until = now
        self.seen_busy = False
        self.working = None
        self._last = holder = _holder.current()
        self.holders: list[Holder] = [holder]
        self.kept = False
        self.quiet_since = 0.0
        self.leak_reported = False
        self._where = application_line(2)
        self.label = labels.current()
        self.level = self.anchor = None
        self._cursors: list[weakref.ref[Any]] = []

    @property
    def reserved(self) -> bool:
        """Is it one thread's alone?"""
        return self.level is not None

    @property
    def used(self) -> float:
        """When it was last used, as far as that is seen."""
        return max(self._used, self._uses.until)

    @used.setter
    def used(self, at: float) -> None:
        self._used = at

    @property
    def where(self) -> str:
        return written(self._where)

    @property
    def last_holder(self) -> Holder:
        """Who took it, or used it since."""
        return self._last

    def touch(self) -> None:
        """The calling thread uses the connection.

        :raises NotOwner: it is reserved by another one.

        """
        process.check()
        self._used = monotonic()
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
            self._used = monotonic()
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
        self._used = monotonic()

    def _add(self, holder: Holder) -> None:
        # A lease may pass through thousands of threads in its life.  Those
        # that ended are dropped one by one, so that a thread which joins
        # meanwhile is never dropped with them.
        if holder not in self.holders:
            self.holders.append(holder)
        if len(self.holders) > 8:
            for other in list(self.holders):
                if not other.alive and len(self.holders) > 1:
                    _remove(self.holders, other)

    def watch(self, cursor: Any) -> None:
        """While this cursor is alive and open, the connection is in use.

        Fetching from it is not seen here; its end is.
        """
        try:
            watched = _Watched(cursor, _cursor_ended)
        except TypeError:
            # a driver's cursor without weak references: not watched
            return
        watched.uses = self._uses
        self._cursors.append(watched)
        if len(self._cursors) > 8:
            # one by one: another thread may append meanwhile
            for ref in list(self._cursors):
                if ref() is None:
                    _remove(self._cursors, ref)

    def cursors(self) -> list[Any]:
        """The cursors that are still referred to, open or not."""
        return [
            cursor
            for ref in list(self._cursors)
            if (cursor := ref()) is not None
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
            for holder in list(self.holders)
        )


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
            for holder in list(lease.holders)
        ),
        held_for=max(0.0, now - lease.taken),
        unused_for=max(0.0, now - lease.used),
        where=lease.where,
        in_transaction=in_transaction,
        kept=lease.kept,
        label=lease.label,
    )


def written(line: tuple[CodeType, int] | None) -> str:
    """An application's line for people."""
    if line is None:
        return "an unknown line"
    code, number = line
    return f"{code.co_filename}:{number} in {code.co_name}"


def here() -> str:
    """The application's line that is being run, for people."""
    return written(application_line())


def application_line(depth: int = 1) -> tuple[CodeType, int] | None:
    """The first line outside SQLAlchemy and this package, unformatted."""
    frame = sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        try:
            inner = _inner[code.co_filename]
        except KeyError:
            inner = _is_inner(code.co_filename)
        if not inner and not _is_generated(frame):
            return code, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _is_generated(frame: FrameType) -> bool:
    """Did SQLAlchemy 2.0 make this function from a string?"""
    if frame.f_code.co_filename != "<string>":
        return False
    # either without a module, or with that of the function it wraps
    module = frame.f_globals.get("__name__", "sqlalchemy")
    return str(module).partition(".")[0] == "sqlalchemy"


def called_by_sqlalchemy(depth: int) -> bool:
    """Is the frame that many calls up one of SQLAlchemy's own?"""
    return sys._getframe(depth).f_code.co_filename.startswith(_SQLALCHEMY)


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


def _is_inner(filename: str) -> bool:
    # contextlib stands between `with engine.begin()` and its user
    inner = (
        filename.startswith((_SQLALCHEMY, "<sqlalchemy"))
        or filename == contextlib.__file__
    )
    if filename.startswith(_HERE):
        inner = filename not in _APPLICATIONS
    _inner[filename] = inner
    return inner
