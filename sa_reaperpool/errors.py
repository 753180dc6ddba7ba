"""What the pool raises.

All of these are also SQLAlchemy's errors, so that code which handles those
handles these.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import exc


class CheckoutTimeout(exc.TimeoutError):
    """No connection came free within the time limit.

    :param waited: seconds that the checkout took, all of it.

    :param limit: seconds that it was given.

    :param size: the pool's size.

    :param overflow: how many connections beyond that were open.

    :param waiting: how many other threads were waiting.

    :param logging_name: the pool's ``logging_name``, or None.

    """

    def __init__(
        self,
        message: str,
        *,
        waited: float,
        limit: float | None,
        size: int,
        overflow: int,
        waiting: int,
        logging_name: str | None,
    ):
        # 3o7r is SQLAlchemy's own page on pool time-outs
        super().__init__(message, code="3o7r")
        self.waited = waited
        self.limit = limit
        self.size = size
        self.overflow = overflow
        self.waiting = waiting
        self.logging_name = logging_name

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, self.__dict__)


class PoolShutdown(exc.ResourceClosedError):
    """The pool was shut down, and lends no connection any more.

    No time-out on purpose: who tries again after those would do so for
    ever.

    :param logging_name: the pool's ``logging_name``, or None.

    """

    def __init__(self, message: str, *, logging_name: str | None):
        super().__init__(message)
        self.logging_name = logging_name

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, self.__dict__)


class ConnectionReclaimed(exc.OperationalError):
    """This handle's connection was taken back by the pool.

    It is an :class:`sqlalchemy.exc.OperationalError` with
    ``connection_invalidated`` set, so that code which retries after a
    disconnect retries after this.  An :class:`sqlalchemy.Connection` that
    meets it is invalidated: after ``rollback()`` it connects anew.  The
    other connections of the pool are not touched.

    :param reason: one word: ``abandoned``, ``dead``, ``forked``.

    :param reclaimed_at: when it was taken back, seconds since the epoch.

    :param logging_name: the pool's ``logging_name``, or None.

    """

    # SQLAlchemy's page on OperationalError has nothing on this
    code = ""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        reclaimed_at: float,
        logging_name: str | None = None,
    ):
        exc.StatementError.__init__(self, message, None, None, None)
        self.connection_invalidated = True
        self.reason = reason
        self.reclaimed_at = reclaimed_at
        self.logging_name = logging_name

    def again(self) -> ConnectionReclaimed:
        """The same, to be raised once more."""
        return ConnectionReclaimed(
            self.args[0],
            reason=self.reason,
            reclaimed_at=self.reclaimed_at,
            logging_name=self.logging_name,
        )

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
