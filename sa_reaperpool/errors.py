"""What the pool raises.

All of these are also SQLAlchemy's errors, so that code which handles those
handles these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

from sqlalchemy import exc

if TYPE_CHECKING:
    from .lease import LeaseInfo


class CheckoutTimeout(exc.TimeoutError):
    """No connection came free within the time limit.

    The message is for people: the verdict first, then how long it waited
    for what, and a line for each who holds a connection.

    :param waited: seconds that the checkout took, all of it.

    :param limit: seconds that it was given.

    :param size: the pool's size.

    :param overflow: how many connections beyond that were open.

    :param waiting: how many other threads were waiting.

    :param verdict: why, in one sentence.

    :param reason: the same as one word, for programs: ``nested``, this
     thread itself holds some; ``deadlock``, all who hold one wait for
     another; ``leak``, some are held far longer than usual;
     ``unreachable``, the database is; ``small``, the pool is.

    :param leases: a :class:`.LeaseInfo` for each connection in use, the one
     held longest first.

    :param connect_error: what the newest failed connect said, without
     passwords, if nothing has been opened since; else None.

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
        verdict: str | None = None,
        reason: str | None = None,
        leases: tuple[LeaseInfo, ...] = (),
        connect_error: str | None = None,
        logging_name: str | None,
    ):
        # 3o7r is SQLAlchemy's own page on pool time-outs
        super().__init__(message, code="3o7r")
        self.waited = waited
        self.limit = limit
        self.size = size
        self.overflow = overflow
        self.waiting = waiting
        self.verdict = verdict
        self.reason = reason
        self.leases = leases
        self.connect_error = connect_error
        self.logging_name = logging_name

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, self.__dict__)


class PoolDeadlock(CheckoutTimeout):
    """All connections are held by threads that wait for one of this pool.

    Raised at once, with ``on_deadlock="raise"``, to the one whose checkout
    has closed the circle.
    """


class TooManyWaiting(CheckoutTimeout):
    """As many threads wait already as ``max_waiting`` allows."""


class CreatorError(exc.InvalidRequestError):
    """The pool's creator is missing, or what it returns cannot be pooled.

    That is, a checkout before :meth:`.ReaperPool.connect_with`; a creator
    that returned None; or objects without ``rollback()`` in a pool that
    rolls back what is returned (see ``reset_on_return``).

    :param logging_name: the pool's ``logging_name``, or None.

    """

    def __init__(self, message: str, *, logging_name: str | None):
        super().__init__(message)
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

    :param reason: one word: ``abandoned``, ``dead``, ``forked``,
     ``disconnected``, ``invalidated``, ``released``, ``reclaimed``.

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


class ReservationError(exc.DontWrapMixin, exc.InvalidRequestError):
    """A connection was used by who may not, or in a way that may not be.

    :param logging_name: the pool's ``logging_name``, or None.

    """

    def __init__(self, message: str, logging_name: str | None = None):
        super().__init__(message)
        self.logging_name = logging_name

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, self.__dict__)


class NotCheckedOut(ReservationError):
    """What was to be returned is not checked out of this pool.

    It was returned or taken back before, or is another pool's.
    """


class NotOwner(ReservationError):
    """A reserved connection was used by a thread other than its own.

    While the thread that reserved it lives, it is that thread's alone.
    """


class JoinError(ReservationError):
    """What is wrong between those who share a reserved connection."""


class JoinOrder(JoinError):
    """A join has uncommitted work, and another handle was used.

    Nothing was sent.  Commit, roll back or close the join first.
    """


class JoinEnded(JoinError):
    """What this handle was joined to has ended.

    Its uncommitted work was rolled back with that.
    """


class JoinRefused(JoinError):
    """What was asked for would change or harm the outer's transaction."""


class ProvisionalCommitLost(exc.SAWarning):
    """A join's commit was undone, by an outer that only read.

    The commit was provisional, since the outer had begun a transaction,
    and this ended without a commit.
    """


def _rebuild(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
