"""A listener that raises: no connection is closed twice, and none lost."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from sqlalchemy import event
from stub import Driver
from stub import StubDialect
from stub import StubError
from stub import in_ended_thread

from sa_reaperpool import ReaperPool


class CountingDriver(Driver):
    def __init__(self):
        super().__init__()
        self.closes = Counter()

    def count_close(self, connection):
        self.closes[connection.number] += 1
        super().count_close(connection)


def surplus(pool):
    first, second = pool.connect(), pool.connect()
    second.close()
    first.close()


def outdated(pool):
    handle = pool.connect()
    pool.refresh()
    handle.close()


def recycled(pool):
    pool.connect().close()
    for entry in pool.queue.entries():
        entry.starttime = 0
    pool.connect().close()


def found_dead(pool):
    pool.connect().close()
    for entry in pool.queue.entries():
        entry.traffic_at = 0
    pool._dialect.dead.add(1)
    pool.connect().close()


def reaped(pool):
    kept = in_ended_thread(pool.connect)
    pool.reap()
    del kept


def after_use(verb):
    def act(pool):
        pool.connect().close()
        getattr(pool, verb)()

    return act


WAYS = {
    "return": lambda pool: pool.connect().close(),
    "garbage": lambda pool: pool.connect() and None,
    "invalidate": lambda pool: pool.connect().invalidate(),
    "surplus": surplus,
    "outdated": outdated,
    "recycled": recycled,
    "found dead": found_dead,
    "reaped": reaped,
    "flush": after_use("flush"),
    "dispose": after_use("dispose"),
    "shutdown": after_use("shutdown"),
}


@pytest.mark.parametrize(
    "name",
    ["connect", "checkout", "checkin", "reset", "close", "invalidate", "reap"],
)
@pytest.mark.parametrize("way", WAYS)
def test_no_connection_is_closed_twice(name, way):
    driver = CountingDriver()
    pool = ReaperPool(
        driver.connect,
        pool_size=1,
        max_overflow=1,
        timeout=0,
        recycle=3600,
        reaping_frequency=None,
        dead_connection_timeout=0,
        dialect=StubDialect(),
    )
    raising = [StubError(name)]

    def listener(*args):
        if raising:
            raise raising[0]

    event.listen(pool, name, listener)
    logging.disable(logging.CRITICAL)
    try:
        WAYS[way](pool)
    except StubError as error:
        # its traceback keeps what is in the frames
        error.with_traceback(None)
    finally:
        logging.disable(logging.NOTSET)
    raising.clear()
    assert set(driver.closes.values()) <= {1}
    stats = pool.stats()
    assert sum(stats.closed.values()) == len(driver.closes)
    # what is open is idle, and each place is free
    assert stats.idle == len(driver.open_ones)
    assert pool.queue.live() == pool.checkedin()
    if way != "shutdown":
        assert all(pool.connect(timeout=0) for _ in range(2))


@pytest.mark.parametrize("name", ["invalidate", "close", "checkin"])
def test_what_is_taken_back_is_nobodys_before_it_is_closed(name):
    driver = Driver()
    pool = ReaperPool(
        driver.connect,
        reaping_frequency=None,
        dead_connection_timeout=0,
    )

    def listener(*args):
        raise StubError(name)

    event.listen(pool, name, listener)
    idle = []
    driver.when_closed = lambda connection: idle.append(pool.queue.idle())
    kept = in_ended_thread(pool.connect)
    assert pool.reap() == 1
    assert idle == [[]]
    assert dict(pool.stats().closed) == {"reaped": 1}
    del kept
