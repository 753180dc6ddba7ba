"""Large objects and BLOBs, each of whose methods is a statement."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING
from typing import Any

from . import writes

if TYPE_CHECKING:
    from .level import Level

_SILENT = frozenset("close tell".split())
_WRITES = frozenset("write truncate unlink".split())


class Large:
    """An sqlite3 Blob or a psycopg2 lobject that asks whose turn it is.

    :param large: the driver's own.

    :param level: its handle's first.

    """

    def __init__(self, large: Any, level: Level) -> None:
        self._large = large
        self._level = level

    def _call(self, method: Any, writing: bool, *args: Any, **kw: Any) -> Any:
        level = self._level.active
        sent = [writes.WRITE if writing else writes.OTHER]
        level.sending(sent)
        result = method(*args, **kw)
        level.sent(sent)
        return result

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._large, name)
        if name in _SILENT or not callable(found):
            return found

        def call(*args: Any, **kw: Any) -> Any:
            return self._call(found, name in _WRITES, *args, **kw)

        return call

    def __len__(self) -> int:
        return len(self._large)

    def __getitem__(self, key: Any) -> Any:
        return self._call(self._large.__getitem__, False, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call(self._large.__setitem__, True, key, value)

    def __enter__(self) -> Large:
        self._large.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        return self._large.__exit__(kind, error, trace)
