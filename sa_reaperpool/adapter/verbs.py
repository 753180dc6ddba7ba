"""What a pool's adapted classes ask of the pool, and the state they share."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import Collection
from typing import Iterator

from sqlalchemy.pool import QueuePool

from ..lease import Lease
from ..timings import Timings
from .entry import Entry

if TYPE_CHECKING:
    from ..queue import FairQueue


class PoolVerbs(QueuePool):
    """A QueuePool, with the verbs of the class derived from it."""

    _leases: dict[weakref.ref[Any], Lease]
    queue: FairQueue[Entry] = None  # type: ignore[assignment]
    # no object of a class in Python: to find one in the pool, where there is
    # another in its class, takes longer
    _dialect_given: Any = None
    _inherited: frozenset[int] = frozenset()
    in_others_hands: dict[int, Any]
    """By id, the drivers' own of the connections that are taken back, until
    they are closed."""

    process: int = 0
    """Whose connections these are."""

    _started: bool = False
    suspected_at: float = 0.0
    """When a connection was found dead last."""
    checkouts: Iterator[int]
    returned: Callable[[tuple[float, float]], None] = None  # type: ignore[assignment]  # noqa: E501
    _turn_over: float = 0.0
    _turn_then: int = 0
    _whose_turn: Any = None
    _logs_at: dict[int, bool] = {}
    timings: Timings | None = None
    """Where its times are counted, if an exporter wants them."""
    _plain_rollback: Any = None
    """The dialect's, if all it does is to call the connection's."""
    _unusual: bool = True
    """Do all checkouts and returns have to go the long way?"""
    _all_checkouts: Collection[Any] = ()
    """Who listens to all pools'."""
    _all_checkins: Collection[Any] = ()
    _all_resets: Collection[Any] = ()
    _opener: Callable[[Any], Any] = None  # type: ignore[assignment]
    _closer: Callable[[Any], object] | None = None

    def _take_entry(self) -> Entry:
        raise NotImplementedError()

    def _give_back(self, entry: Entry) -> None:
        raise NotImplementedError()

    def _handle_collected(self, ref: weakref.ref[Any]) -> None:
        raise NotImplementedError()

    def put_off(self, task: Callable[[], object]) -> bool:
        raise NotImplementedError()

    def _connect(self, entry: Entry, connect: Callable[[Any], Any]) -> Any:
        raise NotImplementedError()

    def explain_close(self, entry: Entry, reason: str) -> None:
        raise NotImplementedError()

    def give_up(self, entry: Entry, turn: int) -> None:
        raise NotImplementedError()

    def take_back(self, lease: Lease, reason: str, why: str) -> bool:
        raise NotImplementedError()

    def _closed(self, connection: Any, terminated: bool) -> None:
        raise NotImplementedError()

    def _watch_socket(self, entry: Entry, connection: Any) -> None:
        raise NotImplementedError()

    def hear(self, entry: Entry | None, error: BaseException) -> None:
        """Something failed: is it news of the server?"""
        raise NotImplementedError()

    def no_creator(self) -> Exception:
        raise NotImplementedError()

    def connect_at_length(self, timeout: float | None) -> Any:
        raise NotImplementedError()

    def connect_as_sqlalchemy(self) -> Any:
        """A handle as SQLAlchemy makes it, by way of :meth:`._do_get`."""
        return super().connect()

    def suspect(self, entry: Entry) -> bool:
        """Will SQLAlchemy replace this connection at its next checkout?

        That is, was it, or were all in the pool, invalidated.
        """
        return entry._is_hard_or_soft_invalidated()

    def _too_old(self, entry: Entry) -> bool:
        """Is its connection past the pool's ``recycle``?"""
        return (
            self._recycle > -1
            and time.time() - entry.starttime > self._recycle
        )
