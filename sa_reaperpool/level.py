"""What one handle does on a reserved connection: its level.

The states of a level, and who moves it, are written down in joins.py.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING
from typing import Any
from typing import NoReturn

from . import liveness
from . import transactions

if TYPE_CHECKING:
    from .joins import Reservation


class Level:
    """What one handle does on a reserved connection.

    :param reservation: whose connection.

    :param number: 0 for the base; a newer handle has a higher one.

    """

    __slots__ = (
        "reservation",
        "number",
        "handle",
        "line",
        "wanted",
        "savepoint",
        "lost",
        "ended",
        "wrote",
        "provisional",
        "user",
        "failed",
        "unreleased",
        "marks",
        "_cursors",
        "_used",
    )

    handle: weakref.ref[Any]

    def __init__(self, reservation: Reservation, number: int, line: str):
        self.reservation = reservation
        self.number = number
        self.line = line
        self.lost: str | None = None
        self.ended: str | None = None
        self._cursors: list[weakref.ref[Any]] = []
        # the Connection, if it is one that uses this level
        self.user: weakref.ref[Any] | None = None
        self.clear()

    def clear(self) -> None:
        """Idle: nothing is begun, wanted or written."""
        self.wanted = False
        self.savepoint: str | None = None
        self.wrote = False
        self.provisional: list[str] = []
        # cursors of this transaction; what an older one tells is of old
        self._used: list[weakref.ref[Any]] = []
        # Is there a commit that was refused, and after which the Connection
        # takes its transaction for ended?
        self.failed = False
        # likewise, its savepoints, with how many lines were provisional
        self.unreleased: list[tuple[str, int]] = []
        self.marks: dict[str, int] = {}

    def in_transaction(self) -> bool:
        """Does its Connection, if there is one, know of a transaction?"""
        user = None if self.user is None else self.user()
        return user is not None and bool(user.in_transaction())

    def commit_refused(self) -> None:
        """A Connection's commit was; it takes its transaction for ended."""
        self.failed = self.reservation.pending = True

    def rolled_back(self) -> bool:
        """Did the Connection drop its transaction after a refused commit?

        It says nothing to its handle then.
        """
        if not self.failed or self.user is None:
            # One that has executed nothing is known by its next begin().
            return False
        return not _pending(self.user(), "get_transaction")

    def rolled_back_to(self) -> bool:
        """The same of its innermost savepoint."""
        user = None if self.user is None else self.user()
        nested = _pending(user, "get_nested_transaction")
        return bool(self.unreleased) and not nested and not self.failed

    def __repr__(self) -> str:
        return f"the {'join' if self.number else 'connection'} of {self.line}"

    @property
    def idle(self) -> bool:
        """Has it neither begun nor lost anything?"""
        begun = self.wanted or self in self.reservation.begun
        return not (begun or self.lost)

    def let_go(self) -> None:
        """It has ended, and with it the handle that was made with it."""
        handle = self.handle()
        if handle is not None and vars(handle).get("first") is self:
            handle.let_go()

    def watch(self, cursor: Any) -> None:
        """Through this cursor something may be executed unseen."""
        for refs in (self._cursors, self._used):
            refs[:] = [ref for ref in refs if ref() is not None]
        try:
            self._cursors.append(weakref.ref(cursor))
            self._used.append(self._cursors[-1])
        except TypeError:
            pass

    def cursors(self) -> list[Any]:
        """Its cursors that are alive and open."""
        return [
            cursor
            for ref in self._cursors
            if (cursor := ref()) is not None and liveness.cursor_open(cursor)
        ]

    def cursors_wrote(self) -> bool:
        """Does one of its cursors, open or not, say that it wrote?"""
        return any(
            transactions.has_written(cursor)
            for ref in self._used
            if (cursor := ref()) is not None
        )

    # what handles call

    def statement(self) -> None:
        self.reservation.before_statement(self)

    def attribute(self, name: str, found: Any) -> Any:
        """What a handle gives for an attribute of its connection's."""
        if name in transactions.EXECUTE:
            return transactions.calling_first(self.statement, found)
        if name in transactions.CHANGE_RULES and callable(found):
            return transactions.calling_first(
                lambda: self.reservation.refuse_change(self, name), found
            )
        return found

    def commit(self) -> None:
        self.reservation.commit(self)

    def rollback(self) -> None:
        self.reservation.roll_back(self)

    def end(self) -> None:
        self.reservation.end(self)

    def refuse(self) -> NoReturn:
        """Say why nothing can be done any more."""
        self.reservation.raise_ended(self)


def _pending(connection: Any, which: str) -> bool:
    """Does a Connection still wait for its user to roll back?"""
    if connection is None or connection.closed:
        return False
    transaction = getattr(connection, which)()
    return transaction is not None and not transaction.is_active
