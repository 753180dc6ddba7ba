"""What a handle does beyond SQLAlchemy's: it notes its uses, or refuses.

These two are mixed into SQLAlchemy's class of handles in adapter.py, which
is where private names are met.  A handle is :class:`.Noting` while its
lease lasts, and :class:`.Refusing` once the pool took the connection back.
"""

from __future__ import annotations

from typing import Any
from typing import NoReturn

from .errors import ConnectionReclaimed
from .lease import Lease
from .lease import called_by_sqlalchemy


class Noting:
    """Each use is a use of the lease, and makes its thread a holder.

    The reaper may make a handle a :class:`.Refusing` one while a method
    here runs.  What the closed connection then raises would be taken for
    the server's doing, and is replaced by what happened.
    """

    __slots__ = ()

    lease: Lease
    dbapi_connection: Any

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        lease = self.lease
        lease.touch()
        try:
            cursor = self.dbapi_connection.cursor(*args, **kwargs)
        except BaseException:
            raise_if_reclaimed(self)
            raise
        lease.watch(cursor)
        return cursor

    def commit(self) -> None:
        self.lease.touch()
        try:
            self.dbapi_connection.commit()
        except BaseException:
            raise_if_reclaimed(self)
            raise

    def rollback(self) -> None:
        try:
            self.lease.touch()
            self.dbapi_connection.rollback()
        except BaseException:
            if isinstance(self, Refusing) and called_by_sqlalchemy(2):
                return
            raise_if_reclaimed(self)
            raise

    def __getattr__(self, key: str) -> Any:
        lease = self.__dict__.get("lease")
        if lease is not None:
            lease.touch()
        return getattr(self.dbapi_connection, key)


class Refusing:
    """Whatever would touch the connection raises ConnectionReclaimed.

    What would give it back does nothing.
    """

    __slots__ = ()

    reclaimed: ConnectionReclaimed

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise self.__dict__["reclaimed"].again()

    cursor = commit = detach = _refuse

    def rollback(self) -> None:
        # A Connection or Session that is being closed looks whether this
        # is valid first.  If it was when it looked, its transaction has
        # ended by now, as it wants it to, and its close() is to be silent.
        if not called_by_sqlalchemy(2):
            self._refuse()

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") and key.endswith("__"):
            # copy, pickle and the like ask for what may be missing
            raise AttributeError(key)
        self._refuse()

    dbapi_connection = property(_refuse)
    driver_connection = property(_refuse)
    connection = property(_refuse)

    @property
    def is_valid(self) -> bool:
        return False

    @property
    def is_detached(self) -> bool:
        return False

    def invalidate(
        self, e: BaseException | None = None, soft: bool = False
    ) -> None:
        pass

    def close(self) -> None:
        pass


def raise_if_reclaimed(handle: Any) -> None:
    if isinstance(handle, Refusing):
        raise handle.reclaimed.again() from None
