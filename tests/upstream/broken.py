"""A pool that is broken on purpose, to show that the suite notices."""

from __future__ import annotations

from sqlalchemy.pool import ConnectionPoolEntry

from sa_reaperpool import ReaperPool


class LosesReturned(ReaperPool):
    """Forgets each connection that is given back to it."""

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        pass
