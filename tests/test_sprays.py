"""Exceptions out of nowhere: the bench in short, and what it has found."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import weakref

import pytest
import sqlalchemy.pool.base
from benches import ROOT
from sqlalchemy import create_engine
from sqlalchemy import event
from stub import Driver
from stub import Gate
from stub import Task
from stub import until

import sa_reaperpool
from benchmarks.remains import where_it_hangs
from sa_reaperpool import JoinEnded
from sa_reaperpool import ReaperPool
from sa_reaperpool.place import Place
from sa_reaperpool.queue import FairQueue


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="CPython 3.10 itself leaves a lock held if a signal's handler "
    "raises while another exception is leaving the lock's with block",
)
@pytest.mark.parametrize(
    "pool", ["ReaperPool", "ReaperPool, reservation=thread"]
)
def test_sprays_lose_nothing(pool):
    """A process of its own: for signals, and for what may hang."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sprays"]
        + ["--checkouts", "1500", "--seed", "1", "--show", "3"]
        + ["--threads", "5", "--pool", pool],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4" in done.stdout


class Ended(threading.Thread):
    """One of which CPython has lost the lock that join() waits for."""

    gate = None

    def join(self, timeout=None):
        self.gate()


def test_who_waits_for_a_thread_that_has_ended_does_not_hang_in_a_pool():
    ended = Ended()
    ended.gate = Gate()
    ended.start()
    threading.Thread.join(ended)
    waits = Task(ended.join)
    ended.gate.wait()
    assert where_it_hangs(waits) is None
    ended.gate.open()
    waits.result()


def test_who_waits_for_one_that_hangs_does():
    gate = Gate()
    hangs = Task(gate)
    gate.wait()
    waits = Task(hangs.join)
    until(lambda: "which waits for" in where_it_hangs(waits))
    assert "in wait" in where_it_hangs(waits).partition("which waits for")[2]
    gate.open()
    waits.result()


# what it has found


class Thing:
    pass


def taken(**options):
    queue = FairQueue(Thing, lambda thing: None, limit=2, **options)
    thing = queue.get_nowait()
    return queue, thing, queue.turn(thing)


def test_what_lies_in_the_inbox_can_be_withdrawn():
    """Its return was interrupted, and it is closed: nobody is to get it."""
    queue, thing, turn = taken()
    with queue._lock:
        queue.put(thing)
        assert queue.withdraw(thing, turn)
    queue.settle()
    assert queue.idle() == []
    queue.discard(thing)
    assert queue.live() == 0


def test_what_was_given_back_cannot_be_withdrawn():
    queue, thing, turn = taken()
    queue.put(thing)
    assert not queue.withdraw(thing, turn)
    assert queue.idle() == [thing]


def test_what_was_withdrawn_cannot_be_so_again():
    queue, thing, turn = taken()
    assert queue.withdraw(thing, turn)
    assert not queue.withdraw(thing, turn)


def test_what_is_given_twice_is_there_once():
    queue, thing, turn = taken()
    with queue._lock:
        queue.put(thing)
        queue.put(thing)
    queue.settle()
    assert queue.idle() == [thing]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_finaliser_returns_what_is_being_returned(monkeypatch):
    """Nothing is closed after it went back to the pool."""
    steps = []
    armed = []

    class Interrupted(weakref.finalize):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if armed:
                raise RuntimeError("on the last line of this")

    pool = ReaperPool(Driver().connect, 1, 0, reaping_frequency=None)
    for name in ("checkin", "invalidate", "close"):
        event.listen(pool, name, lambda *args, name=name: steps.append(name))
    handle = pool.connect()
    monkeypatch.setattr(
        sqlalchemy.pool.base.weakref, "finalize", Interrupted
    )
    armed.append(True)
    del handle
    gc.collect()
    armed.clear()
    assert steps == ["checkin"]
    assert pool.stats().idle == 1


def small_pool(**options):
    return ReaperPool(
        Driver().connect, 1, 0, timeout=20, reaping_frequency=None, **options
    )


def enter(block):
    """Leave a block without its end, as an exception can do there."""
    return block.__enter__()


def test_a_waiter_that_is_interrupted_twice(monkeypatch):
    """As it is served, and as it leaves the line."""
    pool = small_pool()
    handle = pool.connect()
    get = pool.queue.get

    def get_in_vain(*args):
        get(*args)
        raise KeyboardInterrupt

    def leave(place):
        raise KeyboardInterrupt

    gate = Gate()

    def wait():
        with pytest.raises(KeyboardInterrupt):
            pool.connect()
        gc.collect()
        # its thread lives
        gate()

    with monkeypatch.context() as patch:
        patch.setattr(pool.queue, "get", get_in_vain)
        patch.setattr(Place, "leave", leave)
        task = Task(wait)
        until(lambda: pool.stats().waiting == 1)
        handle.close()
        gate.wait()
    pool.connect(timeout=0).close()
    gate.open()
    task.result()


@pytest.mark.parametrize("reservation", ["explicit", "thread"])
def test_a_block_left_without_its_end_keeps_no_slot(reservation):
    pool = small_pool(reservation=reservation)
    enter(pool.with_connection()).cursor().close()
    # another thread gets it
    Task(lambda: pool.connect().close()).result()
    assert not pool.active_connection()
    with pool.with_connection() as handle:
        handle.cursor().close()
    assert pool.checkedout() == 0


@pytest.mark.parametrize("reservation", ["explicit", "thread"])
def test_its_own_thread_goes_on_with_another(reservation):
    pool = small_pool(reservation=reservation)
    left = enter(pool.with_connection())
    with pool.with_connection() as handle:
        assert handle is not left
        with pool.with_connection() as again:
            assert again is handle
    assert pool.checkedout() == 0


def test_a_block_that_joins_and_is_left_without_its_end():
    pool = small_pool(reservation="thread")
    outer = pool.connect()
    enter(pool.with_connection()).cursor().close()
    del outer
    Task(lambda: pool.connect().close()).result()
    assert pool.checkedout() == 0


def test_an_engines_block_left_without_its_end(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db",
        poolclass=ReaperPool,
        pool_size=1,
        max_overflow=0,
        reaping_frequency=None,
    )
    left = enter(sa_reaperpool.with_connection(engine))
    with sa_reaperpool.with_connection(engine) as connection:
        assert connection is not left
        connection.exec_driver_sql("select 1")
    assert engine.pool.checkedout() == 0
    enter(sa_reaperpool.with_connection(engine))
    Task(lambda: engine.connect().close()).result()
    assert engine.pool.checkedout() == 0


def test_a_join_whose_end_ends_the_base():
    """The newer join alone keeps the base, and lets go of it."""
    pool = small_pool(reservation="thread")
    base = pool.connect()
    older = pool.connect()
    newer = pool.connect()
    older.cursor().execute("insert")
    del base, older
    gc.collect()
    with pytest.raises(JoinEnded):
        newer.cursor().execute("insert")
    del newer
    gc.collect()
    assert pool.checkedout() == 0
