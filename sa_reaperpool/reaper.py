"""The reaper: one background thread for all pools of the process.

It only schedules.  What it knows of a pool are the few verbs of
:class:`.Tended`; it holds pools weakly, starts with the first and ends with
the last.  What it is told comes through a mailbox to which anybody may
append at any moment, a dying thread and the garbage collector included
(``SimpleQueue.put()`` is made for that).

Its helpers are started by its own thread alone, so that nothing interrupts
that half way: who checks out only appends.
"""

from __future__ import annotations

import atexit
import logging
import math
import queue
import threading
import weakref
from time import monotonic
from time import sleep
from typing import Any
from typing import Callable
from typing import NamedTuple
from typing import Protocol

from . import holder
from . import process
from .crew import Crew

log = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")

Submit = Callable[[Any, Callable[[], object]], object]


class Tended(Protocol):
    """What the reaper calls on a pool; none of it may block.

    What may block is handed to ``submit(key, task)``.
    """

    @property
    def frequency(self) -> float | None:
        """Seconds between rounds; None for no background work."""

    @property
    def has_leases(self) -> bool:
        """Is anything checked out?"""

    def tend_leases(self, now: float, submit: Submit) -> float | None:
        """See to the leases; return when to do so again at the latest."""

    def tend(self, now: float, submit: Submit) -> float | None:
        """A round: see to the idle connections as well.

        :return: when a round is due before its time, or None.

        """


# a thread or greenlet that held a connection has ended
_HOLDER_ENDED = None

_AT_MOST = 3600.0
"""Seconds that it sleeps.  There are clocks that take no centuries."""

_TRY_AGAIN = 1.0
"""Seconds until another attempt to start a thread, after one failed."""

_carried: list[threading.Event] = []
"""What the reapers of a child's parents sleep on, lest they be collected."""


class _Errand(NamedTuple):
    """Mail: let a helper do this for a pool."""

    owner: int
    task: Callable[[], object]


class _Check(NamedTuple):
    """Mail: see to a pool's leases now."""

    pool: weakref.ref[Any]


class Reaper:
    """Calls each pool when it is time."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> object:
        """Begin from nothing, as in a forked child, where no thread is.

        :return: what there was.

        """
        before = vars(self).copy()
        # one for both rooms, so that who returns a connection, maybe as a
        # finaliser in one of their sections, has one to look at
        self._lock: Any = threading.RLock()
        self._crew = Crew(lock=self._lock)
        self._mailbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._rounds: dict[weakref.ref[Tended], float] = {}
        self._lease_checks: dict[weakref.ref[Tended], float] = {}
        self._thread: threading.Thread | None = None
        # its thread has it for as long as it runs, and nobody else ever
        self._duty: Any = threading.RLock()
        self._stopping = False
        self._try_at = 0.0
        return before

    def look_after(self, pool: Any) -> bool:
        """Take a pool on; harmless if it is on already.

        :return: False if there is no thread for it now, as at interpreter
         exit or when the system has no more of them.  What it was told
         waits in its mailbox.

        """
        if pool.frequency is None:
            return True
        # when the pool is gone, its reference comes by mail once more
        self._mailbox.put(_reference(pool, self._mailbox.put))
        return self._has_thread()

    def check(self, pool: Any) -> bool:
        """Have a pool's leases seen to at once, as somebody waits.

        :return: as :meth:`.look_after` does.

        """
        self._mailbox.put(_Check(_reference(pool)))
        return self._has_thread()

    def _has_thread(self) -> bool:
        try:
            # locked, so that it does not end meanwhile
            with self._lock: needed = self._thread is None  # fmt: skip
            # not locked: start() waits for the thread to begin, and up to
            # 3.11 does so for ever if an exception set asynchronously for
            # this thread hits that one
            return not self._stopping and (not needed or self._start())
        except Exception as error:
            self._try_at = monotonic() + _TRY_AGAIN
            log.warning("No thread for the reaper: %s", error)
            return False

    def delayed_here(self) -> bool:
        """Would what blocks the calling thread delay all pools?

        As it is the reaper's, or has the lock of the reaper's rooms.
        """
        return bool(self._duty._is_owned() or self._lock._is_owned())

    def run_soon(self, pool: Any, errand: Callable[[], object]) -> None:
        """Anywhere, any time: have a helper do what may block."""
        self._mailbox.put(_Errand(id(pool), errand))

    def submit_for(self, pool: Any) -> Submit:
        """What gives a pool's tasks to its helpers; in its own thread."""
        owner = id(pool)
        return lambda key, task: self._crew.submit(owner, key, task)

    def wake(self, pool: Any) -> None:
        """Let a pool that is looked after have its round now."""
        if pool.frequency is not None and self._thread is not None:
            self._mailbox.put(_reference(pool))

    def look_again(self, pool: Any) -> bool:
        """A pool's frequency changed, from None or to None maybe.

        :return: as :meth:`.look_after` does.

        """
        if pool.frequency is not None:
            return self.look_after(pool)
        if self._thread is not None:
            self._mailbox.put(_reference(pool))
        return True

    def holder_ended(self) -> None:
        """Called in the dying thread: see holder.listen()."""
        if self._thread is not None:
            self._mailbox.put(_HOLDER_ENDED)

    def stop(self) -> None:
        """At interpreter exit: no more rounds."""
        self._stopping = True
        self._mailbox.put(_HOLDER_ENDED)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def _start(self) -> bool:
        if monotonic() < self._try_at:
            # it costs time to ask, and would be in vain now as well
            return False
        # The thread enters itself into _thread, unless another is there by
        # then.  Were that done here, an interruption after start() would
        # let a second one start.
        threading.Thread(
            target=self._run,
            args=(self._mailbox,),
            name="sa_reaperpool reaper",
            daemon=True,
        ).start()
        return True

    def _run(self, mailbox: queue.SimpleQueue[Any]) -> None:
        home = process.number
        self._work(mailbox)
        if process.number != home:
            # A greenlet, which gevent carried into a child, where threading
            # does not know it and would complain of its end: it has none.
            never = threading.Event()
            _carried.append(never)
            never.wait()

    def _work(self, mailbox: queue.SimpleQueue[Any]) -> None:
        # a new one, as the thread before may have its own a while longer
        duty = threading.RLock()
        with duty:
            with self._lock:
                if self._thread is not None or self._replaced(mailbox):
                    return
                self._thread = threading.current_thread()
                self._duty = duty
            while not self._done(mailbox):
                try:
                    self._step(mailbox)
                except Exception:
                    log.error("Exception in the reaper", exc_info=True)
                    # should it come again and again
                    sleep(0.1)

    def _done(self, mailbox: queue.SimpleQueue[Any]) -> bool:
        with self._lock:
            if mailbox is not self._mailbox:
                return True
            idle = not (self._rounds or self._crew.understaffed)
            if self._stopping or (idle and mailbox.empty()):
                self._thread = None
                return True
            return False

    def _step(self, mailbox: queue.SimpleQueue[Any]) -> None:
        pause = _TRY_AGAIN if self._crew.understaffed else _AT_MOST
        due = min(
            [
                *self._rounds.values(),
                *self._lease_checks.values(),
                monotonic() + pause,
            ]
        )
        somebody_ended = self._read_mail(mailbox, due - monotonic())
        if self._stopping or self._replaced(mailbox):
            return
        self._crew.staff()
        now = monotonic()
        # There may be thousands of pools: who has nothing to do now is not
        # visited.  One that is gone, or has no rounds any more, tells so.
        rounds = {ref for ref, at in self._rounds.items() if at <= now}
        for ref in rounds:
            self._visit(ref, now, self._round)
        if somebody_ended:
            for ref in self._rounds.keys() - rounds:
                self._visit(ref, now, self._check_if_leased)
        else:
            checks = self._lease_checks.items()
            for ref in [ref for ref, at in checks if at <= now]:
                self._visit(ref, now, self._check_leases)

    def _visit(
        self,
        ref: weakref.ref[Any],
        now: float,
        see_to: Callable[[weakref.ref[Any], Tended, float], None],
    ) -> None:
        try:
            pool = ref()
            if pool is None or pool.frequency is None:
                self._drop(ref)
            else:
                see_to(ref, pool, now)
        except Exception:
            # its own failure, and not that of the next one
            log.error("Exception in the reaper", exc_info=True)

    def _read_mail(
        self, mailbox: queue.SimpleQueue[Any], seconds: float
    ) -> bool:
        """Wait for mail, read all of it; did somebody end?"""
        somebody_ended = False
        try:
            mail = mailbox.get(timeout=max(0.0, seconds))
            while not self._replaced(mailbox):
                if mail is _HOLDER_ENDED:
                    somebody_ended = True
                else:
                    self._read(mail)
                # it may be the last to refer to a pool
                del mail
                mail = mailbox.get_nowait()
            # it may be the last to refer to what is the parent's
            mailbox.put(mail)
        except queue.Empty:
            pass
        return somebody_ended

    def _replaced(self, mailbox: queue.SimpleQueue[Any]) -> bool:
        """Is this a forked child, with a reaper of its own?

        A thread is in none; but gevent carries greenlets into it.  Nobody
        may have told the child that it is one, if C code forked.
        """
        process.check()
        return mailbox is not self._mailbox

    def _read(self, mail: Any) -> None:
        if type(mail) is _Errand:
            self._crew.submit(mail.owner, mail.task, mail.task)
        elif type(mail) is _Check:
            for ref in self._rounds:
                # under this very reference, with which it will be dropped
                if ref == mail.pool:
                    self._lease_checks[ref] = monotonic()
        elif mail() is None:
            self._drop(mail)
        else:
            self._rounds[mail] = monotonic()

    def _drop(self, ref: weakref.ref[Any]) -> None:
        self._rounds.pop(ref, None)
        self._lease_checks.pop(ref, None)

    def _round(self, ref: weakref.ref[Any], pool: Tended, now: float) -> None:
        frequency = pool.frequency or 3600
        self._rounds[ref] = _together(
            now + frequency, max(frequency / 100, 0.001)
        )
        self._check_leases(ref, pool, now)
        again = pool.tend(now, self.submit_for(pool))
        if again is not None:
            self._rounds[ref] = min(self._rounds[ref], max(again, now))

    def _check_if_leased(
        self, ref: weakref.ref[Any], pool: Tended, now: float
    ) -> None:
        if pool.has_leases or self._lease_checks.get(ref, math.inf) <= now:
            self._check_leases(ref, pool, now)

    def _check_leases(
        self, ref: weakref.ref[Any], pool: Tended, now: float
    ) -> None:
        self._lease_checks.pop(ref, None)
        due = pool.tend_leases(now, self.submit_for(pool))
        if due is not None:
            self._lease_checks[ref] = due


def _together(at: float, step: float) -> float:
    """The next moment, a step at most after this, at which others are due.

    So that the thread wakes up for many pools at once.
    """
    return math.ceil(at / step) * step


def _reference(pool: Any, *callback: Any) -> weakref.ref[Any]:
    ref = weakref.ref(pool, *callback)
    # while it lives: the hash of a dead referent cannot be had any more
    hash(ref)
    return ref


reaper = Reaper()
holder.listen(reaper.holder_ended)
atexit.register(reaper.stop)
