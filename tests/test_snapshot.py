"""The snapshot of a pool: each connection once, in the state that it is in."""

from __future__ import annotations

import dataclasses
import random
import threading

import pytest
from actors import Actor
from rounds import Clock
from rounds import a_pool
from stub import Driver
from stub import Gate
from stub import StubError
from stub import Task
from stub import in_ended_thread
from stub import switching_often
from stub import until

from sa_reaperpool import HolderInfo
from sa_reaperpool import label
from sa_reaperpool.callers import Writing
from sa_reaperpool.callers import written


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def driver():
    return Driver()


def shown(pool):
    """State and seconds of each connection."""
    return [(each.state, each.seconds) for each in pool.snapshot().connections]


def same_as_stats(pool):
    snapshot = pool.snapshot()
    assert snapshot.stats == pool.stats()
    return snapshot


def test_in_use_idle_and_their_times(driver, clock):
    pool = a_pool(driver)
    first, second = pool.connect(), pool.connect()
    clock.now += 10
    first.close()
    third = pool.connect()
    third.close()
    clock.now += 5
    assert shown(pool) == [("in use", 15.0), ("idle", 5.0)]
    held, idle = pool.snapshot().connections
    assert held.age == idle.age == 15.0
    assert idle.lease is None and held.lease == pool.leases()[0]
    same_as_stats(pool)
    second.close()


def test_longest_first(driver, clock):
    pool = a_pool(driver)
    handles = []
    for _ in range(4):
        handles.append(pool.connect())
        clock.now += 1
    for handle in (handles.pop(1), handles.pop(2)):
        clock.now += 1
        handle.close()
    # whatever their order there
    pool._leases = dict(reversed(pool._leases.items()))
    assert shown(pool) == [
        ("in use", 6.0),
        ("in use", 4.0),
        ("idle", 1.0),
        ("idle", 0.0),
    ]


def test_what_is_being_opened(driver, clock):
    pool = a_pool(driver)
    gate = Gate()
    driver.then(gate)
    task = Task(pool.connect)
    gate.wait()
    clock.now += 3
    assert shown(pool) == [("opening", 3.0)]
    assert same_as_stats(pool).stats.opening == 1
    gate.open()
    task.result().close()


def test_what_is_being_reset(driver, clock):
    pool = a_pool(driver)
    handle = pool.connect()
    driver.when_reset = gate = Gate()
    task = Task(handle.close)
    gate.wait()
    clock.now += 3
    [moving] = pool.snapshot().connections
    assert (moving.state, moving.seconds, moving.age) == (
        "in transit",
        None,
        3,
    )
    same_as_stats(pool)
    gate.open()
    task.result()


def test_a_place_without_a_connection_is_none(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    handle.invalidate()
    assert pool.queue.idle()
    assert shown(pool) == []
    assert same_as_stats(pool).stats.idle == 0


def test_kept_and_reserved(driver):
    pool = a_pool(driver)
    kept = pool.connect()
    pool.keep(kept)
    reserved = pool.connection()
    flags = [
        (each.lease.kept, each.reserved)
        for each in pool.snapshot().connections
    ]
    assert flags == [(True, False), (False, True)]
    kept.close(), reserved.close()


def test_out_at_a_dispose(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    pool.dispose()
    [held] = pool.snapshot().connections
    assert held.disposed
    snapshot = same_as_stats(pool)
    assert (snapshot.disposed, snapshot.stats.in_use) == (1, 0)
    assert not snapshot.over
    handle.close()


def test_over(driver):
    pool = a_pool(driver)
    assert not pool.snapshot().over
    pool.connect().close()
    assert not pool.snapshot().over
    pool.dispose()
    assert pool.snapshot().over
    pool.connect().close()
    assert not pool.snapshot().over
    pool.shutdown()
    assert pool.snapshot().over and pool.snapshot().shut


def test_a_pool_that_cannot_connect_is_not_over(driver, clock):
    pool = a_pool(driver)
    driver.then(StubError("no"))
    with pytest.raises(StubError):
        pool.connect()
    clock.now += 7
    snapshot = pool.snapshot()
    assert not snapshot.over
    assert snapshot.connect_error == "StubError: no"
    assert snapshot.failed_ago == 7.0
    pool.connect().close()
    assert pool.snapshot().connect_error is None


def test_holders(driver):
    pool = a_pool(driver)
    handle = in_ended_thread(pool.connect)
    actor = Actor(pool, "worker")
    actor.do(handle.cursor).result()
    [held] = pool.snapshot().connections
    assert held.lease.holders[1] == HolderInfo("worker", True)
    assert not held.lease.holders[0].alive
    actor.leave()
    handle.close()


def test_who_waits(driver, clock):
    pool = a_pool(driver, pool_size=1, max_overflow=0)
    handle = pool.connect()

    def want():
        with label("POST /pay"):
            pool.connect(timeout=None).close()

    tasks = []
    for number in (1, 2):
        tasks.append(Task(want))
        until(lambda: pool.queue.waiting() == number)
    snapshot = same_as_stats(pool)
    assert [each.thread for each in snapshot.waiting] == [
        task.name for task in tasks
    ]
    assert {each.label for each in snapshot.waiting} == {"POST /pay"}
    [line] = snapshot.waiting_lines
    assert line.count == 2 and line.where == snapshot.waiting[0].where
    assert line.where.startswith(f"{__file__}:")
    assert not any(each.connects for each in snapshot.waiting)
    handle.close()
    for task in tasks:
        task.result()


def test_who_waits_for_a_turn_to_connect(driver):
    pool = a_pool(driver, max_connecting=1, timeout=None)
    gate = Gate()
    driver.then(gate)
    first = Task(pool.connect)
    gate.wait()
    second = Task(pool.connect)
    until(lambda: pool.snapshot().stats.waiting == 1)
    assert pool.report().count("1 thread waits") == 1
    gate.open()
    first.result().close(), second.result().close()


def test_lines_most_first(driver):
    pool = a_pool(driver, pool_size=40)
    once = [pool.connect()]
    often = [pool.connect() for _ in range(3)]
    with label("GET /orders"):
        labelled = [pool.connect() for _ in range(2)]
    lines = pool.snapshot(0).holding_lines
    assert [(each.count, each.label) for each in lines] == [
        (3, None),
        (2, "GET /orders"),
        (1, None),
    ]
    again = pool.connect(), pool.connect()
    assert pool.snapshot(0).holding_lines[2].count == 2
    here = {"pool": pool, "__name__": "app"}
    many = [
        eval(compile("pool.connect()", f"app{n}.py", "eval"), here)
        for n in range(20)
    ]
    assert len(pool.snapshot(0).holding_lines) == 10
    for handle in (*once, *often, *labelled, *again, *many):
        handle.close()


def of_a_long_function(text, scope):
    """A function of that text, after a thousand other lines."""
    source = "def job(n):\n" + "    x = 1\n" * 1000 + f"    {text}\n"
    exec(compile(source, "jobs.py", "exec"), scope)
    return scope["job"]


def test_a_line_is_looked_up_once_however_many_labels(driver, monkeypatch):
    """For its number, its function is gone through: once for each look."""
    pool = a_pool(driver, pool_size=80, max_overflow=0)
    job = of_a_long_function(
        "with label(str(n)): kept.append(pool.connect())",
        {"pool": pool, "kept": [], "label": label},
    )
    for number in range(80):
        job(number)
    walks = []

    class Watched:
        """Code that tells when its lines are gone through."""

        def __init__(self, code):
            self.code = code

        def __getattr__(self, name):
            return getattr(self.code, name)

        def co_lines(self):
            walks.append(self.code)
            return self.code.co_lines()

    code = Watched(job.__code__)
    for lease in pool._leases.values():
        assert lease._code is job.__code__
        lease._code = code
    snapshot = pool.snapshot(None)
    assert len(walks) == 1
    where = {each.lease.where for each in snapshot.connections}
    assert where == {"jobs.py:1002 in job"}
    lines = snapshot.holding_lines
    assert [each.count for each in lines] == [1] * 10
    assert [each.label for each in lines] == [str(n) for n in range(10)]
    assert {each.where for each in lines} == where


def test_only_the_lines_that_are_shown_are_looked_up(driver, monkeypatch):
    pool = a_pool(driver, pool_size=40)
    here = {"pool": pool}
    kept = [
        eval(compile("pool.connect()", f"app{n}.py", "eval"), here)
        for n in range(40)
    ]
    numbers = []

    class Counting(Writing):
        def number(self, line):
            numbers.append(line)
            return super().number(line)

    monkeypatch.setattr("sa_reaperpool.snapshot.Writing", Counting)
    lines = pool.snapshot(0).holding_lines
    assert [each.where for each in lines] == [
        f"app{n}.py:1 in <module>" for n in range(10)
    ]
    assert len(numbers) == 10
    for handle in kept:
        handle.close()


def test_places_of_one_line_are_counted_together(driver, clock):
    """Of one function, and of one that was made anew from the same text."""
    pool = a_pool(driver, pool_size=40)
    text = "[pool.connect(), pool.connect()], \\\n pool.connect()"
    made = []
    for _ in range(2):
        job = of_a_long_function(f"return {text}", {"pool": pool})
        made.append(job(0))
        clock.now += 1
    lines = pool.snapshot(0).holding_lines
    assert [(each.where, each.count, each.seconds) for each in lines] == [
        ("jobs.py:1002 in job", 4, 2.0),
        ("jobs.py:1003 in job", 2, 2.0),
    ]
    del made


@pytest.mark.parametrize("function", [a_pool, Driver.connect, until])
def test_writing_is_as_written(function):
    code = function.__code__
    write = Writing()
    for place in range(-1, len(code.co_code)):
        assert write((code, place)) == written((code, place))
    assert write(None) == written(None)


def test_is_immutable(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    snapshot = pool.snapshot()
    for each in (snapshot, snapshot.connections[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            each.state = "idle"
    handle.close()
    assert snapshot.connections[0].state == "in use"


def test_each_connection_once_while_they_move(driver):
    """The counts always add up, and the limit is never passed."""
    pool = a_pool(driver, pool_size=4, max_overflow=0, timeout=None)
    over = threading.Event()

    def work(seed):
        choose = random.Random(seed).random
        while not over.is_set():
            handle = pool.connect()
            if choose() < 0.2:
                handle.invalidate()
            handle.close()

    with switching_often():
        tasks = [Task(work, seed) for seed in range(6)]
        for _ in range(300):
            snapshot = pool.snapshot(None)
            stats = snapshot.stats
            assert stats.idle + stats.in_use + stats.opening <= 4
            assert len(snapshot.connections) == (
                stats.idle + stats.in_use + stats.opening
            )
            assert 0 <= stats.waiting <= 6
        over.set()
        for task in tasks:
            task.result()
    snapshot = same_as_stats(pool)
    assert snapshot.stats.in_use == snapshot.stats.waiting == 0


def test_counts_while_another_thread_counts(driver):
    """It adds up in the midst of the copies that a snapshot takes."""
    pool = a_pool(driver)
    tally = pool._tally
    for _ in range(5):
        tally.add("opened")

    class Counting:
        """Has counted what is new between any two looks."""

        folds = 3

        @property
        def _totals(self):
            return tally._totals.copy()

        @property
        def _events(self):
            if self.folds:
                self.folds -= 1
                tally.totals()
                tally.add("opened")
            return tally._events.copy()

    pool._tally = Counting()
    assert pool.snapshot().stats.opened == 8
    pool._tally = tally
    assert pool.stats().opened == 8
