"""Leases: who holds what, since when and from where."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import inspect
import os
import subprocess
import sys
import threading
from collections import defaultdict

import pytest
from sqlalchemy import create_engine
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy.orm import Session
from stub import Cursor
from stub import Driver
from stub import Gate
from stub import Task
from stub import in_ended_thread
from stub import switching_often

import sa_reaperpool
from sa_reaperpool import HolderInfo
from sa_reaperpool import LeaseInfo
from sa_reaperpool import ReaperPool
from sa_reaperpool import callers
from sa_reaperpool import lease as lease_module
from sa_reaperpool.callers import application_line
from sa_reaperpool.holder import Holder
from sa_reaperpool.lease import begun
from sa_reaperpool.lease import describe


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    given = Clock()
    monkeypatch.setattr(lease_module, "monotonic", given)
    return given


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def pool(driver):
    return ReaperPool(
        driver.connect,
        pool_size=1,
        max_overflow=0,
        timeout=0,
        reaping_frequency=None,
        dead_connection_timeout=0,
        logging_name="books",
    )


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db",
        poolclass=ReaperPool,
        pool_size=2,
        pool_reset_on_return="rollback",
        reaping_frequency=None,
        dead_connection_timeout=0,
    )
    yield engine
    engine.dispose()


class Handle:
    """Of nothing."""


def new_lease():
    """One that is no pool's; its handle is gone."""
    return begun(Handle(), None, None, 0, application_line())


def lease_of(pool):
    [lease] = pool._leases.values()
    return lease


def here(offset=0):
    frame = inspect.currentframe().f_back
    name = frame.f_code.co_name
    return f"{__file__}:{frame.f_lineno + offset} in {name}"


# when, and from where


def test_line_of_a_plain_checkout(pool):
    handle = pool.connect(); line = here()  # fmt: skip # noqa: E702
    assert pool.leases()[0].where == line
    handle.close()


def test_line_through_an_engine(engine):
    with engine.connect():
        assert engine.pool.leases()[0].where == here(-1)


def test_line_through_a_context_manager(engine):
    # contextlib is no application
    with engine.begin():
        assert engine.pool.leases()[0].where == here(-1)


def test_line_through_a_session(engine):
    with Session(engine) as session:
        session.execute(select(1))
        assert engine.pool.leases()[0].where == here(-1)


def test_line_of_the_applications_own_helper(engine):
    @contextlib.contextmanager
    def helper():
        with engine.connect() as connection:
            lines.append(here(-1))
            yield connection

    lines = []
    with helper():
        assert [engine.pool.leases()[0].where] == lines


def test_a_lease_without_an_application(monkeypatch):
    monkeypatch.setattr(callers, "INNER", defaultdict(lambda: True))
    assert new_lease().where == "an unknown line"


def test_times(clock, pool):
    handle = pool.connect()
    clock.now += 7
    [info] = pool.leases()
    assert (lease_of(pool).taken, lease_of(pool).used) == (1000, 1000)
    handle.cursor()
    assert (lease_of(pool).taken, lease_of(pool).used) == (1000, 1007)
    handle.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda handle: handle.cursor(),
        lambda handle: handle.commit(),
        lambda handle: handle.rollback(),
        lambda handle: handle.number,
    ],
)
def test_every_use_counts(clock, pool, use):
    handle = pool.connect()
    clock.now += 7
    use(handle)
    assert lease_of(pool).used == 1007


# whose


def test_taker_and_users_hold_it():
    def work(name):
        threading.current_thread().name = name
        if name == "taker":
            return new_lease()
        lease.touch()

    lease = in_ended_thread(work, "taker")
    assert lease.abandoned()
    gate = Gate()

    def use():
        work("user")
        gate()

    task = Task(use)
    gate.wait()
    assert not lease.abandoned()
    assert lease.names() == "'taker' (ended), 'user'"
    gate.open()
    task.result()
    assert lease.abandoned()
    assert lease.names() == "'taker' (ended), 'user' (ended)"


def test_not_abandoned_while_its_taker_lives():
    lease = new_lease()
    in_ended_thread(lease.touch)
    assert len(lease.holders) == 2
    assert not lease.abandoned()


def test_a_thread_is_entered_once():
    lease = new_lease()
    gate = Gate()

    def work():
        for _ in range(3):
            lease.touch()
        gate()
        lease.touch()

    task = Task(work)
    gate.wait()
    lease.touch()
    gate.open()
    task.result()
    assert len(lease.holders) == 2


def test_of_thousands_that_passed_only_a_few_are_kept():
    lease = new_lease()
    for _ in range(300):
        in_ended_thread(lease.touch)
    assert len(lease.holders) <= 10
    assert not lease.abandoned()


def test_two_threads_drop_the_ended_at_once():
    class Ended(Holder):
        def __init__(self):
            pass

        @property
        def alive(self):
            if self in lease.seen:
                # the other thread was faster
                lease.seen.remove(self)
            return False

    lease = new_lease()
    lease.seen += [Ended() for _ in range(9)]
    in_ended_thread(lease.touch)
    assert len(lease.holders) == 2
    assert not lease.abandoned()


def test_who_joins_while_the_ended_are_dropped_is_not_dropped():
    def churn():
        for _ in range(40):
            in_ended_thread(lease.touch)

    lease = in_ended_thread(new_lease)
    gate = Gate()

    def stay():
        lease.touch()
        gate()

    with switching_often():
        churners = [Task(churn) for _ in range(3)]
        staying = Task(stay)
        gate.wait()
        for task in churners:
            task.result()
    assert not lease.abandoned()
    gate.open()
    staying.result()
    assert lease.abandoned()


# its cursors


def test_cursors_are_watched_while_somebody_has_them(pool):
    handle = pool.connect()
    cursors = [handle.cursor() for _ in range(5)]
    lease = lease_of(pool)
    assert set(lease.cursors()) == set(cursors)
    kept = cursors[2]
    del cursors[:]
    gc.collect()
    assert lease.cursors() == [kept]
    last = handle.cursor()
    assert set(lease.cursors()) == {kept, last}


def test_a_long_lease_does_not_collect_references():
    lease = new_lease()
    kept = Cursor()
    lease.watch(kept)
    for _ in range(500):
        lease.watch(Cursor())
    assert len(lease.seen) <= 9
    assert lease.cursors() == [kept]


def test_cursor_without_weak_references():
    class Slotted:
        __slots__ = ()

    lease = new_lease()
    lease.watch(Slotted())
    assert lease.cursors() == []


# as others see it


def test_description(pool):
    handle = pool.connect()
    [info] = pool.leases()
    name = threading.current_thread().name
    assert info.holders == (HolderInfo(name, True),)
    assert info.in_transaction is None
    assert info.kept is False
    pool.keep(handle)
    assert pool.leases()[0].kept is True
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.kept = True
    assert isinstance(pool.leases(), tuple)


def test_description_tells_of_transactions(engine):
    with engine.connect() as connection:
        assert engine.pool.leases()[0].in_transaction is False
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (1)"))
        assert engine.pool.leases()[0].in_transaction is True


def test_description_at_a_given_time(clock):
    lease = new_lease()
    clock.now = 1010.0
    lease.touch()
    info = describe(lease, 1025.0, None)
    assert isinstance(info, LeaseInfo)
    assert (info.held_for, info.unused_for) == (25, 15)
    # used by another thread since the time was taken
    assert describe(lease, 1005.0, None).unused_for == 0


CRASHES = """
import gc
import sys

from stub import Driver

from sa_reaperpool import ReaperPool

gc.disable()


class Collects:
    def __del__(self):
        print("freed")
        gc.collect()


pool = ReaperPool(Driver().connect, 1, 0, reaping_frequency=None)
handle = pool.connect()
lease = handle.lease
# with the entry
handle.record_info["mine"] = Collects()
# as by an exception's traceback
garbage = [handle]
garbage.append(garbage)
del handle, garbage
pool.disconnect()
print("disconnected")
del lease
print("done")
"""


def test_garbage_is_collected_as_a_lease_is_freed():
    """What it frees runs finalisers, while its handle is garbage."""
    package = os.path.dirname(os.path.dirname(sa_reaperpool.__file__))
    places = [package, os.path.dirname(__file__)]
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CRASHES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "disconnected\nfreed\ndone\n"


def test_a_copy_of_a_handle_returns_nothing_of_it(pool):
    handle = pool.connect()
    other = copy.copy(handle)
    assert other is handle
    del other
    assert pool.checkedout() == 1
    handle.close()
