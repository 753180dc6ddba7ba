"""Several handles on one connection: whose turn it is, and whose work.

A reserved connection belongs to one thread.  Whoever in that thread checks
out again while it is reserved gets a *join*: a handle of his own over the
same DBAPI connection.  The first handle is the *base*.  Each handle has a
:class:`Level`, numbered in the order of their making; a handle's *outers*
are the open ones made before it.

The states of a level::

              first statement            commit
      idle ------------------> begun ---------------> idle
       ^  <-------------------  |
       |        rollback        | an outer rolls back
       | rollback               v
       '-----------------------lost

      any --- its close, or an outer's ---> ended

The begun levels are a stack, ``Reservation.begun``.  The lowest one works
in the connection's real transaction, each other in a savepoint of its own.
What may be done, and by whom:

* *A statement*: by the top of the stack; by a level newer than the top,
  which thereby begins, and with it those older ones on which SQLAlchemy has
  begun a transaction without a statement so far.  By any other level it
  would be undone by the top's rollback: :class:`.JoinOrder`.
* *A commit*: by the top.  In a savepoint it is provisional: the lines that
  made it go to the level below, in ``Level.provisional``.  The base and
  others below the top may not commit, since that would commit what is not
  theirs: :class:`.JoinOrder`.
* *A rollback*, *a close*: by any level, from any thread.  What is above on
  the stack is undone with it, and lost.  A level that has not begun undoes
  nothing, but for the base, which is who can always clear everything away.

Levels whose handles were dropped are closed by whatever is done next.

Of text, SAVEPOINT and its kin are noted, and what would end an outer's
work is refused; who has nobody below may end his own transaction by it.

Only the reservation's own thread executes (:class:`.NotOwner`); other
threads may close and roll back, so all of this is done under a lock of the
reservation's, which nobody else waits for.  A line that is interrupted in
the middle leaves ``_torn`` set: what the server was told is unknown then,
and all but a real rollback is refused.
"""

from __future__ import annotations

import itertools
import threading
import warnings
import weakref
from collections.abc import Iterator
from collections.abc import MutableMapping
from contextlib import contextmanager
from typing import Any
from typing import Callable
from typing import NoReturn

from . import cursors
from . import holder
from . import liveness
from . import transactions
from .errors import JoinEnded
from .errors import JoinOrder
from .errors import JoinRefused
from .errors import NotOwner
from .errors import ProvisionalCommitLost
from .lease import Lease
from .lease import application_line
from .lease import here
from .level import Level

JOINED: MutableMapping[int, Reservation] = weakref.WeakValueDictionary()
"""Reservations that have joins, by the id of the DBAPI connection."""

# what warnings has shown; it is not to show the same line's twice
_shown: dict[Any, Any] = {}


class Reservation:
    """A thread's connection, and who does what on it.

    :param leases: the pool's.

    :param handle: the base's.

    :param name: the pool's ``logging_name``.

    """

    def __init__(
        self,
        leases: dict[weakref.ref[Any], Lease],
        handle: weakref.ref[Any],
        name: str | None,
    ):
        self.owner = holder.current()
        self.two_phase = False
        self.parted = False
        """Was the connection taken out of the pool, by who has it alone?"""
        self._leases = leases
        self._handle = handle
        self._name = name
        self._numbers = itertools.count()
        self._savepoints = itertools.count(1)
        self._lock = threading.RLock()
        self._levels: list[Level] = []
        self.begun: list[Level] = []
        self._rows: int | None = None
        self._torn = False
        # is there a level that a Connection may have dropped unseen?
        self.pending = False
        lease = leases[handle]
        self.base = lease.level = self._new_level(handle, lease.where)

    @property
    def lease(self) -> Lease | None:
        """The base's; None once it has ended."""
        return self._leases.get(self._handle)

    @property
    def joined(self) -> bool:
        """Are there handles beside the base?"""
        return any(
            level.handle() is not None and level is not self.base
            for level in list(self._levels)
        )

    def has(self, connection: Any) -> bool:
        """Is it this DBAPI connection that is reserved?"""
        lease = self.lease
        return lease and lease.entry.dbapi_connection is connection or False

    def check_owner(self) -> None:
        """Refuse a thread other than the reservation's, while that lives."""
        owner = self.owner
        if owner.alive and holder.current() is not owner:
            raise NotOwner(
                f"This connection is reserved by thread {owner.name!r}, at "
                f"{self.base.line}; another thread may close it or roll it "
                "back, and no more",
                self._name,
            )

    def forget(self) -> None:
        """In a forked child: this is the parent's, and over."""
        self._leases = {}
        self._lock = threading.RLock()

    # levels

    def join(self, handle: Any) -> Level:
        """A level for a handle that joins.

        :raises JoinRefused: joining would harm what is going on.

        """
        with self._lock: level = self._join(handle)  # fmt: skip
        return level

    def _join(self, handle: Any) -> Level:
        self._settle()
        lease = self._check(self.base)
        connection = lease.entry.dbapi_connection
        if self.two_phase:
            self._refuse("its transaction is a two-phase one")
        self._refuse_unfit(lease, connection)
        level = self._new_level(weakref.ref(handle), here())
        JOINED[id(connection)] = self
        return level

    def join_again(self, level: Level) -> Level | None:
        """For a block that uses a handle inside of newer ones' work.

        :return: the level of the handle's inside the block; None where it
         can work as it is.

        """
        with self._lock: inner = self._join_again(level)  # fmt: skip
        return inner

    def _join_again(self, level: Level) -> Level | None:
        if self.inside(level):
            return self._new_level(level.handle, here())
        return None

    def inside(self, level: Level) -> bool:
        """Would this level's work be inside of newer ones'?"""
        with self._lock: self._settle()  # fmt: skip
        return bool(self.begun) and self.begun[-1].number > level.number

    def open_block(self, outer: Level) -> Level:
        """A level for a block of a handle's own (blocks.py).

        :raises JoinOrder: it is not the handle's turn.

        :raises JoinEnded: what it works in is gone.

        """
        with self._lock: inner = self._open_block(outer)  # fmt: skip
        return inner

    def _open_block(self, outer: Level) -> Level:
        self._check(outer)
        self._settle()
        self._check(outer)
        self._check_turn(outer)
        inner = self._new_level(outer.handle, here())
        inner.inside = outer
        return inner

    def _new_level(self, handle: weakref.ref[Any], line: str) -> Level:
        level = Level(self, next(self._numbers), line)
        level.handle = handle
        self._levels.append(level)
        return level

    # statements

    def look(self, level: Level) -> None:
        """See whether this level may go on, at its turn.

        :raises JoinEnded: what it works in is gone.

        """
        if level.ended or level.lost or self._torn or self.lease is None:
            with self._lock: self._check(level)  # fmt: skip

    def before_statement(self, level: Level) -> None:
        """Make way for a statement by this level.

        :raises JoinOrder: it is not its turn.

        :raises JoinEnded: what it works in is gone.

        """
        stack = self.begun
        if stack and stack[-1] is level and not (self._torn or self.pending):
            return
        if self.parted:
            return
        with self._lock: self._before_statement(level)  # fmt: skip

    def _before_statement(self, level: Level) -> None:
        self._check(level)
        self._settle()
        lease = self._check(level)
        if not self.begun:
            self._find_hidden(level, lease.entry.dbapi_connection)
        self._check_turn(level)
        for other in sorted(self._levels, key=lambda each: each.number):
            if other.number > level.number:
                break
            if self.begun and other.number <= self.begun[-1].number:
                continue
            if other is level or (other.wanted and not other.lost):
                self._begin(other, lease)

    def _check_turn(self, level: Level) -> None:
        if self.begun and self.begun[-1].number > level.number:
            top = self.begun[-1]
            cursor = ", or has a cursor open" if top.cursors() else ""
            raise JoinOrder(
                f"This is not the turn of {level}, since {top} has "
                f"uncommitted work{cursor}: commit, roll back or close that "
                "first",
                self._name,
            )

    def _begin(self, level: Level, lease: Lease) -> None:
        connection = lease.entry.dbapi_connection
        self._note_writes(connection)
        if self.begun:
            self._refuse_unfit(lease, connection)
            name = f"reaper_join_{next(self._savepoints)}"
            try:
                self._send(transactions.savepoint, connection, name)
            except Exception as error:
                if not transactions.statement_in_progress(error):
                    raise
                self._refuse(f"a statement on it is not finished: {error}")
            level.savepoint = name
        self.begun.append(level)
        self._torn = False

    def _find_hidden(self, level: Level, connection: Any) -> None:
        """Another level may have executed what was not seen here.

        Through the raw connection, or a cursor that could not be checked.
        """
        if len(self._levels) < 2 or not self._is_begun(connection):
            return
        for other in reversed(self._levels):
            if other is not level and (
                other.exposed
                or not all(map(cursors.checked, other.cursors()))
            ):
                self.begun.append(other)
                return

    def _is_begun(self, connection: Any) -> bool | None:
        rows = transactions.rows_changed(connection)
        if rows is not None:
            # its driver may be in a transaction always, or late
            return rows != self._rows
        return liveness.in_transaction(connection)

    # ends of transactions

    def commit(self, level: Level) -> None:
        """Commit this level's work.

        :raises JoinOrder: there is uncommitted work in its way.

        :raises JoinEnded: its work is gone.

        """
        with self._lock: self._commit(level)  # fmt: skip

    def _commit(self, level: Level) -> None:
        self._check(level)
        self._settle()
        lease = self._check(level)
        connection = lease.entry.dbapi_connection
        self._check_turn(level)
        if level not in self.begun:
            # nothing of its own; what went past the pool, it may have begun
            if level is self.base:
                self._send(connection.commit)
                self._torn = False
            level.clear()
            return
        self._note_writes(connection)
        if level.savepoint is None:
            self._send(connection.commit)
        else:
            self._send(transactions.release, connection, level.savepoint)
            self._hand_down(level, self.begun[-2])
        self.begun.pop()
        self._go_on(level, lease)
        self._torn = False

    def _hand_down(self, level: Level, below: Level) -> None:
        """What a level has committed is that of the one below now."""
        if level.inside is below:
            # its own handle's, and no other's commit
            below.wrote = below.wrote or level.wrote
            below.provisional += level.provisional
        else:
            below.provisional.append(here())

    def ended_by_text(self, level: Level, undone: bool) -> None:
        """The lowest level's transaction was, by a statement of its own.

        :param undone: was it rolled back?

        """
        with self._lock: lines = self._ended_below(level)  # fmt: skip
        warn_of_lost(lines if undone else [])

    def begun_by_text(self, level: Level) -> None:
        """More was sent after that, and may have begun the next one."""
        lease = self.lease
        connection = None if lease is None else lease.entry.dbapi_connection
        if liveness.in_transaction(connection) is not False:
            self.before_statement(level)

    def _ended_below(self, level: Level) -> list[str]:
        """The connection's real transaction is over.

        :return: the lines whose commits went with it.

        """
        lease = self.lease
        connection = None if lease is None else lease.entry.dbapi_connection
        if connection is not None:
            self._note_writes(connection)
        lines = _provisional(self.begun)
        del self.begun[:]
        level.clear()
        return lines

    def roll_back(self, level: Level) -> None:
        """Undo this level's work, and all above it."""
        with self._lock: lines = self._roll_back(level)  # fmt: skip
        warn_of_lost(lines)

    def _roll_back(self, level: Level) -> list[str]:
        lease = self.lease
        if lease is None or level.ended:
            return []
        if level.lost:
            level.lost = None
            level.clear()
            return []
        if level in self.begun:
            above = self.begun[self.begun.index(level) :]
        elif level is self.base:
            above = self.begun[:]
        else:
            level.clear()
            return []
        if self._cannot_undo(above):
            return []
        lines = self._undo(above, lease, f"{level}, which it had joined,")
        level.lost = None
        self._go_on(level, lease)
        self._torn = False
        return lines

    def _cannot_undo(self, levels: list[Level]) -> bool:
        # A real rollback will clear it away; nothing commits before.
        return self._torn and bool(levels) and bool(levels[0].savepoint)

    def _undo(self, levels: list[Level], lease: Lease, by: str) -> list[str]:
        """Undo the topmost levels.

        :return: the lines whose commits are lost, though who undid them
         has no work of its own that is.

        """
        connection = lease.entry.dbapi_connection
        self._note_writes(connection)
        savepoint = levels[0].savepoint if levels else None
        # whatever comes of it: not to be undone is as bad as half done
        self._torn = True
        if savepoint is None:
            connection.rollback()
        else:
            transactions.roll_back_to(connection, savepoint)
        del self.begun[len(self.begun) - len(levels) :]
        lines = _provisional(levels)
        for level in levels:
            level.clear()
            level.lost = f"{by} rolled back"
        self._torn = False
        return lines

    def _go_on(self, level: Level, lease: Lease) -> None:
        """After the end of a transaction of this level's."""
        in_savepoint = level.savepoint is not None
        level.clear()
        connection = lease.entry.dbapi_connection
        self._rows = transactions.rows_changed(connection)
        if in_savepoint and level.cursors():
            # Through these it may go on unseen.
            self._begin(level, lease)

    def end(self, level: Level) -> None:
        """A join's handle is closed; so are those that are newer."""
        with self._lock: lines = self._end(level)  # fmt: skip
        warn_of_lost(lines)

    def _end(self, level: Level) -> list[str]:
        lease = self.lease
        above = [each for each in self.begun if each.number >= level.number]
        try:
            if lease is None or not above or self._cannot_undo(above):
                return []
            return self._undo(above, lease, f"{level}, which it had joined,")
        finally:
            if level.ended is None:
                self._end_from(level)

    def _end_from(self, level: Level) -> None:
        line = here()
        for other in self._levels[:]:
            if other.number > level.number:
                other.ended = f"{level}, which it had joined, ended at {line}"
                self._levels.remove(other)
                other.let_go()
        level.ended = f"it was closed at {line}"
        self._levels.remove(level)
        level.let_go()

    def finish(self, lease: Lease, undoes: bool) -> list[str]:
        """The base goes back to the pool; it ends for all.

        What joins have not committed is undone before.

        :param lease: the base's, which has been taken for that.

        :param undoes: will the pool's reset undo the base's own work?

        :return: the lines whose commits are lost, for :func:`warn_of_lost`.

        """
        with self._lock: lines = self._finish(lease, undoes)  # fmt: skip
        return lines

    def _finish(self, lease: Lease, undoes: bool) -> list[str]:
        line = here()
        for level in self._levels[1:]:
            level.ended = f"{self.base} was given back at {line}"
        del self._levels[1:]
        JOINED.pop(id(lease.entry.dbapi_connection), None)
        if lease.entry.dbapi_connection is not None:
            self._note_writes(lease.entry.dbapi_connection)
        stack, self.begun = self.begun, []
        if lease.entry.dbapi_connection is None:
            return []
        joins = [level for level in stack if level is not self.base]
        if self._torn or joins and joins[0].savepoint is None:
            lease.entry.dbapi_connection.rollback()
        elif joins:
            transactions.roll_back_to(
                lease.entry.dbapi_connection, str(joins[0].savepoint)
            )
        return _provisional(stack if undoes else joins)

    def drop(self, lease: Lease, why: str) -> list[str]:
        """The connection is closed, whatever was done on it; it ends for all.

        :return: as :meth:`.finish`.

        """
        with self._lock: lines = self._drop(lease, why)  # fmt: skip
        return lines

    def _drop(self, lease: Lease, why: str) -> list[str]:
        try:
            self._note_writes(lease.entry.dbapi_connection)
        except Exception:
            # it may be closed, or be another thread's
            pass
        for level in self._levels[1:]:
            level.ended = f"{self.base} {why} at {here()}"
        del self._levels[1:]
        JOINED.pop(id(lease.entry.dbapi_connection), None)
        lines = _provisional(self.begun)
        del self.begun[:]
        return lines

    def lost(self) -> list[str]:
        """What would be undone now.

        For who takes the connection away, and can't wait for its thread.
        """
        return _provisional(list(self.begun))

    def part(self, lease: Lease) -> None:
        """The base takes the connection out of the pool, for itself."""
        JOINED.pop(id(lease.entry.dbapi_connection), None)
        self.parted = True

    def parted_end(self) -> list[str]:
        """Its transaction is over, after that.

        :return: the lines whose commits went, if it was rolled back.

        """
        with self._lock: lines = self._ended_below(self.base)  # fmt: skip
        return lines

    def two_phase_over(self) -> None:
        """The base's two-phase transaction was committed or rolled back."""
        self.two_phase = False
        with self._lock: del self.begun[:]; self.base.clear()  # fmt: skip  # noqa: E501,E702

    # refusals

    def refuse_change(self, level: Level, what: str) -> None:
        """Refuse what changes the rules under others' work.

        :raises JoinRefused: this is a join, or there are joins.

        """
        if level is not self.base or self.joined:
            self._refuse(f"{what} would change it for all who share it")

    @contextmanager
    def change(self, level: Level, what: str) -> Iterator[None]:
        """For a block that changes the rules.

        Some drivers roll back or commit before they do.

        :raises JoinRefused: as :meth:`.refuse_change`.

        """
        self.refuse_change(level, what)
        yield
        lease = self.lease
        connection = None if lease is None else lease.entry.dbapi_connection
        if self.begun and liveness.in_transaction(connection) is False:
            kept = transactions.is_sqlite(connection)
            with self._lock: lines = self._ended_below(level)  # fmt: skip
            warn_of_lost([] if kept else lines)

    def refuse_text(self, level: Level, what: str) -> NoReturn:
        """Refuse what would end the work of those below."""
        raise JoinRefused(
            f"{what.capitalize()} is refused for {level}, since it would "
            "end more than its own work; use the handle's commit() and "
            "rollback(), or savepoints of its own",
            self._name,
        )

    def refuse_if_joined(self, what: str) -> None:
        """Refuse what would take the connection away from joins.

        :raises JoinRefused: there are joins.

        """
        self.refuse_change(self.base, what)

    def _refuse(self, why: str) -> NoReturn:
        raise JoinRefused(
            f"Refused on the connection of {self.base.line}, which is shared "
            f"within its thread: {why}",
            self._name,
        )

    def _refuse_unfit(self, lease: Lease, connection: Any) -> None:
        if transactions.autocommits(connection):
            self._refuse("it is in AUTOCOMMIT, where no savepoint holds")
        # psycopg, being told more while it streams or copies, would wait for
        # itself
        if liveness.running(connection) or (
            transactions.unfinished(lease.cursors())
        ):
            self._refuse("an unbuffered result on it is not read to its end")

    # within

    def _check(self, level: Level) -> Lease:
        """The base's lease, if this level may go on."""
        lease = self.lease
        if lease is None or level.ended:
            self.raise_ended(level)
        if level.lost:
            raise JoinEnded(
                f"The work of {level} is undone, since {level.lost}; roll "
                "back to go on",
                self._name,
            )
        if self._torn:
            raise JoinEnded(self._told_half(), self._name)
        return lease

    def raise_ended(self, level: Level) -> NoReturn:
        """Say why this level can do nothing any more."""
        base = self._handle()
        state = {} if base is None else vars(base)
        if "reclaimed" in state:
            state["told"] = True
            raise state["reclaimed"].again()
        why = level.ended or f"{self.base} ended"
        raise JoinEnded(f"The end of {level}: {why}", self._name)

    def _told_half(self) -> str:
        return (
            f"What the server was last told on {self.base} was interrupted; "
            "roll that back to go on"
        )

    def _send(self, step: Callable[..., object], *args: Any) -> None:
        """Tell the server; until the caller has noted it, this is torn."""
        self._torn = True
        try:
            step(*args)
        except Exception:
            # refused; all is as it was
            self._torn = False
            raise

    def _settle(self) -> None:
        """Close the levels whose handles were dropped."""
        for level in self._levels[1:]:
            if level.handle() is None and not level.ended:
                warn_of_lost(self._end(level))
        if self.pending:
            self._catch_up()

    def _catch_up(self) -> None:
        """Roll back what a Connection has, without telling its handle."""
        for level in self._levels[:]:
            if level.rolled_back():
                level.failed = False
                warn_of_lost(self._roll_back(level))
            while level.rolled_back_to():
                name, mark = level.unreleased.pop()
                lease = self.lease
                if lease is not None and level in self.begun:
                    warn_of_lost(self._clear_above(level, mark))
                    transactions.roll_back_to(
                        lease.entry.dbapi_connection, name
                    )
        self.pending = any(
            level.failed or level.unreleased for level in self._levels
        )

    def roll_back_to(self, level: Level, mark: int) -> bool:
        """Before a savepoint of a level's is rolled back to.

        :param mark: how many commits were provisional when it was made.

        :return: False if there is nothing to roll back any more.

        """
        with self._lock: lines = self._roll_back_to(level, mark)  # fmt: skip
        warn_of_lost(lines or [])
        return lines is not None

    def _roll_back_to(self, level: Level, mark: int) -> list[str] | None:
        self._settle()
        if level.ended or level.lost or level not in self.begun:
            return None
        return self._clear_above(level, mark)

    def _clear_above(self, level: Level, mark: int) -> list[str]:
        lease = self.lease
        above = self.begun[self.begun.index(level) + 1 :]
        lines = []
        if above and lease is not None and not self._cannot_undo(above):
            lines = self._undo(above, lease, f"{level}, which it had joined,")
        if lease is not None:
            self._note_writes(lease.entry.dbapi_connection)
        lines += [] if level.wrote else level.provisional[mark:]
        del level.provisional[mark:]
        return lines

    def _note_writes(self, connection: Any) -> None:
        rows = transactions.rows_changed(connection)
        if self.begun and rows != self._rows:
            self.begun[-1].wrote = True
        self._rows = rows


def _provisional(levels: list[Level]) -> list[str]:
    """The lines whose commits are lost with these levels' work.

    Whose own work is lost with it has wanted that.
    """
    return [
        line
        for level in levels
        if not level.wrote
        for line in level.provisional
    ]


def warn_of_lost(lines: list[str]) -> None:
    """Warn of commits that were undone by an outer that only read."""
    if lines:
        code, number = application_line() or (warn_of_lost.__code__, 0)
        warnings.warn_explicit(
            f"The commit at {', '.join(lines)} is undone: it was provisional,"
            " since an outer use of the same connection had begun a "
            f"transaction, and that ended at {here()} without a commit",
            ProvisionalCommitLost,
            code.co_filename,
            number,
            registry=_shown,
        )
