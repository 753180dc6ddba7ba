"""Pools that are broken on purpose, to show that the suites notice."""

from __future__ import annotations

from typing import Any

from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool import StaticPool

from sa_reaperpool import ReaperPool


class LosesReturned(ReaperPool):
    """Forgets each connection that is given back to it."""

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        pass


class HandsOutTwice(StaticPool):
    """Gives everyone the same connection, whoever has it."""

    def __init__(
        self,
        creator: Any,
        max_overflow: int = 0,
        timeout: float = 0,
        **options: Any,
    ) -> None:
        super().__init__(creator, **options)


class Impostor(ReaperPool):
    """Is not what it says: its connections come from another pool."""

    def __new__(cls, creator: Any, **options: Any) -> Any:
        return QueuePool(creator, **options)
