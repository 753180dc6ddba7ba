"""Retiring, pinging and refilling one pool's idle connections.

What is to be done is decided by upkeep.py.  An idle entry that is acted on
is claimed first, in one step: it is taken out of the queue.  Nothing here
holds a lock while it acts, and the failure of one connection is its own.

What is leased is in bailiff.py, on top of which this is.
"""

from __future__ import annotations

import random
import weakref
from time import monotonic
from typing import TYPE_CHECKING

from . import liveness
from . import upkeep
from .adapter import Entry
from .bailiff import Bailiff
from .bailiff import bound
from .errors import PoolShutdown
from .reaper import reaper

if TYPE_CHECKING:
    from .reaper import Submit
    from .stock import StockedPool


_STALE = 1.0
"""Seconds after which idle connections are judged anew."""


class Caretaker(Bailiff):
    """Reaps, retires, pings and refills.

    :param pool: whose connections; referred to weakly.

    """

    def __init__(self, pool: StockedPool):
        super().__init__(pool)
        self._failures = 0
        self._refill_at = 0.0

    # idle connections

    def tend(self, now: float, submit: Submit) -> float | None:
        pool = self._pool
        verdicts = self._verdicts(now)
        if verdicts:
            # The task may have to wait, and is not to keep them meanwhile.
            found = [(weakref.ref(entry), why) for entry, why in verdicts]
            submit("idle", bound(self._tend_idle, pool, found, now))
        elif pool.started and self._missing():
            if now < self._refill_at:
                return self._refill_at
            submit("idle", bound(self.refill, pool))
        return None

    def _verdicts(self, now: float) -> list[tuple[Entry, str | None]]:
        """What to do with idle connections, those that died included."""
        pool = self._pool
        idle = [
            entry
            for entry in pool.idle_entries()
            if entry.dbapi_connection is not None
        ]
        verdicts = upkeep.judge_idle(idle, pool.settings, now)
        quiet = liveness.Look.QUIET
        dead = [
            entry
            for entry in idle
            # read once: who borrows it may open it anew
            if (probe := entry.probe) is not None and probe() is not quiet
        ]
        if dead:
            spoken_for = {id(entry) for entry, _ in verdicts}
            verdicts += [
                (entry, None) for entry in dead if id(entry) not in spoken_for
            ]
        return verdicts

    def _tend_idle(
        self,
        found: list[tuple[weakref.ref[Entry], str | None]],
        judged_at: float,
    ) -> None:
        """Act on what was found, unless that was too long ago."""
        if monotonic() - judged_at < _STALE:
            for ref, reason in found:
                entry = ref()
                if entry is not None:
                    self._retire_if_due(entry, reason)
        else:
            for entry, reason in self._verdicts(monotonic()):
                self._retire_if_due(entry, reason)
        self.refill()

    def _retire_if_due(self, entry: Entry, reason: str | None) -> None:
        pool = self._pool
        # If it is used from here on, it has another turn.
        turn = pool.queue.turn(entry)
        if upkeep.still_due(entry, reason, pool.settings, monotonic()):
            self._retire(entry, reason, turn)
            # after each, so that a borrower finds one open
            self.refill()

    def _turns(self) -> dict[Entry, int]:
        """Taken before a decision, to see whether they are the same after."""
        pool = self._pool
        return {
            entry: pool.queue.turn(entry) for entry in pool.idle_entries()
        }

    def _retire(self, entry: Entry, reason: str | None, turn: int) -> bool:
        """Close an idle entry; without a reason, unless it answers."""
        pool = self._pool
        try:
            if reason is None:
                return pool.retire(entry, "dead", turn, self._answers)
            return pool.retire(entry, reason, turn)
        except Exception:
            # its own failure, and not that of the next one
            pool.logger.error("Exception during upkeep", exc_info=True)
            return False

    def _answers(self, entry: Entry) -> bool:
        return self._pool.ping_and_roll_back(entry)

    def close_idle(self, idle_for: float | None, reason: str) -> int:
        now = monotonic()
        return sum(
            self._retire(entry, reason, turn)
            for entry, turn in self._turns().items()
            if entry.connected
            and (idle_for is None or now - entry.idle_since >= idle_for)
        )

    def close_outdated(self) -> None:
        """Close the idle ones that are to be replaced."""
        for entry, turn in self._turns().items():
            if entry.connected and entry.outdated == "refreshed":
                self._retire(entry, "refreshed", turn)

    # opening

    def _missing(self) -> bool:
        wanted = self._pool.settings.min_idle
        if not wanted:
            return False
        # there may be thousands more than are wanted
        for entry in self._pool.idle_entries():
            wanted -= entry.dbapi_connection is not None
            if wanted <= 0:
                return False
        return self._pool.missing_idle() > 0

    def refill(self) -> None:
        """Open what is missing of min_idle; after a failure, wait longer."""
        pool = self._pool
        while pool.started and self._missing():
            if monotonic() < self._refill_at:
                return
            try:
                if not pool.open_idle():
                    return
            except PoolShutdown:
                # meanwhile
                return
            except Exception as error:
                self._failures += 1
                self._refill_at = monotonic() + upkeep.backoff(
                    self._failures, random.random()
                )
                pool.logger.warning(
                    "Could not open a connection for min_idle: %s",
                    type(error).__name__,
                )
                reaper.wake(pool)
                return
            self._failures = 0
