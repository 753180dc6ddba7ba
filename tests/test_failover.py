"""What a server says of itself, and when a pool's connections are replaced.

Real servers that say it are in postgresql/ and mariadb/test_failover.py.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from types import SimpleNamespace

import pymysql
import pytest
from stub import Driver
from stub import Task
from stub import until

from sa_reaperpool import ReaperPool
from sa_reaperpool import failover
from sa_reaperpool.failover import Waves
from sa_reaperpool.failover import made_read_only_here
from sa_reaperpool.failover import word
from sa_reaperpool.reaper import reaper


class Psycopg2Error(Exception):
    def __init__(self, text, pgcode=None):
        super().__init__(text)
        self.pgcode = pgcode


class PsycopgError(Exception):
    def __init__(self, text, sqlstate=None):
        super().__init__(text)
        self.sqlstate = sqlstate


class StatusError(pymysql.err.OperationalError):
    """A driver's error, derived from by somebody."""


READ_ONLY = "running with the --read-only option so it cannot execute this"


@pytest.mark.parametrize(
    "error, code",
    [
        (Psycopg2Error("terminating connection", "57P01"), "57P01"),
        (PsycopgError("terminating connection", "57P02"), "57P02"),
        (PsycopgError("cannot execute INSERT", "25006"), "25006"),
        (Psycopg2Error("FATAL:  the database system is starting up"), "57P03"),
        (PsycopgError("the database system is shutting down"), "57P03"),
        (Psycopg2Error("the database system is in fine fettle"), None),
        # somebody's text, with an error of its own
        (PsycopgError("the database system is starting up", "22000"), None),
        (Psycopg2Error("no such table", "42P01"), None),
        (Psycopg2Error("server closed the connection unexpectedly"), None),
        (pymysql.err.OperationalError(1290, READ_ONLY), "1290"),
        (
            pymysql.err.OperationalError(1290, "the --super-read-only option"),
            "1290",
        ),
        (
            pymysql.err.OperationalError(
                1290, "running with the --secure-file-priv option"
            ),
            None,
        ),
        (StatusError(1836, "Running in read-only mode"), "1836"),
        (pymysql.err.OperationalError(1792, "READ ONLY transaction"), None),
        (pymysql.err.OperationalError(1290), None),
        # not a driver's
        (ValueError(1836, "--read-only"), None),
        (Exception(), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_words(error, code):
    said = word(error)
    assert (said and said.code) == code


def status(standby, default):
    told = {
        "in_hot_standby": standby,
        "default_transaction_read_only": default,
    }
    return SimpleNamespace(
        info=SimpleNamespace(parameter_status=told.get), readonly=None
    )


@pytest.mark.parametrize(
    "connection, here",
    [
        (SimpleNamespace(readonly=True), True),
        (SimpleNamespace(read_only=True), True),
        (status("off", "off"), True),
        (status("on", "off"), False),
        (status("off", "on"), False),
        # PostgreSQL 13
        (status(None, None), False),
        (object(), False),
    ],
)
def test_who_made_it_read_only(connection, here):
    assert made_read_only_here(connection) is here


def test_waves():
    waves = Waves()
    # one a second at first, then ever fewer
    due = [now for now in range(1000, 1600) if waves.due(float(now))]
    assert [b - a for a, b in zip(due, due[1:])][:8] == [
        *(1, 2, 4, 8, 16, 32, 60, 60),
    ]
    assert waves.due(1599 + failover.QUIET)
    assert waves.due(1600 + failover.QUIET)
    assert not waves.due(1601 + failover.QUIET)


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(failover, "monotonic", lambda: clock.now)
    return clock


def a_pool(driver, **options):
    options = {"pool_size": 5, "reaping_frequency": None, **options}
    return ReaperPool(driver.connect, **options)


def fail(handle, error):
    def raise_it():
        raise error

    handle.dbapi_connection.commit = raise_it
    with pytest.raises(type(error)):
        handle.commit()


def test_all_are_replaced(driver, clock, caplog):
    pool = a_pool(driver)
    handles = [pool.connect() for _ in range(5)]
    for handle in handles[3:]:
        handle.close()

    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        fail(handles[0], Psycopg2Error("terminating", "57P01"))
    assert [record.getMessage() for record in caplog.records] == [
        "The server says that it is going down or starting up (57P01): all "
        "connections of the pool are replaced"
    ]
    assert pool.stats().closed == {"refreshed": 2}
    # those in use at their return
    for handle in handles[:3]:
        handle.close()
    assert pool.stats().closed == {"refreshed": 5}
    assert driver.open_ones == []
    assert pool.connect().dbapi_connection.number == 6


def test_what_is_no_word_of_the_servers(driver, clock):
    pool = a_pool(driver)
    handle = pool.connect()
    fail(handle, Psycopg2Error("duplicate key", "23505"))
    handle.close()
    assert pool.stats().closed == {}


def test_many_hear_it_at_once(driver, clock, caplog):
    pool = a_pool(driver, pool_size=20)
    together = threading.Barrier(20)

    def hear():
        handle = pool.connect()
        together.wait()
        # some hear it when there could be another wave already
        clock.now += 10
        fail(handle, Psycopg2Error("terminating", "57P01"))
        together.wait()
        handle.close()

    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        for task in [Task(hear) for _ in range(20)]:
            task.result()
    assert len(caplog.records) == 1
    assert pool.stats().closed == {"refreshed": 20}


def test_heard_again_on_newer_ones(driver, clock):
    pool = a_pool(driver)
    error = Psycopg2Error("cannot execute INSERT", "25006")

    def replaced():
        """Does another connection go as well?"""
        idle, handle = pool.connect(), pool.connect()
        number = handle.dbapi_connection.number
        idle.close()
        before = len(driver.open_ones)
        fail(handle, error)
        also = len(driver.open_ones) == before - 1
        handle.close()
        # that one always
        assert driver.connections[number - 1].closed
        return also

    assert replaced()
    assert not replaced()
    clock.now += failover.SHORTEST
    assert replaced()
    clock.now += failover.SHORTEST
    assert not replaced()
    clock.now += failover.QUIET
    assert replaced()


def test_a_connect_that_is_refused(driver, clock):
    pool = a_pool(driver)
    held = pool.connect()
    driver.then(Psycopg2Error("the database system is shutting down"))
    with pytest.raises(Psycopg2Error):
        pool.connect()
    held.close()
    assert pool.stats().closed == {"refreshed": 1}


def test_a_pool_that_heard_it_before_its_first_connect_may_go(driver):
    """No thread looks after it yet, who would do what it was told."""
    pool = a_pool(driver, reaping_frequency=3600)
    driver.then(Psycopg2Error("the database system is starting up"))
    with pytest.raises(Psycopg2Error):
        pool.connect()
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    # a thread that is there for another pool may have it for a moment
    until(lambda: gone() is None)


@pytest.mark.parametrize("when", ["heard", "refresh", "refresh before"])
def test_what_was_out_at_a_dispose_is_replaced_as_well(driver, clock, when):
    """Though it does not count, it would be lent again."""
    pool = a_pool(driver)
    handle = pool.connect()
    if when == "refresh before":
        pool.refresh()
    pool.dispose()
    if when == "refresh":
        pool.refresh()
    elif when == "heard":
        fail(handle, Psycopg2Error("cannot execute INSERT", "25006"))
    handle.close()
    assert driver.connections[0].closed
    handle = pool.connect()
    assert handle.dbapi_connection.number == 2
    handle.close()


@pytest.mark.parametrize("liveness", ["passive", "off"])
def test_an_outdated_one_is_not_lent(driver, clock, liveness):
    """Even before it is closed, which may take its time."""
    pool = a_pool(driver, liveness=liveness)
    pool.connect().close()
    pool.outdate()
    assert pool.stats().idle == 1
    handle = pool.connect()
    assert handle.dbapi_connection.number == 2
    assert driver.connections[0].closed
    handle.close()
    assert pool.stats().closed == {"refreshed": 1}


def test_a_helper_closes_where_there_is_one(driver, clock):
    pool = a_pool(driver, reaping_frequency=3600, min_idle=1)
    handle, idle = pool.connect(), pool.connect()
    idle.close()
    # its first round is over, and no other is due for an hour
    soon = time.monotonic() + 1800
    until(
        lambda: [
            at
            for ref, at in reaper._rounds.copy().items()
            if ref() is pool and at > soon
        ]
    )
    closed_by = []
    driver.when_closed = lambda connection: closed_by.append(
        threading.current_thread()
    )
    fail(handle, Psycopg2Error("terminating", "57P01"))
    until(lambda: pool.stats().closed.get("refreshed"))
    assert threading.current_thread() not in closed_by
    # and another is opened for min_idle
    until(
        lambda: [
            entry
            for entry in pool.idle_entries()
            if entry.connected and not entry.outdated
        ]
    )
    handle.close()


def test_trouble_with_an_error_is_not_told(driver, clock, monkeypatch, caplog):
    pool = a_pool(driver)
    handle = pool.connect()
    monkeypatch.setattr(failover, "word", lambda error: 1 / 0)
    fail(handle, Psycopg2Error("terminating", "57P01"))
    assert "ZeroDivisionError" in caplog.text
