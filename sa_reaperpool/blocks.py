"""psycopg's ``with connection.transaction():`` on a reserved connection.

The driver's own blocks send COMMIT at their end, and with that whatever
joins have not committed, and they forbid ``commit()`` to all within.  So a
handle gives blocks of the pool's, which mean the same: the outermost is a
transaction, and one inside of it, or of an outer's work, a savepoint.  They
are levels of their own (joins.py).

In autocommit, where nobody can join, the driver's are had.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from .level import Level


class Block:
    """A block of a handle's.

    :param handle: the handle; the block keeps it alive.

    :param home: its first level.

    :param force_rollback: roll back at the end, whatever happens.

    """

    def __init__(
        self,
        handle: Any,
        home: Level,
        savepoint_name: str | None = None,
        force_rollback: bool = False,
    ) -> None:
        self.connection = handle
        self.force_rollback = force_rollback
        self._given_name = savepoint_name
        self._home = home
        self._outer: Level | None = None
        self._inner: Level | None = None

    @property
    def savepoint_name(self) -> str | None:
        """Of its savepoint, if it is in one and that is made."""
        inner = self._inner
        return self._given_name if inner is None else inner.savepoint

    def __enter__(self) -> Block:
        if self._outer is not None:
            raise TypeError("transaction blocks can be used only once")
        self._outer = outer = self._home.active
        self._inner = outer.reservation.open_block(outer)
        outer.go_inside(self._inner)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        outer, inner = self._outer, self._inner
        assert outer is not None and inner is not None, "it was entered"
        outer.go_outside(inner)
        try:
            if error is None and not self.force_rollback:
                inner.reservation.commit(inner)
        finally:
            self._end(inner, error)
        wanted: Any = getattr(sys.modules.get("psycopg"), "Rollback", ())
        return isinstance(error, wanted) and (
            error.transaction in (None, self)
        )

    def _end(self, inner: Level, error: BaseException | None) -> None:
        """Undo what is not committed."""
        try:
            inner.end()
        except Exception:
            # as the driver: what went wrong in the block is to be heard of
            if error is None:
                raise
