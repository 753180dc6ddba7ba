"""A round of the reaper's, at a given time and in the test's own thread."""

from __future__ import annotations

from stub import StubDialect

from sa_reaperpool import ReaperPool
from sa_reaperpool import bailiff
from sa_reaperpool import caretaker
from sa_reaperpool import checkout
from sa_reaperpool import circles
from sa_reaperpool import entries
from sa_reaperpool import exhaustion
from sa_reaperpool import lease
from sa_reaperpool import lifetime
from sa_reaperpool import line
from sa_reaperpool import pool as pool_module
from sa_reaperpool import stock
from sa_reaperpool import taking
from sa_reaperpool import waiter
from sa_reaperpool.adapter import handles
from sa_reaperpool.adapter import short


class Clock:
    """Tells the time that it is given."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in (
            handles,
            short,
            bailiff,
            caretaker,
            checkout,
            circles,
            entries,
            exhaustion,
            lease,
            lifetime,
            line,
            pool_module,
            stock,
            taking,
            waiter,
        ):
            monkeypatch.setattr(module, "monotonic", self)

    def __call__(self):
        return self.now


def a_pool(driver, **options):
    options = {
        "pool_size": 5,
        "timeout": 0,
        "reaping_frequency": None,
        # as old as the test says, all of them
        "jitter": 0,
        **options,
    }
    return ReaperPool(driver.connect, dialect=StubDialect(), **options)


def work(pool, clock, later=0.0):
    """What the reaper does in a round, its tasks at once.

    :param later: seconds that go by before.

    :return: when it is to come again for the leases, and for all else.

    """
    clock.now += later

    def submit(key, task):
        task()

    due = pool.tend_leases(clock.now, submit)
    again = pool.tend(clock.now, submit)
    return due, again


def returned(pool, count):
    for handle in [pool.connect() for _ in range(count)]:
        handle.close()


def closed(pool):
    return dict(pool.stats().closed)


def open_numbers(driver):
    return [each.number for each in driver.open_ones]
