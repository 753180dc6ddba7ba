"""A pool without an engine, of objects that are no DBAPI connections."""

from __future__ import annotations

import logging
import pickle
import sqlite3
import time

import pytest
from clients import Client
from clients import Service
from clients import a_pool
from rounds import Clock
from rounds import work
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import InvalidRequestError
from stub import Driver
from stub import Gate
from stub import StubDialect
from stub import Task
from stub import in_ended_thread
from stub import switching_often
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import CreatorError
from sa_reaperpool import ReaperPool


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def numbers_of_all(pool):
    """The numbers of the clients that can be had at once."""
    handles = []
    try:
        while True:
            handles.append(pool.connect(timeout=0))
    except CheckoutTimeout:
        return [handle.number for handle in handles]
    finally:
        for handle in handles:
            handle.close()


def waiter(pool):
    """A thread that waits in line for a client."""

    def wait():
        with pool.connect(timeout=None) as client:
            return client.number

    waiting = pool.stats().waiting
    task = Task(wait)
    until(lambda: pool.stats().waiting == waiting + 1)
    return task


# before connect_with()


def test_checkout_before_connect_with(service):
    pool = a_pool(logging_name="mail")
    with pytest.raises(CreatorError, match="'mail' has nothing to open"):
        pool.connect()
    with pytest.raises(InvalidRequestError) as caught:
        pool.connect(timeout=5)
    assert "connect_with(creator)" in str(caught.value)
    assert caught.value.logging_name == "mail"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.logging_name) == (str(caught.value), "mail")

    pool.connect_with(service.open)
    assert numbers_of_all(pool) == [1, 2]


def test_checkout_before_connect_with_is_no_failed_connect(service):
    pool = a_pool(max_connecting=1)
    for _ in range(5):
        with pytest.raises(CreatorError):
            pool.connect()
    stats = pool.stats()
    assert (stats.connect_failures, stats.opened, stats.checkouts) == (0, 0, 0)
    assert (stats.opening, stats.in_use, stats.idle) == (0, 0, 0)
    assert dict(stats.closed) == {}


def test_many_checkouts_before_connect_with(service):
    """Whoever finds the only place taken does not wait for it."""
    pool = a_pool(pool_size=1, timeout=None)
    gate = Gate()

    def told():
        with pytest.raises(CreatorError):
            pool.connect()

    with switching_often():
        for task in [Task(told) for _ in range(8)]:
            task.result()
    # and one for sure, while another is in the midst of it
    refuse = pool.no_creator
    pool.no_creator = lambda: (gate(), refuse())[1]
    first = Task(told)
    gate.wait()
    pool.no_creator = refuse
    told()
    gate.open()
    first.result()
    pool.connect_with(service.open)
    assert numbers_of_all(pool) == [1]


def test_nothing_is_opened_in_advance_before_connect_with(
    service, clock, caplog
):
    pool = a_pool(min_idle=2, reaping_frequency=20)
    with pytest.raises(CreatorError):
        pool.connect()
    work(pool, clock, later=100)
    assert [record.message for record in caplog.records] == []
    assert not pool.started

    pool.connect_with(service.open)
    work(pool, clock, later=100)
    assert service.clients == []
    pool.connect().close()
    work(pool, clock, later=100)
    assert pool.stats().idle == 2


def test_wait_ready_before_connect_with(service, monkeypatch):
    def pause(seconds):
        raise AssertionError("it is of no use to try again")

    pool = a_pool(min_idle=2)
    monkeypatch.setattr(pool, "_pause", pause)
    with pytest.raises(CreatorError):
        pool.wait_ready(timeout=60)
    pool.connect_with(service.open)
    pool.wait_ready()
    assert pool.stats().idle == 2


# connect_with()


def test_connect_with_opens_nothing(service):
    pool = a_pool()
    pool.connect_with(service.open)
    assert service.clients == []
    pool.connect().close()
    assert len(service.clients) == 1


def test_connect_with_as_a_decorator(service):
    pool = a_pool()

    @pool.connect_with
    def open_client():
        return service.open()

    assert open_client is pool.creator
    assert numbers_of_all(pool) == [1, 2]


def test_connect_with_replaces_a_creator(service):
    pool = a_pool(service.open, pool_size=3)
    held, idle = pool.connect(), pool.connect()
    idle.close()

    newer = Service()
    pool.connect_with(newer.open)
    assert service.quits == [2]
    # who has one is not disturbed
    assert held.number == 1 and held.service is service
    with pool.connect() as client:
        assert client.service is newer
    held.close()
    assert service.quits == [2, 1]
    numbers_of_all(pool)
    assert len(service.clients) == 2
    assert len(newer.clients) == 3
    assert pool.stats().closed["refreshed"] == 2


def test_connect_with_while_the_older_creator_opens(service):
    gate = Gate()

    def slow():
        gate()
        return service.open()

    pool = a_pool(slow)
    task = Task(pool.connect)
    gate.wait()
    newer = Service()
    pool.connect_with(newer.open)
    gate.open()
    task.result().close()
    assert service.quits == [1]
    with pool.connect() as client:
        assert client.service is newer


def test_connect_with_just_before_the_older_creator_opens(
    service, monkeypatch
):
    pool = a_pool(service.open)
    newer = Service()
    connect = pool._connect

    def replaced_meanwhile(*args):
        pool.connect_with(newer.open)
        return connect(*args)

    monkeypatch.setattr(pool, "_connect", replaced_meanwhile)
    with pool.connect() as client:
        assert client.service is newer


def test_checkout_between_the_steps_of_connect_with(service, monkeypatch):
    """What the older creator opened at the last moment is replaced too."""
    pool = a_pool(service.open)
    use_creator = pool.use_creator
    handles = []

    def checkout_first(creator):
        handles.append(pool.connect())
        use_creator(creator)

    monkeypatch.setattr(pool, "use_creator", checkout_first)
    pool.connect_with(Service().open)
    handles.pop().close()
    assert service.quits == [1]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda url: ReaperPool().connect_with(url),
        lambda url: ReaperPool().connect_with(None),
        lambda url: ReaperPool(disconnect_with=url),
        lambda url: ReaperPool().disconnect_with(url),
    ],
)
def test_what_cannot_be_called_is_refused(attempt):
    with pytest.raises(ArgumentError) as caught:
        attempt("redis://:hunter2@cache")
    assert "allowed: a function that " in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("creator", [False, True])
def test_recreate_carries_creator_and_closer(service, creator):
    pool = a_pool(disconnect_with=None)
    if creator:
        pool.connect_with(service.open)
    pool.disconnect_with(Client.quit)
    copy = pool.recreate()
    if creator:
        assert copy.creator == service.open
    else:
        with pytest.raises(CreatorError):
            copy.connect()
        copy.connect_with(service.open)
    numbers_of_all(copy)
    copy.dispose()
    assert service.quits == [1, 2]


# disconnect_with()


def idle_one(pool, clock):
    pool.connect().close()
    assert pool.flush() == 1


def disposed(pool, clock):
    pool.connect().close()
    pool.dispose()


def returned_after_refresh(pool, clock):
    handle = pool.connect()
    pool.refresh()
    handle.close()


def too_old_at_return(pool, clock):
    handle = pool.connect()
    clock.now += 100
    handle.close()


def too_old_in_a_round(pool, clock):
    pool.connect().close()
    work(pool, clock, later=100)


def idle_for_too_long(pool, clock):
    pool.connect().close()
    work(pool, clock, later=60)


def surplus(pool, clock):
    first, second = pool.connect(), pool.connect()
    second.close()
    first.close()
    pool.flush()


def discarded(pool, clock):
    pool.connect().invalidate()


def reaped(pool, clock):
    # held on to, or it would be returned when it is collected
    kept.append(in_ended_thread(pool.connect))
    clock.now += 30
    assert pool.reap() == 1
    with pytest.raises(ConnectionReclaimed):
        kept.pop().echo()


def refused_by_a_listener(pool, clock):
    def refuse(*args):
        raise ZeroDivisionError

    event.listen(pool, "connect", refuse)
    with pytest.raises(ZeroDivisionError):
        pool.connect()
    event.remove(pool, "connect", refuse)


def interrupted(pool, clock):
    def interrupt(*args):
        raise KeyboardInterrupt

    event.listen(pool, "checkout", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.connect()
    event.remove(pool, "checkout", interrupt)


def reset_failed(pool, clock):
    def fail(*args):
        raise ZeroDivisionError

    event.listen(pool, "reset", fail)
    pool.connect().close()
    event.remove(pool, "reset", fail)


def detached(pool, clock):
    handle = pool.connect()
    handle.detach()
    handle.close()


def suspect(pool, clock):
    with pool.connect() as handle:
        handle.invalidate(soft=True)
    pool.connect().close()
    # and the one in its place
    pool.flush()


kept = []
WAYS = [
    idle_one,
    disposed,
    returned_after_refresh,
    too_old_at_return,
    too_old_in_a_round,
    idle_for_too_long,
    surplus,
    discarded,
    reaped,
    refused_by_a_listener,
    interrupted,
    reset_failed,
    detached,
    suspect,
]


def pool_for(way, *creator, **options):
    overflow = {"pool_size": 1, "max_overflow": 1}
    return a_pool(
        *creator,
        max_age=90,
        idle_timeout=50,
        **(overflow if way is surplus else {}),
        **options,
    )


class Closing(Client):
    def close(self):
        raise AssertionError("disconnect_with is to be called in its place")


@pytest.mark.parametrize("kind", [Client, Closing])
@pytest.mark.parametrize("way", WAYS)
def test_each_close_goes_its_own_way(way, kind, clock):
    service = Service(kind)
    pool = pool_for(way, service.open)
    way(pool, clock)
    assert sorted(service.quits) == [each.number for each in service.clients]
    assert sum(pool.stats().closed.values()) == len(service.quits)
    assert len(numbers_of_all(pool)) == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_close_that_fails_loses_no_slot(way, clock, service, caplog):
    def fail():
        raise OSError("the line is dead")

    pool = pool_for(way, service.open)
    service.when_quitting = fail
    way(pool, clock)
    failures = [
        record
        for record in caplog.records
        if record.exc_info and record.exc_info[0] is OSError
    ]
    assert len(failures) == len(service.quits) == len(service.clients)
    assert failures[0].message == "Exception closing connection <client 1>"
    assert failures[0].levelno == logging.ERROR
    assert len(numbers_of_all(pool)) == 2
    assert pool.checkedout() == 0


@pytest.mark.parametrize(
    "way", [discarded, too_old_at_return, returned_after_refresh]
)
@pytest.mark.parametrize("error", [None, OSError, KeyboardInterrupt])
def test_a_close_wakes_a_waiter(service, monkeypatch, way, error):
    pool = a_pool(service.open, pool_size=1, max_age=1000)
    handle = pool.connect()
    tasks = [waiter(pool), waiter(pool)]

    def fail():
        service.when_quitting = lambda: None
        if error is not None:
            raise error

    service.when_quitting = fail
    try:
        if way is discarded:
            handle.invalidate()
        elif way is returned_after_refresh:
            pool.refresh()
            handle.close()
        else:
            with monkeypatch.context() as patch:
                Clock(patch).now = time.monotonic() + 2000
                handle.close()
    except KeyboardInterrupt:
        assert error is KeyboardInterrupt
    else:
        assert error is not KeyboardInterrupt
    assert [task.result() for task in tasks] == [2, 2]
    assert service.quits[0] == 1 and set(service.quits) == {1}


def test_reaping_wakes_a_waiter(service):
    """The thread died while the other waited already."""
    pool = a_pool(
        service.open,
        pool_size=1,
        reaping_frequency=0.01,
        dead_connection_timeout=0,
    )
    gate, handles = Gate(), []

    def hold():
        handles.append(pool.connect())
        gate()

    holder = Task(hold)
    gate.wait()
    task = waiter(pool)
    gate.open()
    holder.result()
    assert task.result() == 2
    assert service.quits == [1]
    with pytest.raises(ConnectionReclaimed):
        handles[0].echo()


def test_disconnect_with_later(service):
    pool = a_pool(service.open, disconnect_with=None)
    pool.connect().close()

    @pool.disconnect_with
    def quit_politely(client):
        client.quit()

    assert callable(quit_politely)
    pool.flush()
    assert service.quits == [1]


def test_disconnect_with_none_means_close():
    driver, closed = Driver(), []
    pool = a_pool(driver.connect, disconnect_with=closed.append)
    pool.connect().invalidate()
    assert [each.number for each in closed] == [1]
    assert len(driver.open_ones) == 1
    pool.disconnect_with(None)
    pool.connect().invalidate()
    assert [each.number for each in driver.open_ones] == [1]
    assert len(closed) == 1


def test_neither_close_nor_disconnect_with(service, caplog):
    """Said in the log, as SQLAlchemy does, and nothing is lost."""
    pool = a_pool(service.open, disconnect_with=None)
    pool.connect().invalidate()
    assert "has no attribute 'close'" in caplog.text
    assert numbers_of_all(pool) == [2, 3]


@pytest.mark.parametrize("plugin", [False, True])
def test_disconnect_with_beside_an_engine(tmp_path, plugin):
    closed = []

    def close(connection):
        closed.append(connection)
        connection.close()

    how = {"plugins": ["reaperpool"]} if plugin else {"poolclass": ReaperPool}
    engine = create_engine(
        f"sqlite:///{tmp_path}/a", disconnect_with=close, **how
    )
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
    engine.dispose()
    assert closed == [raw]
    with engine.connect():
        pass
    engine.dispose()
    assert len(closed) == 2


# what a checkout gives


def test_nothing_is_opened_before_the_first_checkout(service):
    pool = a_pool(service.open)
    assert service.clients == []
    with pool.connect() as client:
        assert client.number == 1
    with pool.connect() as client:
        assert client.number == 1
    assert len(service.clients) == 1


def test_a_handle_stands_for_the_object(service):
    pool = a_pool(service.open)
    with pool.connect() as client:
        assert client.echo("a", b="c") == (1, ("a",), {"b": "c"})
        assert client.driver_connection is service.clients[0]
        assert client.dbapi_connection is service.clients[0]
        with pytest.raises(AttributeError, match="'Client' object has no"):
            client.ehco()
        assert pool.checkedout() == 1
    assert pool.checkedout() == 0


def test_overlapping_checkouts_differ(service):
    pool = a_pool(service.open)
    with pool.connect() as one, pool.connect() as other:
        assert {one.number, other.number} == {1, 2}
        with pytest.raises(CheckoutTimeout):
            pool.connect()


def test_the_block_gives_back_whatever_happens(service):
    pool = a_pool(service.open, pool_size=1)
    with pytest.raises(ZeroDivisionError):
        with pool.connect():
            raise ZeroDivisionError
    with pool.connect() as client:
        client.close()
        other = pool.connect()
    # somebody else's by then
    assert other.echo() == (1, (), {})
    assert pool.checkedout() == 1
    other.close()
    with pool.connect() as client:
        client.invalidate()
    assert service.quits == [1]
    with pool.connect() as client:
        assert client.number == 2
        client.detach()
    assert service.quits == [1, 2]
    assert numbers_of_all(pool) == [3]


def test_the_object_is_there_for_what_the_handle_has_itself(service):
    class WithInfo(Client):
        def info(self):
            return f"about {self.number}"

        def __getitem__(self, key):
            return key, self.number

    service.kind = WithInfo
    pool = a_pool(service.open)
    with pool.connect() as client:
        assert client.info == {}
        assert client.driver_connection.info() == "about 1"
        assert client.driver_connection["key"] == ("key", 1)
        with pytest.raises(TypeError):
            client["key"]


def test_time_limit_of_one_use(service):
    pool = a_pool(service.open, pool_size=1, timeout=None)
    with pool.connect():
        with pytest.raises(CheckoutTimeout) as caught:
            pool.connect(timeout=0.02)
        assert caught.value.limit == 0.02 <= caught.value.waited
        with pool.checkout_timeout(0.01):
            with pytest.raises(CheckoutTimeout) as caught:
                pool.connect()
        assert caught.value.limit == 0.01
        task = waiter(pool)
    assert task.result() == 1


def test_refresh_and_age_at_return(service, clock):
    pool = a_pool(service.open, max_age=10)
    with pool.connect():
        clock.now += 9
    with pool.connect() as client:
        assert client.number == 1
        clock.now += 1
    assert service.quits == [1]
    with pool.connect() as client:
        assert client.number == 2
        pool.refresh()
        assert client.echo() == (2, (), {})
    assert service.quits == [1, 2]
    assert numbers_of_all(pool) == [3, 4]


class Odd:
    """Empty, equal to nothing, not to be hashed, or asked this and that."""

    __hash__ = None

    def __init__(self, service, number):
        self.number = number
        self.service = service

    def __len__(self):
        return 0

    def __eq__(self, other):
        raise AssertionError("nobody is to compare clients")

    def quit(self):
        self.service.note_quit(self.number)


@pytest.mark.parametrize("way", WAYS)
def test_odd_objects(way, clock):
    service = Service(Odd)
    pool = pool_for(way, service.open, disconnect_with=Odd.quit)
    way(pool, clock)
    assert sorted(service.quits) == [each.number for each in service.clients]
    assert len(numbers_of_all(pool)) == 2


class Touchy(Client):
    """What other pools ask DBAPI connections for speaks to a server here."""

    touched = False

    def _touch(self):
        Touchy.touched = True

    info = in_transaction = closed = _sock = property(_touch)
    fileno = rollback = commit = property(_touch)


def test_other_threads_leave_a_client_alone(clock):
    """Its holder is in the midst of using it."""
    service = Service(Touchy)
    pool = a_pool(service.open, leak_timeout=1, keepalive=1)
    pool.connect().close()
    handle = in_ended_thread(pool.connect)
    assert pool.leases()[0].in_transaction is None
    work(pool, clock, later=100)
    assert pool.stats().closed["reaped"] == 1
    assert not Touchy.touched
    assert handle is not None


def test_a_driver_without_an_engine_is_asked(tmp_path):
    pool = ReaperPool(lambda: sqlite3.connect(tmp_path / "a"))
    with pool.connect() as connection:
        connection.cursor().execute("create table a (b)")
        connection.cursor().execute("insert into a values (1)")
        assert pool.leases()[0].in_transaction is True
    pool.dispose()


# nobody to ask


@pytest.mark.parametrize(
    "options", [{"liveness": "ping"}, {"pre_ping": True}, {}], ids=str
)
def test_no_ping_without_a_dialect(service, clock, options):
    pool = a_pool(service.open, keepalive=5, **options)
    for _ in range(3):
        pool.connect().close()
        work(pool, clock, later=100)
    assert numbers_of_all(pool) == [1, 2]
    assert service.quits == []


def test_a_dialect_that_comes_later_is_asked():
    """create_engine(pool=...) gives one to a pool that has none."""
    driver = Driver()
    pool = ReaperPool(driver.connect, pre_ping=True, reaping_frequency=None)
    pool._dialect = dialect = StubDialect()
    pool.connect().close()
    pool.connect().close()
    assert dialect.pings == [1]


# what cannot be pooled


@pytest.mark.parametrize(
    "given, method",
    [
        ({}, "rollback"),
        ({"reset_on_return": "rollback"}, "rollback"),
        ({"reset_on_return": "commit"}, "commit"),
    ],
    ids=str,
)
def test_objects_that_cannot_be_reset(service, given, method, caplog):
    """QueuePool closes each at its return, with an error in the log."""
    options = {"reset_on_return": True, **given}
    pool = a_pool(service.open, logging_name="mail", **options)
    for _ in range(5):
        with pytest.raises(CreatorError) as caught:
            pool.connect()
    assert f"by {method}()" in str(caught.value)
    assert "Client objects" in str(caught.value)
    assert "reset_on_return=None" in str(caught.value)
    assert caught.value.logging_name == "mail"
    assert service.quits == [1, 2, 3, 4, 5]
    assert pool.stats().idle == pool.stats().in_use == 0
    assert not caplog.records
    # full capacity for what can be reset
    driver = Driver()
    pool.connect_with(driver.connect)
    pool.disconnect_with(None)
    for handle in [pool.connect(), pool.connect()]:
        handle.close()
    assert [each.calls for each in driver.connections] == [[method]] * 2


def test_a_dialect_may_reset_in_a_way_of_its_own(service):
    class Resetting(StubDialect):
        def do_rollback(self, connection):
            resets.append(connection.number)

    resets = []
    pool = a_pool(service.open, reset_on_return=True, dialect=Resetting())
    pool.connect().close()
    assert resets == [1]
    assert service.quits == []


def test_wait_ready_does_not_retry_what_cannot_be_pooled(service):
    pool = a_pool(service.open, reset_on_return=True, min_idle=2)
    with pytest.raises(CreatorError):
        pool.wait_ready(timeout=60)
    assert service.quits == [1]


def test_a_creator_that_returns_nothing(service):
    pool = a_pool(lambda: None)
    with pytest.raises(CreatorError, match="returned None"):
        pool.connect()
    pool.connect_with(service.open)
    assert numbers_of_all(pool) == [1, 2]
    assert service.quits == []


@pytest.mark.parametrize("kind", [Client, Odd])
def test_a_storm_of_threads(kind):
    service = Service(kind)
    pool = a_pool(
        service.open,
        pool_size=2,
        max_overflow=1,
        timeout=None,
        disconnect_with=kind.quit,
    )
    used, shared = {}, []

    def work():
        for round in range(40):
            with pool.connect() as client:
                number = client.number
                if used.setdefault(number, client) is not client:
                    shared.append(number)
                used.pop(number, None)
                if round % 7 == 0:
                    client.invalidate()

    with switching_often():
        for task in [Task(work) for _ in range(8)]:
            task.result()
    assert shared == []
    assert len(numbers_of_all(pool)) == 3
    pool.dispose()
    assert sorted(service.quits) == list(range(1, len(service.clients) + 1))
