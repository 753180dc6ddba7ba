"""Forks at awkward moments: locks that are held, first connects, listeners.

What a child finds in the usual case is in test_fork.py.
"""

from __future__ import annotations

import gc
import linecache
import os
import sys
import threading
import weakref

import pytest
from forks import Child
from forks import TalkingDriver
from forks import a_pool
from forks import branch
from forks import forked
from forks import in_a_child
from forks import numbers
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy.pool import QueuePool
from stub import Gate
from stub import StubDialect
from stub import StubError
from stub import Task
from stub import in_ended_thread
from stub import until
from test_interruption import Interrupter

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool
from sa_reaperpool import adapter
from sa_reaperpool import fork
from sa_reaperpool import process
from sa_reaperpool.reaper import reaper

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # which says what this is about
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture
def driver():
    return TalkingDriver()


# locks


LOCKS = {
    "queue": lambda pool: pool.queue._lock,
    "tally": lambda pool: pool._tally._lock,
    "refill": lambda pool: pool._refill_lock,
    "configuring": lambda pool: pool._configuring,
    "reaper": lambda pool: reaper._lock,
    "crew": lambda pool: reaper._crew._lock,
    "fork": lambda pool: fork._lock,
}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_that_another_thread_holds(driver, name):
    pool = a_pool(
        driver, reaping_frequency=60, min_idle=1, max_connecting=1
    )
    pool.connect().close()
    gate = Gate()

    def hold():
        with LOCKS[name](pool):
            gate()

    task = Task(hold)
    gate.wait()

    def child():
        assert len(numbers(pool)) == 3
        pool.configure(max_age=3600)
        # a helper's work, so with the crew
        pool.keep(pool.connect())
        pool.flush()
        until(lambda: pool.stats().idle == 1)
        return True

    assert in_a_child(child)
    gate.open()
    task.result()


def every_lock(pool):
    return [
        name
        for owner in (pool, pool.queue, pool._tally, reaper)
        for name, value in vars(owner).items()
        if isinstance(value, (type(threading.Lock()), type(threading.RLock())))
    ]


def test_no_lock_is_missing_above(driver):
    names = every_lock(a_pool(driver))
    # its thread's own, which nobody else ever takes
    names.remove("_duty")
    assert len(names) == len(LOCKS) - 2


# the first connect


@pytest.mark.parametrize("poolclass", [QueuePool, ReaperPool])
def test_during_the_first_connect(tmp_path, monkeypatch, poolclass):
    """The second of the traps: SQLAlchemy's mutex stays held in the child."""
    engine = create_engine(
        f"sqlite:///{tmp_path / 'db'}", poolclass=poolclass
    )
    gate, parent = Gate(), os.getpid()
    initialise, initialised = engine.dialect.initialize, []

    def slowly(connection):
        if os.getpid() == parent:
            gate()
        initialised.append(os.getpid())
        initialise(connection)

    monkeypatch.setattr(engine.dialect, "initialize", slowly)
    task = Task(lambda: engine.connect().close())
    gate.wait()

    def child():
        use = threading.Thread(
            target=lambda: engine.connect().close(), daemon=True
        )
        use.start()
        use.join(1.0 if poolclass is QueuePool else None)
        if use.is_alive():
            return "hangs"
        # and it is initialised there as well, once
        engine.connect().close()
        return initialised == [os.getpid()]

    told = in_a_child(child)
    assert told == ("hangs" if poolclass is QueuePool else True)
    gate.open()
    task.result()
    assert initialised == [parent]
    engine.dispose()


def test_after_the_first_connect(tmp_path, monkeypatch):
    engine = create_engine(
        f"sqlite:///{tmp_path / 'db'}", poolclass=ReaperPool
    )
    engine.connect().close()
    calls = []
    monkeypatch.setattr(engine.dialect, "initialize", calls.append)

    def child():
        engine.connect().close()
        return len(calls)

    assert in_a_child(child) == 0
    engine.dispose()


def test_during_a_first_connect_listener(driver):
    pool = a_pool(driver)
    gate, parent = Gate(), os.getpid()

    @event.listens_for(pool, "first_connect")
    def once(connection, record):
        if os.getpid() == parent:
            gate()

    task = Task(numbers, pool)
    gate.wait()
    assert len(in_a_child(numbers, pool)) == 3
    gate.open()
    task.result()


# the reaper


def test_the_reaper_runs_in_the_child(driver):
    pool = a_pool(driver, reaping_frequency=60, dead_connection_timeout=0.05)
    pool.connect().close()

    def child():
        old = in_ended_thread(pool.connect)
        until(lambda: pool.stats().closed == {"reaped": 1})
        return old.is_valid

    assert in_a_child(child) is False
    assert pool.stats().closed == {}


def test_nothing_is_opened_before_the_childs_first_checkout(driver):
    pool = a_pool(driver, reaping_frequency=0.001, min_idle=2)
    pool.connect().close()
    until(lambda: pool.stats().idle >= 2)

    def child():
        before = driver.connects
        pool.flush()
        pool.refresh()
        pool.configure(max_age=60)
        # with no thread nothing is opened, now or later
        names = [thread.name for thread in threading.enumerate()]
        assert not [n for n in names if "sa_reaperpool" in n], names
        assert driver.connects == before
        pool.connect().close()
        until(lambda: pool.stats().idle >= 2)
        return True

    assert in_a_child(child)


def test_a_fork_in_one_of_the_reapers_threads(driver):
    pool = a_pool(driver, reaping_frequency=60, dead_connection_timeout=0)
    forked_there = []

    @event.listens_for(pool, "reap")
    def fork_there(lease, reason):
        forked_there.append(forked(numbers, pool))

    handle = in_ended_thread(pool.connect)
    until(lambda: forked_there)
    assert forked_there[0].result() == [2, 3, 4]
    assert not handle.is_valid


# forks in listeners, whose child goes on from there


@pytest.mark.parametrize("name", ["connect", "checkout"])
def test_a_fork_in_a_checkouts_listener(driver, name):
    pool = a_pool(driver)
    sides = []

    @event.listens_for(pool, name)
    def fork_here(*args):
        if not sides:
            sides.append(branch())

    handle = pool.connect()
    side = sides[0]
    if not isinstance(side, Child):
        try:
            number = handle.dbapi_connection.number
            handle.close()
            side([number, pool.stats().idle, pool.stats().in_use])
        except BaseException as error:
            side(error=repr(error))
    assert side.result() == [2, 1, 0]
    assert driver.heard() == []
    assert handle.dbapi_connection.number == 1
    handle.close()


def test_a_fork_in_a_returns_listener(driver):
    pool = a_pool(driver)
    sides = []
    handle = pool.connect()

    @event.listens_for(pool, "checkin")
    def fork_here(*args):
        if not sides:
            sides.append(branch())

    handle.close()
    side = sides[0]
    if not isinstance(side, Child):
        try:
            assert pool.stats().idle == 0
            side(numbers(pool))
        except BaseException as error:
            side(error=repr(error))
    assert side.result() == [2, 3, 4]
    assert driver.heard() == ["rollback"]
    assert numbers(pool, 1) == [1]


def test_a_listener_that_fails_in_the_child(driver):
    pool = a_pool(driver)
    sides = []

    @event.listens_for(pool, "checkout")
    def fork_here(*args):
        if not sides:
            sides.append(branch())
            if not isinstance(sides[0], Child):
                raise KeyboardInterrupt

    try:
        handle = pool.connect()
    except KeyboardInterrupt:
        sides[0](numbers(pool))
    assert sides[0].result() == [2, 3, 4]
    assert driver.heard() == []
    handle.close()


# forks in the midst of the short way, as by a signal's handler


ADAPTERS = os.path.dirname(adapter.__file__)


def _is_adapters(frame):
    return frame.f_code.co_filename.startswith(ADAPTERS)


class Forker:
    """Forks at the nth line of adapter/ that is run, and lets both go on.

    The parent first hears what its child gave.
    """

    def __init__(self, nth, forked_here=lambda line: True):
        self.nth = nth
        self.side = self.told = self.line = None
        self._wanted = forked_here

    def run(self, scenario):
        # up to 3.11 the collector may run within a line, and so may the
        # finaliser of what an earlier scenario has left; nobody forks there
        gc.disable()
        sys.settrace(self._trace)
        try:
            return scenario()
        finally:
            sys.settrace(None)
            gc.enable()

    def _trace(self, frame, event, arg):
        if self.line is None and _is_adapters(frame):
            return self._trace_line
        return None

    def _trace_line(self, frame, event, arg):
        if event == "line" and self.line is None:
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            self.nth -= self._wanted(line)
            if not self.nth:
                sys.settrace(None)
                self.line = f"{frame.f_lineno}: {line.strip()}"
                self.side = branch()
                if isinstance(self.side, Child):
                    self.told = self.side.result()
                return None
        return self._trace_line

    def in_child(self):
        return self.line is not None and not isinstance(self.side, Child)


def at_each_line(work):
    """Do this with forks at the first line, the second, and so on."""
    for nth in range(1, 1000):
        forker = Forker(nth)
        work(forker)
        if forker.line is None:
            break
    assert nth > 20


def own_connections(pool):
    """In a child: whether it has its own, all of them."""
    return min(numbers(pool)) > 1 and pool.stats().in_use == 0


def test_a_fork_while_a_pool_is_being_made():
    """At any line of what makes it known, as by a signal's handler."""
    places = ("_init_stock", "_be_known", "register")

    def fork_at(nth):
        sides = []

        def trace(frame, event, arg):
            nonlocal nth
            if event == "line" and frame.f_code.co_name in places:
                nth -= 1
                if not nth:
                    sys.settrace(None)
                    sides.append(branch())
                    return None
            return trace

        driver = TalkingDriver()
        # as in Forker
        gc.disable()
        sys.settrace(trace)
        try:
            pool = a_pool(driver)
        finally:
            sys.settrace(None)
            gc.enable()
        if not sides:
            return False
        [side] = sides
        if not isinstance(side, Child):
            try:
                pool.connect().close()
                mine = pool.connect()
                told = [
                    mine.dbapi_connection.number,
                    pool.stats().opened,
                    pool.process == os.getpid(),
                    fork.pools().count(pool),
                ]
                side(told)
            except BaseException as error:
                side(error=repr(error))
        assert side.result() == [1, 1, True, 1], nth
        assert fork.pools().count(pool) == 1
        return True

    nth = 1
    while fork_at(nth):
        nth += 1
    assert nth > 10


@pytest.mark.parametrize("way", ["connect", "check_out"])
def test_a_fork_at_any_line_of_a_checkout(way):
    def work(forker):
        driver = TalkingDriver()
        pool = a_pool(driver)
        pool.connect().close()
        driver.heard()
        connect = {
            "connect": pool.connect,
            "check_out": lambda: pool.check_out(None),
        }
        handle = forker.run(connect[way])
        if forker.in_child():
            try:
                number = handle.dbapi_connection.number
                handle.close()
                forker.side([number, own_connections(pool)])
            except BaseException as error:
                forker.side(error=repr(error))
        if forker.line is not None:
            assert forker.told == [2, True], forker.line
        assert driver.heard() == [], forker.line
        assert handle.dbapi_connection.number == 1
        handle.close()
        assert (pool.checkedin(), pool.queue.live()) == (1, 1)

    at_each_line(work)


def test_a_fork_at_any_line_of_a_checkout_of_what_is_not_fit():
    def work(forker):
        driver = TalkingDriver()
        pool = a_pool(driver)
        pool.connect().close()
        [record] = pool.idle_entries()
        record.outdated = "refreshed"
        driver.heard()
        frames = []
        pool.connect_at_length = lambda timeout: frames.append(timeout)
        forker.run(pool.connect)
        del pool.connect_at_length
        if forker.in_child():
            try:
                forker.side(own_connections(pool))
            except BaseException as error:
                forker.side(error=repr(error))
        assert forker.told in (True, None), forker.line
        assert driver.heard() == [], forker.line
        assert pool.idle_entries() == [record]

    at_each_line(work)


class OwnWay(StubDialect):
    def do_rollback(self, handle):
        handle.rollback()


RETURNS = {
    "plain": ({}, id),
    "a dialect": (lambda: {"dialect": StubDialect()}, id),
    "a dialect's own way": (lambda: {"dialect": OwnWay()}, id),
    "it does not count": ({}, lambda pool: pool.dispose()),
    "it may be too old": ({"max_age": 3600}, id),
}


@pytest.mark.parametrize("what", RETURNS)
def test_a_fork_at_any_line_of_a_return(what):
    options, before = RETURNS[what]

    def work(forker):
        driver = TalkingDriver()
        pool = a_pool(driver, **(options() if callable(options) else options))
        handle = pool.connect()
        before(pool)
        driver.heard()
        forker.run(handle.close)
        if forker.in_child():
            try:
                handle.close()
                del handle
                gc.collect()
                forker.side(own_connections(pool))
            except BaseException as error:
                forker.side(error=repr(error))
        assert forker.told in (True, None), forker.line
        assert driver.heard() == ["rollback"], forker.line
        assert (pool.checkedin(), pool.queue.live()) == (1, 1)

    at_each_line(work)


def test_a_fork_in_a_return_beside_one_in_the_queue(driver):
    """The child is not to wait for a lock that nobody lets go of there."""
    pool = a_pool(driver, pool_size=1, max_overflow=1)
    # one too many, for which the queue is rearranged
    handle, other = pool.connect(), pool.connect()
    other.close()
    gate = Gate()

    def hold():
        with pool.queue._lock:
            gate()

    forker = Forker(1, lambda line: "queue.rearrange(" in line)
    task = Task(hold)
    gate.wait()
    told = forker._trace_line

    def trace_line(*args):
        try:
            return told(*args)
        finally:
            if isinstance(forker.side, Child):
                gate.open()

    forker._trace_line = trace_line
    forker.run(handle.close)
    if forker.in_child():
        try:
            forker.side(min(numbers(pool, 2)) > 2)
        except BaseException as error:
            forker.side(error=repr(error))
    task.result()
    assert forker.told is True
    assert sorted(driver.heard()) == ["close", "rollback", "rollback"]
    assert pool.checkedin() == 1


def test_a_return_that_fails_in_the_child(driver):
    """It forks in the rollback, of which the child hears an error."""

    def reset(connection):
        sides.append(branch())
        if not isinstance(sides[0], Child):
            raise StubError("interrupted")

    sides = []
    pool = a_pool(driver)
    handle = pool.connect()
    pool.dispose()
    driver.when_reset = reset
    handle.close()
    driver.when_reset = lambda connection: None
    if not isinstance(sides[0], Child):
        try:
            del handle
            gc.collect()
            sides[0](own_connections(pool))
        except BaseException as error:
            sides[0](error=repr(error))
    assert sides[0].result() is True
    assert driver.heard() == ["rollback"]
    assert pool.checkedin() == 1


def test_a_return_in_a_child_without_the_hook(driver, monkeypatch):
    """As one that C code forked."""
    for options in ({}, {"max_age": 3600}):
        driver = TalkingDriver()
        pool = a_pool(driver, **options)
        handle = pool.connect()
        driver.heard()

        def child(pool=pool, handle=handle):
            # as the kernel leaves it, and the number as it was
            process.page[0] = 0
            handle.close()
            del handle
            gc.collect()
            return True

        monkeypatch.setattr(fork, "_catch_up", int)
        assert in_a_child(child)
        monkeypatch.undo()
        assert driver.heard() == []
        handle.close()


# a child that is interrupted as it begins, or whose hook was not called


def test_an_interruption_at_any_line(driver, monkeypatch):
    """Of what the child does first; here without a fork."""
    here = process.number
    for nth in range(1, 1000):
        pool = a_pool(driver)
        monkeypatch.setattr(fork, "_pools", {weakref.ref(pool): 1})
        monkeypatch.setattr(fork, "_inherited", [])
        held, idle = pool.connect(), pool.connect()
        idle.close()
        pool.process = process.number = -1
        process.page[0] = 0
        driver.heard()
        interrupter = Interrupter(nth)
        sys.settrace(interrupter.trace)
        try:
            fork._in_child()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if interrupter.where and "in _in_child" in interrupter.where:
            # at its very first lines: left to the first checkout
            process.check()
        assert process.number == pool.process == here, interrupter.where
        assert not process.forked(), interrupter.where
        with pytest.raises(ConnectionReclaimed):
            held.cursor()
        opened = driver.connects
        assert min(numbers(pool)) == opened + 1, interrupter.where
        assert "close" not in driver.heard()[:1], interrupter.where
        if interrupter.where is None:
            break
    assert nth > 30


def test_a_child_without_the_hook(driver, monkeypatch):
    """As one that C code forked."""
    pool = a_pool(driver)
    held, closed, idle = pool.connect(), pool.connect(), pool.connect()
    idle.close()
    dropped = [closed]
    driver.heard()
    with monkeypatch.context() as patch:
        patch.setattr(fork, "catch_up", lambda: None)
        patch.setattr(process, "forked", lambda: False)

        def child(first):
            patch.undo()
            if first == "use":
                with pytest.raises(ConnectionReclaimed):
                    held.cursor()
            elif first == "close":
                held.close()
            else:
                dropped.clear()
                gc.collect()
            return numbers(pool)

        for first in ("use", "close", "collect"):
            assert in_a_child(child, first) == [4, 5, 6]
    assert driver.heard() == []
