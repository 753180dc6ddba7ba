"""The one background thread, with stand-ins for pools."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub import PATIENCE
from stub import Gate
from stub import Task
from stub import in_ended_thread
from stub import switching_often
from stub import until

from sa_reaperpool import holder
from sa_reaperpool.reaper import Reaper
from sa_reaperpool.reaper import _together


class Pool:
    """What the reaper knows of a pool, and a note of each call."""

    def __init__(self, frequency=3600.0):
        self.frequency = frequency
        self.has_leases = True
        self.rounds = threading.Semaphore(0)
        self.checks = threading.Semaphore(0)
        self.threads = set()
        self.when_tended = lambda submit: None
        self.when_checked = lambda submit: None

    def tend_leases(self, now, submit):
        self.threads.add(threading.current_thread())
        try:
            return self.when_checked(submit)
        finally:
            self.checks.release()

    def tend(self, now, submit):
        try:
            return self.when_tended(submit)
        finally:
            self.rounds.release()

    def has_round(self):
        return self.rounds.acquire(timeout=PATIENCE)

    def has_check(self):
        return self.checks.acquire(timeout=PATIENCE)


@pytest.fixture
def reaper():
    given = Reaper()
    yield given
    given.stop()
    # one too many that was started, and comes to run only now, ends at once
    until(lambda: not running(given))


def running(reaper):
    """Whether it has a thread, told from outside."""
    return reaper._thread is not None and reaper._thread.is_alive()


def settled(reaper, *pools):
    """Pools that had their first round."""
    for pool in pools:
        reaper.look_after(pool)
        assert pool.has_round()
        assert pool.has_check()


# its thread


def test_one_thread_for_many_pools(reaper):
    pools = [Pool() for _ in range(20)]
    settled(reaper, *pools)
    threads = set().union(*(pool.threads for pool in pools))
    assert len(threads) == 1
    [thread] = threads
    assert thread.daemon
    assert thread.name == "sa_reaperpool reaper"


def test_one_thread_although_many_ask_at_once(reaper):
    pools = [Pool() for _ in range(12)]
    barrier = threading.Barrier(12)

    def ask(pool):
        barrier.wait()
        reaper.look_after(pool)

    with switching_often():
        for task in [Task(ask, pool) for pool in pools]:
            task.result()
        for pool in pools:
            assert pool.has_round()
    assert len(set().union(*(pool.threads for pool in pools))) == 1


def test_one_thread_although_two_were_started(reaper):
    before = set(threading.enumerate())
    pools = [Pool(), Pool()]
    # neither can enter itself as the reaper's before this ends
    with reaper._lock:
        for pool in pools:
            reaper.look_after(pool)
        started = set(threading.enumerate()) - before
        assert len(started) == 2
    for pool in pools:
        assert pool.has_round()
    until(lambda: sum(thread.is_alive() for thread in started) == 1)


def test_pools_are_held_weakly_and_the_last_ends_the_thread(reaper):
    first, second = Pool(), Pool()
    settled(reaper, first, second)
    [thread] = first.threads
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert thread.is_alive()
    del second
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_new_pool_starts_it_again(reaper):
    pool = Pool()
    settled(reaper, pool)
    [first] = pool.threads
    del pool
    gc.collect()
    first.join(PATIENCE)
    pool = Pool()
    settled(reaper, pool)
    assert pool.threads != {first}
    assert running(reaper)


def test_restart_begins_with_nothing(reaper):
    old = Pool()
    settled(reaper, old)
    [thread] = old.threads
    mailbox = reaper._mailbox
    reaper.restart()
    # an old thread, which a child would not have, notices at its next mail
    mailbox.put(None)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    new = Pool()
    settled(reaper, new)
    assert not old.checks.acquire(blocking=False)
    assert new.threads.isdisjoint({thread})


def test_stop_ends_it_although_pools_live(reaper):
    pool = Pool()
    settled(reaper, pool)
    [thread] = pool.threads
    reaper.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    reaper.look_after(Pool())
    assert not running(reaper)


def test_a_pool_without_rounds_starts_nothing(reaper):
    pool = Pool(frequency=None)
    reaper.look_after(pool)
    reaper.wake(pool)
    assert not running(reaper)


# its times


def test_rounds_come_again(reaper):
    pool = Pool(frequency=0.001)
    reaper.look_after(pool)
    for _ in range(5):
        assert pool.has_round()


def test_wake_gives_a_round_now(reaper):
    pool = Pool()
    settled(reaper, pool)
    reaper.wake(pool)
    assert pool.has_round()


def test_a_round_before_its_time(reaper):
    pool = Pool()
    answers = [monotonic() + 0.001]
    pool.when_tended = lambda submit: answers.pop() if answers else None
    reaper.look_after(pool)
    assert pool.has_round()
    assert pool.has_round()


def test_leases_are_due_before_the_next_round(reaper):
    pool = Pool()
    answers = [monotonic() + 0.001, monotonic() + 0.001]
    pool.when_checked = lambda submit: answers.pop() if answers else None
    reaper.look_after(pool)
    for _ in range(3):
        assert pool.has_check()
    assert pool.rounds.acquire(timeout=PATIENCE)
    assert not pool.rounds.acquire(blocking=False)


def test_the_end_of_a_holder_wakes_it(reaper, monkeypatch):
    monkeypatch.setattr(holder, "_listeners", [reaper.holder_ended])
    pools = [Pool(), Pool()]
    settled(reaper, *pools)
    in_ended_thread(holder.current)
    for pool in pools:
        assert pool.has_check()
        assert not pool.rounds.acquire(blocking=False)


class Asked(Pool):
    """One that notes when it is asked for anything at all."""

    def __getattribute__(self, name):
        if name == "frequency":
            asked.append(self)
        return super().__getattribute__(name)


asked = []


def test_who_has_nothing_to_do_is_not_asked(reaper):
    """There may be thousands of pools."""
    idle = [Asked() for _ in range(5)]
    pool = Pool()
    settled(reaper, pool, *idle)
    asked.clear()
    for _ in range(3):
        reaper.wake(pool)
        assert pool.has_round()
        assert pool.has_check()
    assert asked == []


@given(
    st.lists(st.floats(0, 1e9), min_size=1),
    st.sampled_from([0.001, 0.01, 0.2, 3]),
)
def test_rounds_of_many_come_together(times, step):
    """None early, none more than a step late, and all of a step at once."""
    moments = {_together(at, step) for at in times}
    for at in times:
        assert -1e-6 < _together(at, step) - at <= step + 1e-6
    assert len(moments) <= (max(times) - min(times)) / step + 2


@pytest.mark.parametrize("frequency", [1e-320, 1e-12])
def test_rounds_that_come_all_the_time(reaper, caplog, frequency):
    pool = Pool(frequency)
    settled(reaper, pool)
    assert pool.has_round() and pool.has_round()
    reaper.stop()
    assert caplog.text == ""


@pytest.mark.parametrize("frequency", [1e10, 1e300, 10**300])
def test_rounds_that_come_once_in_centuries(reaper, caplog, frequency):
    pool = Pool(frequency)
    pool.when_tended = pool.when_checked = lambda submit: frequency
    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        settled(reaper, pool)
        reaper.wake(pool)
        assert pool.has_round()
        reaper.stop()
    assert caplog.text == ""
    assert not pool.rounds.acquire(blocking=False)


def test_a_check_for_who_waits(reaper):
    pool = Pool()
    settled(reaper, pool)
    assert reaper.check(pool)
    assert pool.has_check()
    assert not pool.rounds.acquire(blocking=False)


def test_a_check_of_a_pool_that_it_does_not_know(reaper):
    pool, other = Pool(), Pool()
    settled(reaper, pool)
    reaper.check(other)
    # it has read that by then
    reaper.check(pool)
    assert pool.has_check()
    assert not reaper._lease_checks
    assert not other.checks.acquire(blocking=False)


def test_a_check_of_a_pool_that_is_gone_by_then(reaper):
    other, pool = Pool(), Pool()
    settled(reaper, other, pool)
    round_, check = Gate(), Gate()
    other.when_tended = lambda submit: round_()
    reaper.wake(other)
    round_.wait()
    other.when_checked = lambda submit: check()
    # mail that it reads in one go, and the other pool has its turn first
    reaper.check(other)
    reaper.check(pool)
    round_.open()
    check.wait()
    gone = weakref.ref(pool)
    del pool
    assert gone() is None
    check.open()
    until(lambda: len(reaper._rounds) == 1)
    # or it would be due for ever
    assert not reaper._lease_checks


# errors


@pytest.mark.parametrize("verb", ["when_tended", "when_checked"])
def test_an_error_in_one_pool_does_not_stop_it(reaper, caplog, verb):
    bad, good = Pool(frequency=0.001), Pool(frequency=0.001)

    def fail(submit):
        raise ValueError("broken pool")

    setattr(bad, verb, fail)
    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        for pool in (bad, good):
            reaper.look_after(pool)
        for _ in range(5):
            assert good.has_round()
            assert bad.has_check()
        reaper.stop()
    assert bad.threads == good.threads
    assert "broken pool" in caplog.text


def test_an_error_in_one_pool_hides_no_holders_end(reaper, caplog):
    bad, good = Pool(), Pool()
    settled(reaper, bad, good)

    def fail(submit):
        raise ValueError("broken pool")

    bad.when_checked = fail
    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        reaper.holder_ended()
        assert good.has_check()
        assert bad.has_check()
        reaper.stop()
    assert "broken pool" in caplog.text


def test_mail_from_a_pool_that_is_gone_hides_nothing(reaper, caplog):
    pool, gate = Pool(), Gate()
    settled(reaper, pool)
    pool.when_tended = lambda submit: gate()
    reaper.wake(pool)
    gate.wait()
    assert pool.has_check()
    # it reads all of this in one go
    reaper.holder_ended()
    gone = Pool()
    there = weakref.ref(gone)
    reaper.wake(gone)
    del gone
    assert there() is None
    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        gate.open()
        assert pool.has_check()
        reaper.stop()
    assert caplog.text == ""


def test_no_lock_is_held_while_a_pool_is_tended(reaper):
    pool, gate = Pool(), Gate()
    pool.when_tended = lambda submit: gate()
    reaper.look_after(pool)
    gate.wait()
    Task(reaper.look_after, Pool()).result()
    Task(reaper.wake, pool).result()
    Task(reaper.holder_ended).result()
    gate.open()


class NoThreads:
    """Has threading start none."""

    def __init__(self, monkeypatch):
        self.asked = 0
        self._patch = monkeypatch.context()
        self._patch.__enter__().setattr(
            threading.Thread, "start", lambda thread: self._refuse()
        )

    def _refuse(self):
        self.asked += 1
        raise RuntimeError("can't start new thread")

    def over(self):
        self._patch.__exit__(None, None, None)


def test_no_thread_for_the_reaper(reaper, monkeypatch, caplog):
    """It is tried again, but not every time that somebody would ask."""
    none = NoThreads(monkeypatch)
    pool = Pool()
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        assert not reaper.look_after(pool)
    assert "can't start new thread" in caplog.text
    for _ in range(3):
        assert not reaper.check(pool)
    assert none.asked == 1
    none.over()
    until(lambda: reaper.check(pool))
    assert pool.has_round()


def test_no_thread_for_its_helpers(reaper, monkeypatch):
    """The task runs once there are threads again."""
    monkeypatch.setattr("sa_reaperpool.reaper._TRY_AGAIN", 0.01)
    pool, ran = Pool(), threading.Event()
    settled(reaper, pool)
    none = NoThreads(monkeypatch)
    pool.when_tended = lambda submit: submit("key", ran.set)
    reaper.wake(pool)
    until(lambda: none.asked > 3)
    assert not ran.is_set()
    none.over()
    assert ran.wait(PATIENCE)


# helpers


def test_what_may_block_runs_elsewhere(reaper):
    pool, gate = Pool(), Gate()
    found = []

    def block():
        found.append(threading.current_thread())
        gate()

    pool.when_tended = lambda submit: submit("key", block) and None
    settled(reaper, pool)
    gate.wait()
    # it hangs, and the reaper goes on
    other = Pool()
    settled(reaper, other)
    assert found[0] not in pool.threads
    assert found[0].daemon
    gate.open()
