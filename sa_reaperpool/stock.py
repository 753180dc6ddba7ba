"""The pool's connections: checked, lent and taken back.

These are the verbs that SQLAlchemy's hooks, the caretaker and the reaper
call; what users call is in pool.py, and opening and closing in entries.py.
"""

from __future__ import annotations

import itertools
import threading
import traceback
import weakref
from time import monotonic
from time import time
from typing import Any
from typing import Callable

from . import adapter
from . import dead_end
from . import fork
from . import holder
from . import process
from . import upkeep
from .adapter import Entry
from .caretaker import Caretaker
from .checkout import Checkouts
from .errors import ConnectionReclaimed
from .exhaustion import Exhaustion
from .failover import Failover
from .history import Counters
from .history import History
from .history import Waits
from .lease import Lease
from .lost import warn_of_lost
from .options import Settings
from .queue import FairQueue
from .reaper import Submit
from .reaper import reaper
from .stats import Tally
from .taking import TakingPool


class StockedPool(TakingPool):
    """A pool's connections and what becomes of them."""

    def _init_stock(self, settings: Settings) -> None:
        self.settings = settings
        self.process = process.number
        self._care = Caretaker(self)
        self._checkouts = Checkouts()
        self._begin_empty()

    def _be_known(self) -> None:
        """The pool is complete: reports see it, and forks tell it.

        Not before, as a report may come at any line of its making, and for
        good if that has failed.  Who forks at one of these lines goes on
        with it in the child, where it is as empty as in the parent.
        """
        fork.register(self)
        # After that, as only from then on a fork sets it; again if a
        # signal's handler has forked between the two sides of the line.
        while self.process != process.number:
            self.process = process.number

    def _begin_empty(self) -> None:
        self._leases = {}
        self._reasons = {}
        self.in_others_hands = {}
        self._refill_lock = threading.RLock()
        self._started = False
        self._unusual = True
        self._tally = Tally()
        self.checkouts = itertools.count()
        self._counters = Counters(self._tally, self.checkouts, Waits())
        self.history = History()
        self.history.goes_on_with(self, self._counters)
        self._failover = Failover(self)
        self._exhaustion = Exhaustion(self)
        self.returned = self._exhaustion.habits.returned

    def _new_queue(
        self, maxsize: int, max_overflow: int, use_lifo: bool
    ) -> FairQueue[Entry]:
        return FairQueue(
            self._new_entry,
            self._close_surplus,
            maxsize=maxsize,
            limit=limit_of(maxsize, max_overflow),
            max_making=self.settings.max_connecting,
            use_lifo=use_lifo,
            greenlets=not holder.NATIVE,
            waits=self._counters.waits,
        )

    def _new_entry(self) -> Entry:
        return Entry(self)

    def open_cursors(self) -> list[Any]:
        """Those of all leases that are still referred to."""
        leases = self._leases.copy().values()
        return [cursor for lease in leases for cursor in lease.cursors()]

    def forked(self, here: int) -> None:
        """In a forked child: start empty.

        May be interrupted anywhere, and called again then.

        :param here: the child's number.

        """
        before = self.queue
        entries = before.inherited()
        entries += [lease.entry for lease in self._leases.copy().values()]
        # before anything of it is let go of
        fork.keep((before, self._leases, entries, self.open_cursors()))
        before.leave_to_parent(fork.keep)
        dead_end.cut_off(
            (self.driver_of(entry.dbapi_connection), entry.socket)
            for entry in entries
            if entry is not None and entry.dbapi_connection is not None
        )
        self.inherit(entries)
        shut = self.shut
        for ref, lease in self._leases.copy().items():
            handle = ref()
            if lease.level is not None:
                lease.level.reservation.forget()
            if handle is not None:
                why = (
                    "This connection belongs to the parent process of the "
                    f"one that uses it.  Checked out at {lease.where}."
                )
                adapter.fence(handle, self.reclaimed(why, "forked"))
                # The child has lost nothing, and may reserve another one.
                handle.__dict__["told"] = True
        self._begin_empty()
        self._checkouts = Checkouts()
        self._care = Caretaker(self)
        self.queue = self._new_queue(
            before.maxsize, self.max_overflow, before.use_lifo
        )
        if shut:
            self.queue.close()
        self.process = here

    def reclaimed(self, why: str, reason: str) -> ConnectionReclaimed:
        """What the handle of a connection taken back will raise."""
        return ConnectionReclaimed(
            why,
            reason=reason,
            reclaimed_at=time(),
            logging_name=self.given_name,
        )

    # return

    def _give_back(self, entry: Entry) -> None:
        """SQLAlchemy returns a record, connected or not."""
        if entry.process != self.process or not process.page[0]:
            # a listener or a handler has forked, and this is the child
            fork.keep((entry, entry.dbapi_connection))
            return
        entry.idle_since = entry.traffic_at = now = monotonic()
        if entry.lent_at:
            self.returned((now, now - entry.lent_at))
            if self.timings is not None:
                self.timings.used(now - entry.lent_at)
                self.timings.count_if_many()
            entry.lent_at = 0.0
        if entry.dbapi_connection is None:
            if entry.outdated is None:
                self.queue.put(entry, made=False)
            else:
                # Who had it when it was taken back may be in the midst of a
                # step that looks at it for its connection: it never has
                # another one's.
                self.queue.discard(entry)
        elif entry.outdated is None and self.settings.max_age is None:
            self.queue.lay(entry)
        else:
            self._keep_or_close(entry, now)

    def _keep_or_close(self, entry: Entry, now: float) -> None:
        reason = upkeep.outlived(entry, self.settings, now)
        # what was out at a dispose() is kept, as QueuePool does
        if reason and reason != "shutdown":
            self._discard(entry, reason)
            self._wake_reaper()
        else:
            self.queue.lay(entry)

    def _handle_collected(self, ref: weakref.ref[Any]) -> None:
        """The garbage collector took a handle that was not closed."""
        if process.forked():
            return
        try:
            self._do_outside(lambda: self._return_collected(ref))
        except BaseException as error:
            # Nobody can catch it, but somebody may keep it for a report,
            # and with it the frames in its traceback, which refer to the
            # entry.
            raise error.with_traceback(None)

    def delayed_here(self) -> bool:
        """Would what blocks the calling thread delay others as well?"""
        # written out, as it is asked with each rollback
        return bool(
            self.queue._lock._is_owned()  # type: ignore[attr-defined]
            or reaper._duty._is_owned()
            or reaper._lock._is_owned()
        )

    def put_off(self, task: Callable[[], object]) -> bool:
        """Have what may block done later, where it must not be done now.

        That is in a finaliser, or a signal's handler, that came in the midst
        of a section of the queue's, or in one of the reaper's rooms.

        :return: False if it may be done here.

        """
        if reaper.delayed_here():
            reaper.run_soon(self, lambda: self._do_outside(task))
            return True
        if self.queue.locked_here():
            self.queue.run_outside(lambda: self._do_outside(task))
            return True
        return False

    def _do_outside(self, task: Callable[[], object]) -> None:
        """Do what may block, or put it off, for nobody who would be told."""
        try:
            # also if it was put off before: the reaper may be the first to
            # settle a queue after that
            if not self.put_off(task):
                task()
        except Exception:
            # Whoever runs this has nothing to do with it.  As text: a log
            # record that is kept must not keep the entry with its frames.
            self.logger.error(
                "Exception while an unclosed connection was returned\n%s",
                traceback.format_exc(),
            )

    def _return_collected(self, ref: weakref.ref[Any]) -> None:
        lease = None
        try:
            lease = self._leases.pop(ref, None)
            if lease is not None:
                lost = adapter.finish_joins(lease, self)
                adapter.return_collected(lease.entry, self)
                warn_of_lost(lost)
        except BaseException:
            if lease is not None:
                self.give_up(lease.entry, lease.turn)
            raise

    def has_lost(self) -> bool:
        """Is there something for :meth:`.recover_lost`?"""
        for lease in self._leases.copy():
            if lease() is None:
                return True
        return self.queue.unsettled()

    def recover_lost(self) -> None:
        """Return what a finaliser could not, or did not get to."""
        for ref in list(self._leases):
            if ref() is None:
                self._return_collected(ref)
        self.queue.purge()

    def take_back(self, lease: Lease, reason: str, why: str) -> bool:
        """Fence a lease's handle, close its connection, free the slot.

        :return: False if the lease ended meanwhile.

        """
        return self._care.reclaim(lease, reason, why)

    # what is to be replaced

    def hear(self, entry: Entry | None, error: BaseException) -> None:
        try:
            self._failover.hear(entry, error)
        except Exception:
            # whoever met the error is to be told that, and not this
            self.logger.error(
                "Exception while an error was looked at\n%s",
                traceback.format_exc(),
            )

    def outdate(self) -> None:
        """Whatever is open now is closed instead of lent again."""
        self._epoch += 1
        # what was out at a dispose() does not count, and would be lent again
        leased = [lease.entry for lease in self._leases.copy().values()]
        for entry in [*self.queue.entries(), *leased]:
            if entry.outdated in (None, "shutdown"):
                entry.outdated = "refreshed"

    def close_outdated(self) -> None:
        """Close what is idle of that."""
        self._care.close_outdated()
        # which may have to open others
        self._wake_reaper()

    # what the caretaker and the reaper ask for

    @property
    def frequency(self) -> float | None:
        return self.settings.reaping_frequency

    def tend_leases(self, now: float, submit: Submit) -> float | None:
        return self._care.tend_leases(now, submit)

    def tend(self, now: float, submit: Submit) -> float | None:
        return self._care.tend(now, submit)


def limit_of(size: int, max_overflow: int) -> int | None:
    """How many connections may exist at once; None for any number."""
    return None if max_overflow == -1 else size + max_overflow
