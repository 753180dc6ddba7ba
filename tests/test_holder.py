"""Holders: threads, and the moment that they end."""

from __future__ import annotations

import _thread
import contextvars
import gc
import os
import threading
import weakref

import pytest
from forks import in_a_child
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import Task
from stub import in_ended_thread
from stub import switching_often
from stub import until

from sa_reaperpool import ReaperPool
from sa_reaperpool import holder
from sa_reaperpool import process


@pytest.fixture
def ends(monkeypatch):
    """The idents of the threads in which somebody's end was told."""
    told = []
    monkeypatch.setattr(holder, "_listeners", [])
    holder.listen(lambda: told.append(threading.get_ident()))
    return told


def test_one_holder_for_each_thread():
    here = holder.current()
    assert holder.current() is here
    assert in_ended_thread(holder.current) is not here


def test_alive_until_the_thread_ends():
    gate = Gate()
    found = []

    def work():
        found.append(holder.current())
        gate()

    task = Task(work)
    gate.wait()
    assert found[0].alive
    gate.open()
    task.result()
    # by the time that join() returns, not some time after it
    assert not found[0].alive


def test_not_mistaken_for_a_later_thread_with_the_same_ident():
    first = in_ended_thread(lambda: (threading.get_ident(), holder.current()))
    for _ in range(200):
        gate = Gate()

        def work():
            gate()
            return threading.get_ident(), holder.current()

        task = Task(work)
        gate.wait()
        same = task.ident == first[0]
        gate.open()
        ident, later = task.result()
        if same:
            assert later is not first[1]
            assert not first[1].alive
            return
    pytest.skip("this system does not use idents again")


def test_name_of_the_thread():
    def work():
        threading.current_thread().name = "worker-7"
        return holder.current().name

    assert in_ended_thread(work) == "worker-7"


def test_a_thread_that_is_given_another_name():
    """As servers do, by the request."""

    def work():
        found = holder.current()
        threading.current_thread().name = "request-8"
        return found, found.name

    ended, while_alive = in_ended_thread(work)
    assert while_alive == ended.name == "request-8"


def test_repr_says_who_and_whether():
    def work():
        threading.current_thread().name = "worker-7"
        return holder.current(), repr(holder.current())

    ended, while_alive = in_ended_thread(work)
    assert while_alive == "<Holder worker-7 alive>"
    assert repr(ended) == "<Holder worker-7 ended>"


def test_thread_that_threading_does_not_know():
    done = threading.Event()
    last_act = threading.Event()
    found = []

    class Last:
        pass

    def work():
        known = threading.active_count()
        found.append(holder.current())
        found.append(f"thread {threading.get_ident()}")
        # no dummy thread was made, which would stay for ever
        found.append(threading.active_count() == known)
        local.last = last = Last()
        weakref.finalize(last, last_act.set)
        done.set()

    local = threading.local()
    _thread.start_new_thread(work, ())
    assert done.wait(PATIENCE)
    assert last_act.wait(PATIENCE)
    who, name, nobody_made = found
    assert who.name == name
    assert nobody_made
    until(lambda: not who.alive)


def test_a_finaliser_that_sits_down_meanwhile(monkeypatch, ends):
    """As the garbage collector may have one run at any moment."""
    inner = []

    def work():
        real = holder._greenlet

        def meanwhile():
            monkeypatch.setattr(holder, "_greenlet", real)
            inner.append(holder.current())
            return real()

        monkeypatch.setattr(holder, "_greenlet", meanwhile)
        outer = holder.current()
        return outer is inner[0], inner[0].alive, list(ends)

    assert in_ended_thread(work) == (True, True, [])


# a thread whose values are being dropped, each with its finaliser


class Late:
    """A thread-local value that does something as it is dropped."""

    def __init__(self, work):
        self.work = work

    def __del__(self):
        self.work()


def late_use(first, start, used=holder.current):
    """What a finaliser in a dying thread found, and the thread before it.

    :param first: what the thread uses first, the "pool", a "value" of its
     own, or that "alone".

    """
    before, found = [], []
    done = threading.Event()
    local = threading.local()

    def late():
        found.append(used())
        done.set()

    def work():
        if first == "pool":
            before.append(holder.current())
        local.value = Late(late)
        if first != "alone":
            before.append(holder.current())

    if start == "threading":
        # not a Task, which would keep what it did
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        _thread.start_new_thread(work, ())
    assert done.wait(PATIENCE)
    return found[0], before


STARTS = ["threading", "_thread"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("first", ["pool", "value", "alone"])
def test_a_finaliser_in_a_dying_thread(first, start):
    """It is there for as long as that goes on, and no longer."""
    if not os.path.exists("/proc/self/task"):
        if first == "alone" or start == "_thread":
            pytest.skip("of these only Linux tells")

    def used():
        here = holder.current()
        return here, here.alive, holder.current() is here

    (who, alive, same), before = late_use(first, start, used)
    assert alive and same
    until(lambda: not who.alive)
    assert not any(each.alive for each in before)


@pytest.mark.parametrize("first", ["pool", "value"])
def test_a_finalisers_end_is_told(ends, first):
    """After the finaliser, whatever it has taken."""
    (count, who), _ = late_use(
        first, "threading", lambda: (len(ends), holder.current())
    )
    assert len(ends) > count
    assert not who.alive


def test_nothing_is_left_of_dying_threads():
    def seats():
        gc.collect()
        return sum(isinstance(it, holder._Seat) for it in gc.get_objects())

    before, seated = seats(), len(holder._seated)
    for first in ("pool", "value"):
        for _ in range(5):
            late_use(first, "threading")
    assert seats() == before
    # fewer where a number was used again
    assert len(holder._seated) <= seated


def test_a_thread_in_a_dying_ones_context():
    """As one that a finaliser hands something on to."""

    def used():
        return holder.current(), contextvars.copy_context()

    (dying, context), _ = late_use("pool", "threading", used)
    here = in_ended_thread(lambda: context.run(holder.current))
    assert here is not dying
    gate = Gate()
    found = []

    def work():
        found.append(holder.current())
        gate()

    done = threading.Event()
    _thread.start_new_thread(lambda: (context.run(work), done.set()), ())
    gate.wait()
    assert found[0] is not dying
    assert found[0].alive
    gate.open()
    assert done.wait(PATIENCE)


def test_a_system_that_does_not_tell(monkeypatch):
    """Any more, or at all: such a thread may be there for all one knows."""
    gate = Gate()
    found = []
    _thread.start_new_thread(
        lambda: (found.append(holder.current()), gate()), ()
    )
    gate.wait()
    for tasks in ("/proc/self/task", "/no such"):
        monkeypatch.setattr(holder, "_TASKS", tasks)
        assert found[0].alive
    found[0]._task = "/no such/1"
    assert found[0].alive
    gate.open()
    late, _ = late_use("alone", "threading")
    assert late.alive


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_by_a_thread_that_threading_does_not_know():
    """In the child it has another number, and lives."""
    done = threading.Event()
    told = []

    def work():
        here = holder.current()

        def child():
            return [here.alive, holder.current() is here]

        told.append(in_a_child(child))
        done.set()

    _thread.start_new_thread(work, ())
    assert done.wait(PATIENCE)
    assert told == [[True, True]]


def test_end_is_told_in_the_dying_thread(ends):
    task = Task(holder.current)
    task.result()
    assert ends == [task.ident]


def test_a_thread_that_held_nothing_tells_nothing(ends):
    in_ended_thread(lambda: None)
    assert ends == []


def test_end_by_an_error_is_an_end(ends):
    def work():
        holder.current()
        raise ValueError

    with pytest.raises(ValueError):
        in_ended_thread(work)
    assert len(ends) == 1


def test_every_listener_is_told(ends):
    more = []
    holder.listen(lambda: more.append(1))
    in_ended_thread(holder.current)
    assert len(ends) == len(more) == 1


def test_the_end_of_a_copy_in_a_child_tells_nothing(ends, monkeypatch):
    with monkeypatch.context() as patch:
        # as in a forked child, before its hook
        patch.setattr(process, "page", [0])
        ended = in_ended_thread(holder.current)
    assert ends == []
    assert not ended.alive


def test_no_listener_no_trouble(monkeypatch):
    monkeypatch.setattr(holder, "_listeners", [])
    assert not in_ended_thread(holder.current).alive


def test_many_threads_end_once_each(ends):
    barrier = threading.Barrier(40)

    def work():
        barrier.wait()
        return holder.current()

    with switching_often():
        tasks = [Task(work) for _ in range(40)]
        holders = {task.result() for task in tasks}
    gc.collect()
    assert len(holders) == 40
    assert not any(each.alive for each in holders)
    assert len(ends) == 40


@pytest.mark.parametrize("late", ["takes", "uses"])
def test_what_a_finaliser_has_is_taken_back(late):
    pool = ReaperPool(
        Driver().connect,
        pool_size=1,
        max_overflow=0,
        timeout=0,
        dead_connection_timeout=0,
        reaping_frequency=None,
    )
    kept = []

    def use():
        if late == "takes":
            kept.append(pool.connect())
        else:
            kept[0].rollback()

    def work():
        handle = pool.connect()
        if late == "takes":
            handle.close()
        else:
            kept.append(handle)
        local.value = Late(use)

    local = threading.local()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    pool.connect().close()
    assert pool.stats().closed == {"reaped": 1}
