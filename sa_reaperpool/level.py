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
        "_cursors",
    )

    handle: weakref.ref[Any]

    def __init__(self, reservation: Reservation, number: int, line: str):
        self.reservation = reservation
        self.number = number
        self.line = line
        self.lost: str | None = None
        self.ended: str | None = None
        self._cursors: list[weakref.ref[Any]] = []
        self.clear()

    def clear(self) -> None:
        """Idle: nothing is begun, wanted or written."""
        self.wanted = False
        self.savepoint: str | None = None
        self.wrote = False
        self.provisional: list[str] = []

    def __repr__(self) -> str:
        return f"the {'join' if self.number else 'connection'} of {self.line}"

    @property
    def idle(self) -> bool:
        """Has it neither begun nor lost anything?"""
        begun = self.wanted or self in self.reservation.begun
        return not (begun or self.lost)

    def watch(self, cursor: Any) -> None:
        """Through this cursor something may be executed unseen."""
        self._cursors[:] = [ref for ref in self._cursors if ref() is not None]
        try:
            self._cursors.append(weakref.ref(cursor))
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
            for ref in self._cursors
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
