"""A queue for tests, and threads that wait at it."""

from __future__ import annotations

import itertools

from stub import Task
from stub import until

from sa_reaperpool.queue import FairQueue


class Entry:
    numbers = itertools.count()

    def __init__(self):
        self.number = next(self.numbers)

    def __repr__(self):
        return f"<entry {self.number}>"


class Queue(FairQueue):
    """A queue that collects its surplus, with the lock's state then."""

    def __init__(self, make=Entry, **options):
        self.surplus = []
        self.surplus_under_lock = False
        super().__init__(make, self._collect, **options)

    def _collect(self, entry):
        self.surplus_under_lock |= self.locked_here()
        self.surplus.append(entry)


def waiters(queue, count, served, timeout=None):
    """Threads that wait in line, in this order, and say what they got."""

    def wait(place):
        entry = queue.get(timeout)
        served.append((place, entry))
        return entry

    tasks = []
    for place in range(count):
        tasks.append(Task(wait, place))
        until(lambda: queue.waiting() == place + 1)
    return tasks
