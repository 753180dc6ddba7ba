"""Newcomers that get an entry beside those who wait, and a thread's rest.

Strict order has a price: to put an entry into the hands of one that sleeps
takes two switches of threads.  Where entries are out for longer than that it
is not noticed; here is what is done where it is.  Among greenlets none of it
is: to switch to one takes less time than anything.
"""

from __future__ import annotations

from time import monotonic
from time import sleep

from .line import Line
from .slots import E

BRIEF = 0.001
"""Seconds; what was out for less was held for no time at all."""

_ROUND = 0.016
"""Seconds by which newcomers delay the line, from end to end, at most."""

_SHUT = 16
"""Times that a newcomer kept something, for which none is let in then."""

_LONG = 0.0002
"""Seconds after which a thread that let go of the interpreter has it back,
where nobody else runs; with some to spare."""

_WHILE = 0.02
"""Seconds until it is tried again, where it mostly lasts that long."""

_SURE = 4
"""So many times more one way than the other, and that is how it is."""


class Newcomers(Line[E]):
    """A line, and who may have something before it."""

    open_until: float = 0.0
    """Until when newcomers may take what is idle, beside who waits."""

    _shut_until: float = 0.0

    # Do others run all the time?  More so if positive; written by all who
    # hand over, and off by one now and then.
    _bustle: int = 0
    _rest_at: float = 0.0

    def _lets_in(self, now: float) -> bool:
        """May a newcomer have what was out for a moment?

        Where threads fight over what each holds for no time, to put it into
        the hands of one that sleeps takes longer than all that the threads
        which run do with it.  And once there is a line there always is one,
        as each who has returned something stands in it again.  So after one
        has been served, those who come may go before for a while, so long
        that this delays the line, from end to end, by ``_ROUND`` at most.
        """
        waiting = len(self._waiters)
        if (
            not waiting
            or self.greenlets
            or self._makers
            or self._inbox
            or self._errands
            or self._shedding
            or self._crowded()
            or now < self._shut_until
        ):
            return False
        if now < self.open_until:
            return True
        self.open_until = now + min(BRIEF, _ROUND / waiting)
        return False

    def _keep_out(self, now: float, held: float) -> None:
        """Who had this for so long may have been let in: not the next."""
        self.open_until = 0.0
        self._shut_until = now + _SHUT * held

    def _call_first(self) -> None:
        """Have the first in line look for itself, when it can run."""
        try:
            waiter = self._waiters[0]
        except IndexError:
            return
        if waiter.entry is None:
            waiter.call()
        else:
            # left in line by who served it, and was interrupted
            self.settle()

    def _let_run(self) -> None:
        """Let go of the interpreter, so that who was served can run.

        Until this thread does, the entry is of use to nobody.  But it costs
        two switches of threads.  Where it lasts long until this one runs
        again, others run all the time, and there is nothing to be gained.
        A greenlet goes on: a return is no place at which it may be switched.
        """
        if self.greenlets:
            return
        now = monotonic()
        if self._bustle > 0 and now < self._rest_at:
            return
        # The shortest sleep there is, some 50 microseconds, is long
        # enough for the other to be there; sleep(0) often is not.
        sleep(1e-6)
        if monotonic() - now > _LONG:
            self._bustle = min(self._bustle + 1, _SURE)
            self._rest_at = now + _WHILE
        else:
            self._bustle = max(self._bustle - 1, -_SURE)
