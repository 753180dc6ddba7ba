"""The reaper's helpers: threads for what may block."""

from __future__ import annotations

import logging
import threading
import weakref

import pytest
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import HookedLock
from stub import until

from sa_reaperpool import ReaperPool
from sa_reaperpool.crew import Crew
from sa_reaperpool.reaper import reaper


def test_a_task_that_hangs_delays_no_other_owner():
    crew = Crew(each=2)
    gates = [Gate() for _ in range(2)]
    for key, gate in enumerate(gates):
        crew.submit(1, key, gate)
    for gate in gates:
        gate.wait()
    late, others = threading.Event(), threading.Event()
    crew.submit(1, "late", late.set)
    crew.submit(2, "late", others.set)
    assert others.wait(PATIENCE)
    assert not late.is_set()
    gates[0].open()
    assert late.wait(PATIENCE)
    gates[1].open()


def test_no_more_threads_than_an_owner_may_have():
    crew = Crew(each=3)
    gate = Gate()
    names = []

    def task():
        names.append(threading.get_ident())
        gate()

    for key in range(10):
        crew.submit(1, key, task)
    until(lambda: len(names) == 3)
    gate.open()
    until(lambda: len(names) == 10)
    until(lambda: not crew._threads)
    assert len(set(names)) == 3


def test_a_task_that_waits_is_not_queued_twice():
    crew = Crew(each=1)
    gate = Gate()
    ran = []
    crew.submit(1, "other", gate)
    gate.wait()
    for _ in range(3):
        crew.submit(1, "key", lambda: ran.append(1))
    gate.open()
    until(lambda: not crew._threads)
    assert ran == [1]
    # done with, it may come again
    crew.submit(1, "key", lambda: ran.append(2))
    until(lambda: ran == [1, 2])


def test_a_task_whose_like_is_being_run_runs_after_it():
    """What that one looked at may have changed."""
    crew = Crew()
    gate = Gate()
    ran = []
    crew.submit(1, "key", gate)
    gate.wait()
    for number in range(3):
        crew.submit(1, "key", lambda number=number: ran.append(number))
    crew.submit(2, "key", lambda: ran.append("another owner's"))
    until(lambda: ran)
    assert ran == ["another owner's"]
    gate.open()
    until(lambda: not crew._threads)
    assert ran == ["another owner's", 2]
    assert not crew._running and not crew._waiting


def test_helpers_end_when_there_is_nothing_to_do():
    crew = Crew()
    found = []
    crew.submit(1, "key", lambda: found.append(threading.current_thread()))
    until(lambda: found)
    found[0].join(PATIENCE)
    assert not found[0].is_alive()
    assert not crew._threads
    assert not crew._running


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_error_in_a_task_is_logged_and_the_next_runs(caplog, error):
    crew = Crew(each=1)
    ran = threading.Event()
    gate = Gate(error("broken task"))
    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        crew.submit(1, "bad", gate)
        gate.wait()
        crew.submit(1, "good", ran.set)
        gate.open()
        assert ran.wait(PATIENCE)
    assert "broken task" in caplog.text


def refuse(thread):
    raise RuntimeError("can't start new thread")


def test_no_thread_to_be_had(monkeypatch):
    crew = Crew(each=1)
    ran = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        crew.submit(1, "key", ran.set)
        assert crew.understaffed
        crew.staff()
        assert crew.understaffed
    crew.staff()
    assert ran.wait(PATIENCE)
    until(lambda: not crew._threads)
    assert not crew.understaffed


def test_no_second_thread_to_be_had(monkeypatch):
    """The first does it all, unless it hangs."""
    crew = Crew(each=2)
    gate = Gate()
    ran = threading.Event()
    crew.submit(1, "first", gate)
    gate.wait()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        crew.submit(1, "second", ran.set)
    assert crew.understaffed
    gate.open()
    assert ran.wait(PATIENCE)
    until(lambda: not crew._threads)
    assert not crew.understaffed


def test_a_helper_keeps_nothing_alive_afterwards():
    class Owner:
        def act(self):
            done.set()

    done = threading.Event()
    owner = Owner()
    gone = weakref.ref(owner)
    crew = Crew(each=1)
    gate = Gate()
    crew.submit(1, "first", owner.act)
    assert done.wait(PATIENCE)
    crew.submit(1, "second", gate)
    gate.wait()
    del owner
    assert gone() is None
    gate.open()


def test_what_the_garbage_collector_returns_blocks_no_crew(monkeypatch):
    """A helper meets it inside the lock that the reaper needs."""
    driver = Driver()
    pool = ReaperPool(driver.connect, reaping_frequency=60)
    reset_under_lock = []
    driver.when_reset = lambda connection: reset_under_lock.append(
        lock._is_owned()
    )
    handles = [pool.connect()]
    lock = HookedLock()
    # one for both
    assert reaper._crew._lock is reaper._lock
    monkeypatch.setattr(reaper, "_lock", lock)
    monkeypatch.setattr(reaper._crew, "_lock", lock)
    # whoever comes first, the reaper's own thread or this one
    lock.hooks["begin"] = handles.clear
    assert not reaper._crew.understaffed
    until(lambda: reset_under_lock)
    assert reset_under_lock == [False]
    assert pool.stats().in_use == 0
    pool.dispose()
