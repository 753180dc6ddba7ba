"""The reaper's helpers: threads for what may block."""

from __future__ import annotations

import logging
import threading
import weakref

import pytest
from stub import PATIENCE
from stub import Gate
from stub import until

from sa_reaperpool.crew import Crew


def test_a_task_that_hangs_delays_no_other_owner():
    crew = Crew(each=2)
    gates = [Gate() for _ in range(2)]
    for key, gate in enumerate(gates):
        assert crew.submit(1, key, gate)
    for gate in gates:
        gate.wait()
    late, others = threading.Event(), threading.Event()
    assert crew.submit(1, "late", late.set)
    assert crew.submit(2, "late", others.set)
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


def test_a_task_is_not_queued_twice():
    crew = Crew()
    gate = Gate()
    ran = []
    assert crew.submit(1, "key", gate)
    gate.wait()
    assert not crew.submit(1, "key", lambda: ran.append(1))
    assert crew.submit(2, "key", lambda: ran.append(2))
    gate.open()
    until(lambda: not crew._threads)
    assert ran == [2]
    # done with, it may come again
    assert crew.submit(1, "key", lambda: ran.append(3))
    until(lambda: ran == [2, 3])


def test_helpers_end_when_there_is_nothing_to_do():
    crew = Crew()
    found = []
    crew.submit(1, "key", lambda: found.append(threading.current_thread()))
    until(lambda: found)
    found[0].join(PATIENCE)
    assert not found[0].is_alive()
    assert not crew._threads
    assert not crew._known


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


def test_no_thread_to_be_had(monkeypatch):
    crew = Crew(each=1)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not crew.submit(1, "key", lambda: None)
    ran = threading.Event()
    assert crew.submit(1, "key", ran.set)
    assert ran.wait(PATIENCE)


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
