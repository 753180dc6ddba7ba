"""Threads that do what they are told, one thing after the other."""

from __future__ import annotations

import queue
import threading

from stub import PATIENCE
from stub import until


class Deed:
    """What an actor was told to do."""

    def __init__(self, function):
        self.function = function
        self.done = threading.Event()
        self.value = self.error = None

    def run(self):
        try:
            self.value = self.function()
        except Exception as error:
            self.error = error
        finally:
            self.function = None
            self.done.set()

    def result(self):
        assert self.done.wait(PATIENCE), "it is never done"
        if self.error is not None:
            raise self.error
        return self.value


class Actor(threading.Thread):
    """A thread that lives until it is told to leave.

    :param pool: at which it may wait.

    """

    def __init__(self, pool, name=None):
        super().__init__(name=name, daemon=True)
        self.pool = pool
        self._deeds = queue.SimpleQueue()
        self.start()

    def run(self):
        while True:
            deed = self._deeds.get()
            if deed is None:
                return
            deed.run()
            # nothing here may keep what it returned
            del deed

    def do(self, function):
        """Have it do this, and return at once."""
        deed = Deed(function)
        self._deeds.put(deed)
        return deed

    def have(self, function):
        """Have it do this, and wait until it has."""
        return self.do(function).result()

    def take(self, **options):
        return self.have(lambda: self.pool.connect(**options))

    def wait(self, **options):
        """Have it ask for a connection; return once it stands in line.

        And has looked for circles.  Or once it has an answer.
        """
        exhaustion = self.pool._exhaustion
        look = exhaustion.look_for_deadlock
        looked = threading.Event()

        def look_for_deadlock(*args):
            try:
                look(*args)
            finally:
                looked.set()

        # where the class has its own
        exhaustion.look_for_deadlock = look_for_deadlock
        try:
            deed = self.do(lambda: self.pool.connect(**options))
            until(lambda: deed.done.is_set() or looked.is_set())
        finally:
            del exhaustion.look_for_deadlock
        return deed

    def leave(self):
        """Have it end."""
        self._deeds.put(None)
        self.join(PATIENCE)
        assert not self.is_alive(), "it does not end"
