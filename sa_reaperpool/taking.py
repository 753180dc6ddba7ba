"""A checkout at length: how it comes by an entry that is fit to be lent.

The usual one, of an idle connection for which nobody waits, is the adapter's
(``connect()`` in adapter/short.py); every other one comes here, and so does
each that waits in line.  As those are many where connections are few, what
lies between two of them that wait takes as few calls as can be.
"""

from __future__ import annotations

import weakref
from time import monotonic

from . import adapter
from . import liveness
from . import process
from .adapter import Entry
from .adapter import Handle
from .callers import application_line
from .checkout import UNSET
from .checkout import Checkout
from .entries import OpeningPool
from .entries import heard_lately
from .place import LONG
from .place import Place
from .reaper import reaper

_JUST_NOW = 0.005
"""Seconds for which a look at what dead holders have is not done again,
while others wait."""

_TIME_ENOUGH = 2 * LONG
"""Who has less looks at once."""


class TakingPool(OpeningPool):
    """A pool from which connections are taken."""

    _looked_at: float = 0.0

    def check_out(self, timeout: float | None) -> Handle:
        """Take a connection, under a lease.

        :raises CheckoutTimeout: none came free within the time limit.

        """
        if not process.page[0]:
            process.check()
        checkouts = self._checkouts
        checkout = Checkout(timeout, checkouts.current)
        checkouts.current = checkout
        try:
            if not self.may_lend():
                handle = self._check_out_as_sqlalchemy(checkout)
                if handle is None:
                    # a listener has forked, and this is the child
                    return self.check_out(timeout)
            else:
                entry = self._take(checkout)
                if not self.is_fit(entry):
                    entry = self._make_fit(checkout, entry)
                    entry.renew()
                # what SQLAlchemy would do for us between this and the handle
                line = checkout.line or application_line()
                handle = adapter.lend(entry, self, line)
                if entry.process != self.process:
                    # a signal's handler has forked, and this is the child
                    self.leave_to_parent(entry, handle)
                    return self.check_out(timeout)
            next(self.checkouts)
            if self.timings is not None:
                self.timings.waited(monotonic() - checkout.began)
            checkouts.current = checkout.outer
            return handle
        except BaseException:
            checkouts.current = checkout.outer
            self._give_up_checkout(checkout)
            raise

    def _check_out_as_sqlalchemy(self, checkout: Checkout) -> Handle | None:
        """Where somebody listens, or something is not as usual.

        :return: None in a child, if a listener has forked.

        """
        fairy = self.connect_as_sqlalchemy()
        if adapter.is_inherited(fairy, self):
            return None
        handle = adapter.attach(fairy, self)
        if not checkout.turn or not checkout.turn % 64:
            # nobody tells when a listener is removed
            self.look_whether_usual()
        self._lent(handle)
        return handle

    def _lent(self, handle: Handle) -> None:
        """A checkout is about to end with this."""

    def _take_entry(self) -> Entry:
        """SQLAlchemy asks for a record: one that is connected and alive."""
        checkout = self._checkouts.current or Checkout(UNSET)
        entry = self._take(checkout)
        if self.is_fit(entry):
            return entry
        return self._make_fit(checkout, entry)

    def _take(self, checkout: Checkout) -> Entry:
        """An entry, as it is, when it is this thread's turn."""
        queue = self.queue
        checkout.entry = entry = queue.get_nowait()
        if entry is None:
            if queue.closed:
                raise self._shut_down()
            now = monotonic()
            left = self._checkouts.left(self.time_limit, now)
            most = self.settings.max_waiting
            look = None
            if (
                now - self._looked_at < _JUST_NOW
                and (left is None or left > _TIME_ENOUGH)
                and most is None
                and queue.waiting()
            ):
                # so has somebody else who waits
                look = self._prepare_to_wait
            else:
                self._prepare_to_wait(now)
            patient = left is None or left > 0
            place = Place(self._exhaustion, now, patient, most, look)
            checkout.line = place.line
            try:
                checkout.entry = entry = queue.get(left, place)
            finally:
                place.leave()
            if entry is None:
                raise self._unserved(place)
        checkout.turn = queue.turn(entry)
        return entry

    def _make_fit(self, checkout: Checkout, entry: Entry) -> Entry:
        """See to it that it can be lent, or another one instead."""
        while True:
            try:
                if self._made_fit(entry):
                    return entry
            except BaseException as error:
                self._drop(entry, error)
                raise
            # Its connect has to wait for its turn, beside others that are
            # open and may come back before.
            self._prepare_to_wait(monotonic())
            left = self._time_left()
            # in one line, so that the turn is never another one's
            checkout.turn, checkout.entry = None, self.queue.exchange(entry, left)  # fmt: skip  # noqa: E501
            if checkout.entry is None:
                raise self._unserved()
            entry = checkout.entry
            checkout.turn = self.queue.turn(entry)
            if self.is_fit(entry):
                return entry

    def _made_fit(self, entry: Entry) -> bool:
        """See to it that an entry, which is not fit, can be lent.

        :return: False if it has to be connected, and that is not allowed
         now, for max_connecting.

        """
        if entry.connected and entry.outdated not in (None, "shutdown"):
            # Who is to replace it has not closed it yet.  What was out at a
            # dispose() is lent again, as by QueuePool.
            self._close(entry, str(entry.outdated))
        if entry.connected:
            self._check_liveness(entry)
            self._be_looked_after()
        if self.to_be_replaced(entry) and not self.queue.begin(entry):
            return False
        if not entry.opened_at:
            entry.get_connection()
        return True

    def _prepare_to_wait(self, now: float) -> None:
        """See whether dead holders have what this thread would wait for."""
        if self.creator is None:
            # others are about to hear so, and will never return anything
            raise self.no_creator()
        if self.settings.reaping_frequency is None:
            self._care.reap(now)
            return
        self._looked_at = now
        if self._care.something_is_due(now):
            # Who closes for a frozen peer is not to be this thread, unless
            # there is no other.
            if not reaper.check(self):
                self._care.reap(now)

    # liveness

    def _check_liveness(self, entry: Entry) -> None:
        """See to it that a dead connection is replaced, not handed out."""
        if self.settings.liveness != "passive" or not self.has_dialect:
            return
        if self._seems_alive(entry) or self.suspect(entry):
            return
        if self.ping(entry):
            entry.traffic_at = monotonic()
            return
        self.logger.info("Connection is dead; opening another one")
        self.suspected_at = monotonic()
        self._close(entry, "dead")
        for other in self.idle_entries():
            if other.probe is not None and not self._seems_alive(other):
                self.retire(other, "dead", unless=self.ping)

    def _seems_alive(self, entry: Entry) -> bool:
        if entry.probe is not None:
            return entry.probe() is liveness.Look.QUIET
        # no socket to look at: believe what was heard in the last second
        return heard_lately(weakref.ref(entry))
