"""What a pool has in a dialect's place, that belongs to no engine."""

from __future__ import annotations

from typing import Any

from sqlalchemy.pool.base import _ConnDialect


class NoDialect(_ConnDialect):
    """The dialect of a pool without one: there is nobody to ask."""

    def _do_ping_w_event(self, dbapi_connection: Any) -> bool:
        return True


NO_DIALECT = NoDialect()
