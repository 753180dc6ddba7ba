"""Counting, and the snapshot of a pool."""

from __future__ import annotations

import copy
import dataclasses
import json
import operator
import pickle
import threading
from time import monotonic

import pytest
from stub import Driver
from stub import Gate
from stub import StubError
from stub import Task
from stub import switching_often
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool import Stats
from sa_reaperpool.stats import Tally


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {"reaping_frequency": None, "pool_size": 2, **options}
    return ReaperPool(driver.connect, **options)


def shown(pool, *names):
    stats = pool.stats()
    return tuple(getattr(stats, name) for name in names)


# the tally


def test_tally_counts_each_kind():
    tally = Tally()
    for event in ("a", "b", "a"):
        tally.add(event)
    assert tally.totals() == {"a": 2, "b": 1}
    tally.add("b")
    assert tally.totals() == {"a": 2, "b": 2}


def test_tally_gives_a_copy():
    tally = Tally()
    tally.add("a")
    tally.totals().clear()
    assert tally.totals() == {"a": 1}


def test_tally_keeps_little():
    tally = Tally()
    for _ in range(2500):
        tally.add("a")
    assert len(tally._events) <= 1001
    assert tally.totals() == {"a": 2500}


def test_tally_counts_inside_its_own_count():
    tally = Tally()

    class Event(str):
        """Something that a finaliser counts while it is being counted."""

        def __hash__(self):
            if not done:
                done.append(1)
                for _ in range(1500):
                    tally.add("inner")
            return super().__hash__()

    done = []
    tally.add(Event("outer"))
    first = Task(tally.totals).result()
    assert first["outer"] == 1
    assert tally.totals() == {"outer": 1, "inner": 1500}


def test_tally_from_many_threads():
    tally = Tally()
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        for _ in range(1500):
            tally.add("a")

    with switching_often():
        tasks = [Task(work) for _ in range(8)]
        while any(task.is_alive() for task in tasks):
            tally.totals()
        for task in tasks:
            task.result()
    assert tally.totals() == {"a": 12000}


# the snapshot


def test_stats_cannot_be_changed(driver):
    stats = a_pool(driver).stats()
    assert isinstance(stats, Stats)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.idle = 5
    with pytest.raises(TypeError):
        stats.closed["idle"] = 5


def test_stats_are_of_their_moment(driver):
    pool = a_pool(driver)
    before = pool.stats()
    handle = pool.connect()
    assert before.in_use == 0
    assert pool.stats().in_use == 1
    handle.close()


def test_stats_of_a_new_pool(driver):
    stats = a_pool(driver, max_overflow=3).stats()
    assert (stats.size, stats.limit) == (2, 5)
    assert dict(stats.closed) == {}
    assert not any(
        getattr(stats, field.name)
        for field in dataclasses.fields(stats)
        if field.name not in ("size", "limit", "closed")
    )


@pytest.mark.parametrize(
    "options", [{"max_overflow": -1}, {"pool_size": 0, "max_overflow": 4}]
)
def test_no_limit_is_none(driver, options):
    assert a_pool(driver, **options).stats().limit is None


def test_idle_in_use_and_totals(driver):
    pool = a_pool(driver, max_overflow=1)
    handles = [pool.connect() for _ in range(3)]
    assert shown(pool, "idle", "in_use", "opened") == (0, 3, 3)
    for handle in handles:
        handle.close()
    assert shown(pool, "idle", "in_use", "checkouts") == (2, 0, 3)
    assert dict(pool.stats().closed) == {"idle": 1}


def test_opening(driver):
    gate = Gate()
    driver.then(gate)
    pool = a_pool(driver)
    task = Task(pool.connect)
    gate.wait()
    assert shown(pool, "opening", "in_use", "idle") == (1, 0, 0)
    gate.open()
    task.result().close()
    assert shown(pool, "opening", "in_use", "idle") == (0, 0, 1)


def test_waiting_waits_and_timeouts(driver):
    pool = a_pool(driver, pool_size=1, max_overflow=0)
    handle = pool.connect()
    earliest = monotonic()
    task = Task(pool.connect)
    until(lambda: pool.stats().waiting == 1)
    latest = monotonic()
    assert shown(pool, "waits", "timeouts") == (0, 0)
    until(lambda: monotonic() > latest + 0.01)
    at_least = monotonic() - latest
    handle.close()
    handle = task.result()
    at_most = monotonic() - earliest
    assert shown(pool, "waiting", "waits", "timeouts") == (0, 1, 0)
    assert at_least <= pool.stats().longest_wait <= at_most
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0.01)
    stats = pool.stats()
    assert (stats.waits, stats.timeouts, stats.checkouts) == (2, 1, 2)
    assert stats.waited > stats.longest_wait >= at_least
    handle.close()


def test_connect_failures(driver):
    driver.then(StubError("no"), StubError("no"))
    pool = a_pool(driver)
    for _ in range(2):
        with pytest.raises(StubError):
            pool.connect()
    assert shown(pool, "connect_failures", "opened", "opening") == (2, 0, 0)
    assert shown(pool, "checkouts") == (0,)


@pytest.mark.parametrize(
    "reason, act",
    [
        ("failed", lambda pool, handle: handle.invalidate()),
        ("detached", lambda pool, handle: (handle.detach(), handle.close())),
        ("idle", lambda pool, handle: (handle.close(), pool.flush())),
        ("refreshed", lambda pool, handle: (handle.close(), pool.refresh())),
        ("refreshed", lambda pool, handle: (pool.refresh(), handle.close())),
        ("shutdown", lambda pool, handle: (handle.close(), pool.dispose())),
    ],
)
def test_closed_by_reason(driver, reason, act):
    pool = a_pool(driver)
    act(pool, pool.connect())
    assert dict(pool.stats().closed) == {reason: 1}
    assert driver.open_ones == []
    assert shown(pool, "in_use", "idle", "opening") == (0, 0, 0)


def test_what_was_out_at_a_dispose_is_not_in_use(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    pool.dispose()
    assert shown(pool, "in_use", "idle", "opening") == (0, 0, 0)
    handle.close()
    assert shown(pool, "in_use", "idle") == (0, 1)


def test_what_is_lent_again_after_a_dispose_is_in_use(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    pool.dispose()
    handle.close()
    again = pool.connect()
    assert driver.connects == 1
    assert shown(pool, "in_use", "idle", "opening") == (1, 0, 0)
    again.close()
    assert shown(pool, "in_use", "idle", "opening") == (0, 1, 0)


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda stats: pickle.loads(pickle.dumps(stats)),
        lambda stats: dataclasses.replace(stats),
        lambda stats: Stats(**dataclasses.asdict(stats)),
    ],
)
def test_a_snapshot_can_be_sent_elsewhere(driver, duplicate):
    pool = a_pool(driver)
    pool.connect().close()
    pool.flush()
    stats = pool.stats()
    other = duplicate(stats)
    assert other == stats
    assert other.closed == {"idle": 1}
    for change in (
        lambda closed: closed.update(idle=2),
        lambda closed: closed.pop("idle"),
        lambda closed: closed.clear(),
        lambda closed: closed.setdefault("age", 1),
        lambda closed: operator.setitem(closed, "idle", 2),
        lambda closed: operator.delitem(closed, "idle"),
        lambda closed: operator.ior(closed, {"idle": 2}),
    ):
        with pytest.raises(TypeError):
            change(other.closed)
    assert other == stats


def test_a_snapshot_as_json(driver):
    pool = a_pool(driver)
    pool.connect().close()
    pool.flush()
    said = json.loads(json.dumps(dataclasses.asdict(pool.stats())))
    assert said["opened"] == 1 and said["closed"] == {"idle": 1}
