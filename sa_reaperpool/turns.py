"""Whose turn it is on a shared connection, and whose work ends.

The levels that have begun are a stack; see joins.py for the rules.
"""

from __future__ import annotations

from typing import Any

from . import cursors
from . import liveness
from . import transactions
from .callers import here
from .errors import JoinOrder
from .lease import Lease
from .level import Level
from .lost import provisional
from .lost import warn_of_lost
from .shared import Shared


class Turns(Shared):
    """What handles do on a connection that they share."""

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
            if level.ended:
                self.raise_ended(level)
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
        if level is self.base and self.standing_for_it is not level:
            # for a block, which may have changed it
            if self.changed and transactions.autocommits(connection):
                self._refuse("it is in AUTOCOMMIT, for another's block")
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
        with self._lock: lines = self._commit(level)  # fmt: skip
        warn_of_lost(lines)

    def _commit(self, level: Level) -> list[str]:
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
            return []
        self._note_writes(connection)
        lost: list[str] = []
        if level.savepoint is None:
            if level.provisional and liveness.aborted(connection):
                lost = level.provisional
            self._send(connection.commit)
        else:
            self._send(transactions.release, connection, level.savepoint)
            self._hand_down(level, self.begun[-2])
        self.begun.pop()
        self._go_on(level, lease)
        self._torn = False
        return lost

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

    def ended_by_error(self, level: Level, error: Exception) -> None:
        """A statement of the lowest level's failed, and may have done so."""
        lease = self.lease
        lost = level.provisional
        if lease is None or not lost or level.savepoint is not None:
            return
        if transactions.undid_all(lease.entry.dbapi_connection, error):
            with self._lock: self._ended_below(level)  # fmt: skip
            warn_of_lost(lost)

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
        lines = provisional(self.begun)
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
        lines = provisional(levels)
        for level in levels:
            undone = level.has_work
            level.clear()
            level.lost = f"{by} rolled back"
            level.undone = undone
        self._torn = False
        return lines

    def _go_on(self, level: Level, lease: Lease) -> None:
        """After the end of a transaction of this level's."""
        level.clear()
        connection = lease.entry.dbapi_connection
        self._rows = transactions.rows_changed(connection)
        # inside of another's, that is
        if self.begun and level.cursors():
            # Through these it may go on unseen.
            self._begin(level, lease)

    def end(self, level: Level) -> None:
        """A join's handle is closed; so are those that are newer."""
        with self._lock: lines = self._end(level)  # fmt: skip
        warn_of_lost(lines)

    def _end(self, level: Level) -> list[str]:
        if level.ended:
            # with an older one; what is above by now is none of its doing
            return []
        lease = self.lease
        above = [each for each in self.begun if each.number >= level.number]
        try:
            if lease is None or not above or self._cannot_undo(above):
                return []
            return self._undo(above, lease, f"{level}, which it had joined,")
        finally:
            self._end_from(level)

    def _end_from(self, level: Level) -> None:
        line = here()
        newer = [each for each in self._levels if each.number > level.number]
        for other in newer:
            other.ended = f"{level}, which it had joined, ended at {line}"
        level.ended = f"it was closed at {line}"
        level.undone = False
        self._levels = [each for each in self._levels if not each.ended]
        # last: with these may go the base, and with that all others end
        for other in [*newer, level]:
            other.let_go()

    # within

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
