"""The short way of a checkout and a return, and when it is not gone.

What SQLAlchemy and the pool do in many calls is written out in one function
each, for where all is as usual.  Whatever is not usual has to be noticed,
also if it becomes so between the two.
"""

from __future__ import annotations

import gc
import itertools
import linecache
import logging
import os
import sys
import threading
import time

import pytest
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy.dialects.mssql.base import MSDialect
from sqlalchemy.pool import Pool
from sqlalchemy.pool import QueuePool
from stub import Driver
from stub import Gate
from stub import StubDialect
from stub import StubError
from stub import Task
from stub import switching_often
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool import process
from sa_reaperpool.adapter import handles
from sa_reaperpool.adapter import short
from sa_reaperpool.lease import Lease
from sa_reaperpool.waiter import Waiter

LISTENED = ("checkout", "checkin", "reset")


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    """With an idle connection, and in use for long."""
    options = {
        "pool_size": 2,
        "max_overflow": 0,
        "timeout": 0,
        "reaping_frequency": None,
        **options,
    }
    pool = ReaperPool(driver.connect, **options)
    pool.connect().close()
    return pool


class Roads:
    """Which of the two the checkouts and returns of a pool have gone."""

    def __init__(self, monkeypatch, pool):
        self.gone = []
        at_length = pool.connect_at_length
        monkeypatch.setattr(
            pool,
            "connect_at_length",
            lambda timeout: self.gone.append("checkout") or at_length(timeout),
        )
        returned = handles._ConnectionFairy._close_special
        monkeypatch.setattr(
            handles._ConnectionFairy,
            "_close_special",
            lambda *args: self.gone.append("return") or returned(*args),
        )

    def long_ones(self):
        gone, self.gone = self.gone, []
        return gone


@pytest.fixture
def roads(monkeypatch):
    return lambda pool: Roads(monkeypatch, pool)


# when all is as usual


@pytest.mark.parametrize(
    "options", [{}, {"recycle": 3600}, {"max_age": 3600}, {"use_lifo": True}]
)
def test_the_usual_goes_the_short_way(driver, roads, options):
    pool = a_pool(driver, **options)
    gone = roads(pool)
    handle = pool.connect()
    handle.cursor().execute("SELECT 1")
    handle.commit()
    handle.close()
    assert gone.long_ones() == []
    assert driver.connects == 1


def test_so_does_an_engines(driver, roads, tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db", poolclass=ReaperPool
    )
    with engine.connect():
        pass
    gone = roads(engine.pool)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert gone.long_ones() == []
    engine.dispose()


def test_a_lease_is_the_same_by_either_way(driver):
    def fields(lease):
        names = [
            name
            for kind in Lease.__mro__
            for name in vars(kind).get("__slots__", ())
            if name != "__weakref__"
        ]
        return {name: getattr(lease, name) for name in names}

    pool = a_pool(driver)
    handles = [
        connect() for connect in (pool.connect, lambda: pool.check_out(None))
    ]
    short, long = [fields(handle.lease) for handle in handles]
    for name in ("entry", "turn", "taken", "touched", "_code", "_place"):
        assert type(short.pop(name)) is type(long.pop(name)), name
    assert short == long
    lines = [lease.where for lease in pool.leases()]
    assert all(f"in {fields.__qualname__}" not in line for line in lines)
    assert all(__file__ in line for line in lines)


def test_a_handle_is_the_same_by_either_way(driver):
    pool = a_pool(driver)
    short, long = pool.connect(), pool.check_out(None)
    for name in ("_pool", "_counter", "_echo", "is_valid", "is_detached"):
        assert getattr(short, name) == getattr(long, name), name
    assert short._connection_record is not long._connection_record
    for handle in (short, long):
        record = handle._connection_record
        assert record.dbapi_connection is handle.dbapi_connection
        assert record.in_use
    for handle in (short, long):
        handle.close()
        # as SQLAlchemy's own: a second close() does nothing
        handle.close()
        assert handle.dbapi_connection is None
        assert handle._connection_record is None
        assert not handle.is_valid
    assert pool.checkedin() == 2


def test_counted_all_the_same(driver):
    pool = a_pool(driver)
    for _ in range(2500):
        pool.connect().close()
    assert pool.stats().checkouts == 2501
    handle = pool.connect()
    assert (pool.stats().checkouts, pool.stats().in_use) == (2502, 1)
    handle.close()


def test_a_pool_in_which_nothing_happens_is_not_changed_by_looking(driver):
    pool = a_pool(driver)
    assert pool.stats() == pool.stats()


# when somebody listens


@pytest.mark.parametrize("name", LISTENED)
@pytest.mark.parametrize("whose", ["pool", "ReaperPool", "Pool"])
def test_who_begins_to_listen_is_told_from_then_on(driver, name, whose):
    pool = a_pool(driver)
    target = {"pool": pool, "ReaperPool": ReaperPool, "Pool": Pool}[whose]
    told = []

    def listener(*args):
        told.append(name)

    handle = None if name == "checkout" else pool.connect()
    event.listen(target, name, listener)
    try:
        (handle or pool.connect()).close()
        assert told == [name]
        pool.connect().close()
        assert told == [name, name]
    finally:
        event.remove(target, name, listener)
    pool.connect().close()
    assert told == [name, name]


def test_after_the_last_listener_it_is_the_short_way_again(driver, roads):
    def listener(*args):
        pass

    pool = a_pool(driver)
    gone = roads(pool)
    event.listen(pool, "checkout", listener)
    pool.connect().close()
    assert gone.long_ones() == ["checkout", "return"]
    event.remove(pool, "checkout", listener)
    for _ in range(130):
        pool.connect().close()
    gone.long_ones()
    pool.connect().close()
    assert gone.long_ones() == []


def test_who_listens_to_an_engine_is_told(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db", poolclass=ReaperPool
    )
    with engine.connect():
        pass
    told = []
    for name in LISTENED:
        event.listen(engine, name, lambda *args, name=name: told.append(name))
    with engine.connect():
        assert told == ["checkout"]
    assert told == ["checkout", "reset", "checkin"]
    engine.dispose()


def test_who_listens_is_told_in_the_pool_made_after_it(driver):
    told = []
    pool = a_pool(driver)
    event.listen(pool, "checkin", lambda *args: told.append("checkin"))
    again = pool.recreate()
    again.connect().close()
    again.connect().close()
    assert told == ["checkin", "checkin"]


def test_the_log_tells_of_each_once_it_is_to(driver, caplog):
    pool = a_pool(driver)
    pool.connect().close()
    assert caplog.messages == []
    with caplog.at_level(logging.DEBUG, logger="sqlalchemy.pool"):
        pool.connect().close()
        told = [message.partition(">")[2] for message in caplog.messages]
    assert told == [
        " checked out from pool",
        " being returned to pool",
        " rollback-on-return",
    ]
    caplog.clear()
    pool.connect().close()
    assert caplog.messages == []


def test_a_pool_that_echoes(driver, caplog):
    pool = a_pool(driver, echo="debug")
    caplog.clear()
    pool.connect().close()
    assert "checked out from pool" in caplog.text


# resets


@pytest.mark.parametrize(
    "reset, calls",
    [("rollback", ["rollback"]), ("commit", ["commit"]), (None, [])],
)
def test_each_kind_of_reset(driver, reset, calls):
    pool = a_pool(driver, reset_on_return=reset)
    [connection] = driver.connections
    connection.calls.clear()
    pool.connect().close()
    assert connection.calls == calls


def test_what_a_connection_set_is_reset(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db", poolclass=ReaperPool, pool_size=1
    )
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        raw = connection.connection.dbapi_connection
        assert raw.isolation_level is None
    assert raw.isolation_level is not None
    engine.dispose()


@pytest.mark.parametrize("where", ["instance", "class"])
def test_a_dialects_own_way_to_roll_back(driver, monkeypatch, where):
    """Whether it is patched in, or was there before."""

    def do_rollback(*args):
        handle = args[-1]
        rolled_back.append((handle, handle.dbapi_connection))
        assert handle.is_valid
        handle.rollback()

    rolled_back = []
    dialect = StubDialect()
    pool = a_pool(driver, dialect=dialect)
    target = dialect if where == "instance" else StubDialect
    monkeypatch.setattr(target, "do_rollback", do_rollback)
    handle = pool.connect()
    handle.close()
    [connection] = driver.connections
    assert rolled_back == [(handle, connection)]
    assert connection.calls == ["rollback", "rollback"]
    assert (handle.dbapi_connection, handle.is_valid) == (None, False)
    assert pool.idle_entries()[0].dbapi_connection is connection


def test_a_dialects_own_way_that_fails(driver, caplog):
    def do_rollback(handle):
        handle.rollback()
        raise StubError("gone")

    dialect = StubDialect()
    pool = a_pool(driver, dialect=dialect)
    dialect.do_rollback = do_rollback
    handle = pool.connect()
    handle.close()
    assert "Exception during reset or similar" in caplog.text
    assert (handle.dbapi_connection, handle.is_valid) == (None, False)
    assert driver.open_ones == []
    assert pool.stats().closed == {"failed": 1}


def test_sql_servers_way_to_roll_back(driver):
    """Its dialect has one of its own, over whatever driver."""

    class DBAPI:
        paramstyle = "qmark"
        Error = ProgrammingError = StubError

    pool = a_pool(driver, dialect=MSDialect(dbapi=DBAPI))
    for _ in range(3):
        pool.connect().close()
    assert driver.connects == 1
    assert driver.connections[0].calls == ["rollback"] * 4


def test_a_dialect_that_spares_rollbacks(driver):
    class Sparing(StubDialect):
        def detect_autocommit_setting(self, dbapi_connection):
            # as psycopg's, say
            return getattr(dbapi_connection, "autocommit", False)

    dialect = Sparing()
    dialect.skip_autocommit_rollback = True
    pool = a_pool(driver, dialect=dialect)
    [connection] = driver.connections
    del connection.calls[:]
    for connection.autocommit in (True, False):
        pool.connect().close()
    assert driver.connects == 1
    assert connection.calls == ["rollback"]


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_an_engine_that_spares_rollbacks(tmp_path, isolation_level):
    options = {"isolation_level": isolation_level} if isolation_level else {}
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db",
        poolclass=ReaperPool,
        skip_autocommit_rollback=True,
        **options,
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
    opened = engine.pool.stats().opened
    for _ in range(3):
        raw = engine.raw_connection()
        raw.cursor().execute("INSERT INTO t VALUES (1)")
        raw.close()
    with engine.connect() as connection:
        [kept] = connection.exec_driver_sql("SELECT count(*) FROM t").one()
    assert kept == (3 if isolation_level else 0)
    assert engine.pool.stats().opened == opened
    assert engine.pool.stats().closed == {}
    engine.dispose()


def test_a_rollback_that_fails(driver, caplog):
    def fail(connection):
        raise StubError("gone")

    pool = a_pool(driver)
    handle = pool.connect()
    driver.when_reset = fail
    # as with QueuePool, this is nobody's who returns
    handle.close()
    driver.when_reset = lambda connection: None
    assert "Exception during reset or similar" in caplog.text
    assert driver.open_ones == []
    assert (pool.checkedout(), pool.stats().closed) == (0, {"failed": 1})
    again = pool.connect()
    assert again.dbapi_connection.number == 2
    again.close()


# what is not fit


UNFIT = {
    "invalidated softly": lambda pool, record: record.invalidate(soft=True),
    "invalidated": lambda pool, record: record.invalidate(),
    "all invalidated": lambda pool, record: pool._invalidate(record, None),
    "refreshed": lambda pool, record: setattr(
        record, "outdated", "refreshed"
    ),
    "too old": lambda pool, record: setattr(pool, "_recycle", 0),
}


@pytest.mark.parametrize("how", UNFIT)
def test_an_idle_one_that_is_to_be_replaced(driver, how):
    pool = a_pool(driver)
    [record] = pool.idle_entries()
    # the wall clock that SQLAlchemy compares
    record.starttime -= 10
    UNFIT[how](pool, record)
    handle = pool.connect()
    assert handle.dbapi_connection.number == 2
    handle.close()
    assert pool.checkedin() == 1


def test_one_that_is_not_fit_keeps_its_place(driver):
    """Those behind it are not lent before it."""
    pool = a_pool(driver, pool_size=3)
    handles = [pool.connect() for _ in range(3)]
    for handle in handles:
        handle.close()
    first, second, third = pool.idle_entries()
    first.outdated = "refreshed"
    assert pool.connect()._connection_record is first
    assert pool.connect()._connection_record is second
    assert pool.connect()._connection_record is third


def test_refreshed_while_it_is_out(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    pool.refresh()
    handle.close()
    assert driver.open_ones == []
    assert pool.stats().closed == {"refreshed": 1}


def test_disposed_while_it_is_out(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    pool.dispose()
    handle.close()
    # as QueuePool, which keeps it; it counts again
    assert (pool.checkedin(), pool.queue.live()) == (1, 1)
    assert pool.connect().dbapi_connection.number == 1


def test_shut_down_while_it_is_out(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    assert len(pool.shutdown(0)) == 1
    handle.close()
    assert driver.open_ones == []
    assert pool.shutdown(0) == ()


def test_one_too_many_is_closed(driver):
    pool = a_pool(driver, pool_size=1, max_overflow=2)
    handles = [pool.connect() for _ in range(3)]
    for handle in handles:
        handle.close()
    assert len(driver.open_ones) == 1
    assert pool.stats().closed == {"idle": 2}


def test_one_invalidated_while_it_is_out(driver):
    """By itself, and with nothing to be reset, as SQLAlchemy says."""
    pool = a_pool(driver)
    handle = pool.connect()
    record = handle._connection_record
    record.invalidate()
    handle._close_special(transaction_reset=True)
    assert pool.idle_entries() == [record] and record.slot.hollow
    assert pool.connect().dbapi_connection.number == 2


# beside others


IN_THE_WAY = {
    "somebody waits": lambda queue, slot: queue._waiters.append(Waiter()),
    "there may be too many": lambda queue, slot: setattr(
        queue, "_shedding", True
    ),
    "it has to be made anew": lambda queue, slot: setattr(
        slot, "hollow", True
    ),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_in_the_way_of_a_checkout(driver, monkeypatch, what):
    pool = a_pool(driver)
    [record] = pool.idle_entries()
    IN_THE_WAY[what](pool.queue, record.slot)
    monkeypatch.setattr(pool, "connect_at_length", lambda timeout: "long")
    assert pool.connect() == "long"


TO_BE_LOOKED_AT = {
    "somebody waits": lambda queue, slot: queue._waiters.append(Waiter()),
    "somebody waits for his turn": lambda queue, slot: queue._makers.append(
        Waiter(own=object())
    ),
    "something came in": lambda queue, slot: queue._inbox.append(None),
    "there may be too many": lambda queue, slot: setattr(
        queue, "_shedding", True
    ),
    "it does not count": lambda queue, slot: setattr(slot, "counted", False),
}


@pytest.mark.parametrize("what", TO_BE_LOOKED_AT)
@pytest.mark.parametrize("way", ["close", "lay"])
def test_what_is_looked_at_after_a_return(driver, monkeypatch, what, way):
    """As it may have come after the last look before it."""
    pool = a_pool(driver)
    handle = pool.connect()
    record = handle._connection_record
    TO_BE_LOOKED_AT[what](pool.queue, record.slot)
    looks = []
    monkeypatch.setattr(
        pool.queue, "rearrange", lambda *args: looks.append(args)
    )
    if way == "close":
        handle.close()
    else:
        pool.queue.lay(record)
    [looked_at] = looks
    assert looked_at[:2] == (record, record.slot)


def test_nobody_is_overtaken_by_the_short_way(driver):
    pool = a_pool(driver, pool_size=1, timeout=20)
    gate, order = Gate(), []

    def wait():
        handle = pool.connect()
        order.append("waited")
        gate()
        handle.close()

    handle = pool.connect()
    waiting = Task(wait)
    until(lambda: pool.stats().waiting == 1)
    handle.close()
    late = Task(lambda: order.append(pool.connect()))
    gate.wait()
    gate.open()
    waiting.result()
    late.result()
    assert order[0] == "waited"
    del order[:]


@pytest.fixture
def breaks(monkeypatch):
    """The times at which somebody let others run."""
    taken = []
    monkeypatch.setattr(short.time, "sleep", taken.append)
    return taken


def test_who_fights_over_the_interpreter_lets_others_run(driver, breaks):
    pool = a_pool(driver)
    one, other = object(), object()
    turns = itertools.count(1000, 1000)
    for number, holder in enumerate([one, other, one, other]):
        pool.let_others_run(number * 0.01, next(turns), holder)
        assert len(breaks) == number + 1


def test_one_alone_goes_on(driver, breaks):
    pool, alone = a_pool(driver), object()
    turns = itertools.count(1000, 1000)
    for number in range(10):
        pool.let_others_run(number * 0.01, next(turns), alone)
    # it is known to be alone from the second time on
    assert len(breaks) == 1


def test_who_does_other_things_meanwhile_goes_on(driver, breaks):
    pool = a_pool(driver)
    pool.let_others_run(1.0, 1000, object())
    del breaks[:]
    # some returns in that time
    pool.let_others_run(1.01, 1100, object())
    assert breaks == []


@pytest.mark.parametrize("seed", range(3))
def test_no_sleep_beside_an_idle_connection(driver, seed):
    """Who returns without the lock and who lines up see each other."""
    pool = a_pool(driver, pool_size=2, timeout=20)
    for handle in [pool.connect(), pool.connect()]:
        handle.close()
    done = itertools.count()

    def work():
        for _ in range(400):
            pool.connect().close()
            next(done)

    with switching_often():
        for task in [Task(work) for _ in range(6)]:
            # CheckoutTimeout after 20 seconds if one was overlooked
            task.result()
    assert next(done) == 2400
    assert (pool.checkedin(), pool.queue.live()) == (2, 2)
    assert driver.most_open == 2
    assert pool.stats().timeouts == 0


def test_each_connection_is_one_threads_at_a_time(driver):
    pool = a_pool(driver, pool_size=3, max_overflow=1, timeout=20)
    twice = []

    def work():
        for _ in range(300):
            handle = pool.connect()
            connection = handle.dbapi_connection
            connection.user = me = object()
            handle.cursor()
            if connection.user is not me:
                twice.append(connection)
            handle.close()

    with switching_often():
        for task in [Task(work) for _ in range(8)]:
            task.result()
    assert twice == []
    assert driver.most_open <= 4


@pytest.mark.parametrize("verb", ["dispose", "refresh", "flush", "shutdown"])
def test_returns_beside_an_end_of_all(driver, verb):
    """What comes back in that moment is neither lost nor kept open."""
    for _ in range(15):
        pool = a_pool(driver, pool_size=4)
        handles = [pool.connect() for _ in range(4)]
        start = threading.Barrier(5)

        def give_back(handle, start=start):
            start.wait()
            handle.close()

        def end(pool=pool, start=start):
            start.wait()
            getattr(pool, verb)()

        with switching_often():
            tasks = [Task(give_back, handle) for handle in handles]
            tasks.append(Task(end))
            for task in tasks:
                task.result()
        handles = None
        if verb == "shutdown":
            assert pool.shutdown(0) == ()
            assert pool.queue.live() == 0
        else:
            assert pool.checkedout() == 0
            assert pool.queue.live() == len(pool.idle_entries()) <= 4
            again = [pool.connect() for _ in range(4)]
            for handle in again:
                handle.close()
            pool.dispose()
        assert driver.open_ones == [], verb


def test_a_handle_that_is_collected(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    del handle
    gc.collect()
    assert (pool.checkedout(), pool.checkedin()) == (0, 1)


def test_a_closed_handle_is_nobodys_end(driver):
    """It may be kept for long, while others have the connection."""
    pool = a_pool(driver, pool_size=1)
    first = pool.connect()
    first.close()
    second = pool.connect()
    del first
    gc.collect()
    assert pool.checkedout() == 1
    assert second.is_valid


@pytest.mark.parametrize("hook", ["_do_get", "_do_return_conn"])
def test_a_derived_class_has_its_hooks_called(driver, hook):
    def called(self, *args):
        calls.append(hook)
        return getattr(super(Derived, self), hook)(*args)

    calls = []
    Derived = type("Derived", (ReaperPool,), {hook: called})
    pool = Derived(driver.connect, reaping_frequency=None)
    for times in (1, 2):
        pool.connect().close()
        assert calls == [hook] * times


def test_interrupted_when_it_is_somebody_elses_already(driver):
    """Taken back, and lent anew, on the last line of the checkout."""
    pool = a_pool(driver, pool_size=1)
    others = []

    class Interrupting:
        def __next__(self):
            pool.checkouts = itertools.count()

            def other():
                pool.disconnect()
                others.append(pool.connect())

            Task(other).result()
            raise KeyboardInterrupt

    pool.checkouts = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        pool.connect()
    [handle] = others
    handle.cursor().execute("SELECT 1")
    assert not handle.dbapi_connection.closed
    assert pool.checkedout() == 1
    handle.close()


# processes


def test_the_page_that_a_child_finds_empty():
    assert not process.forked()
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    ends = os.pipe()
    child = os.fork()
    if not child:
        # the hook has been called: it is this process's own now
        os.write(ends[1], bytes([process.forked()]))
        if os.fork():
            os.wait()
        else:
            os.write(ends[1], bytes([process.number == os.getpid()]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(ends[0], 2) == bytes([False, True])
    for end in ends:
        os.close(end)


def test_a_fork_without_pythons_hooks_is_noticed(monkeypatch):
    """The kernel empties the page, or the number is asked for."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    ctypes = pytest.importorskip("ctypes")
    ends = os.pipe()
    fork = ctypes.CDLL(None).fork
    child = fork()
    if not child:
        os.write(ends[1], bytes([process.forked()]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(ends[0], 1) == bytes([True])
    for end in ends:
        os.close(end)


def test_a_system_without_such_pages(monkeypatch):
    monkeypatch.setattr(process, "_MADV_WIPEONFORK", -1)
    page = process._new_page()
    assert page[0]
    page[0] = 1
    monkeypatch.setattr(process, "number", -1)
    assert not page[0]


# as QueuePool


def test_a_queuepools_program_sees_the_same(driver):
    def use(pool):
        handle = pool.connect()
        seen = [
            handle.dbapi_connection.number,
            handle._connection_record.in_use,
            handle.info,
            handle.is_valid,
        ]
        handle.info["mark"] = 1
        record = handle._connection_record
        handle.close()
        again = pool.connect()
        seen += [again.info, again._connection_record is record]
        seen += [record.last_connect_time <= time.time()]
        again.close()
        seen += [again.is_valid, again.dbapi_connection, record.in_use]
        return seen

    stock = QueuePool(Driver().connect)
    stock.connect().close()
    assert use(a_pool(driver)) == use(stock)


def test_an_interruption_once_another_has_it(driver):
    """A checkout has laid back what was not fit, and no longer owns it."""
    pool = a_pool(driver, pool_size=1)
    [entry] = pool.idle_entries()
    entry.outdated = "refreshed"
    others = []

    def interrupt(frame, event, arg):
        if frame.f_code is not short.ShortWay.connect.__code__:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and line.strip() == "entry = None":
            sys.settrace(None)
            others.append(Task(pool.connect).result())
            raise KeyboardInterrupt
        return interrupt

    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.connect()
    finally:
        sys.settrace(None)
    [other] = others
    other.cursor().close()
    assert not other.dbapi_connection.closed
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    other.close()
    assert (pool.checkedin(), pool.queue.live()) == (1, 1)
