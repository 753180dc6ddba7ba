"""Errors: whose they are, what they carry, and what they never tell."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
from rounds import Clock
from rounds import work
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout
from stub import Driver
from stub import StubDialect
from stub import in_ended_thread

import sa_reaperpool
from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import HolderInfo
from sa_reaperpool import LeaseInfo
from sa_reaperpool import PoolDeadlock
from sa_reaperpool import ReaperPool
from sa_reaperpool import TooManyWaiting

SECRET = "hunter2"
LEASE = LeaseInfo((HolderInfo("a", True),), 2.0, 1.0, "a.py:1", None, False)


def timeout():
    return CheckoutTimeout(
        "none came free",
        waited=2.5,
        limit=2.0,
        size=5,
        overflow=10,
        waiting=3,
        reason="unreachable",
        connect_error="refused",
        leases=(LEASE,),
        logging_name="books",
    )


def reclaimed():
    return ConnectionReclaimed(
        "taken back",
        reason="abandoned",
        reclaimed_at=1234.5,
        logging_name="books",
    )


CARRIED = {
    timeout: {
        "waited": 2.5,
        "limit": 2.0,
        "size": 5,
        "overflow": 10,
        "waiting": 3,
        "reason": "unreachable",
        "connect_error": "refused",
        "leases": (LEASE,),
        "logging_name": "books",
    },
    reclaimed: {
        "reason": "abandoned",
        "reclaimed_at": 1234.5,
        "logging_name": "books",
        "connection_invalidated": True,
    },
}
WAYS = {
    "as it is": lambda error: error,
    "pickled": lambda error: pickle.loads(pickle.dumps(error)),
    "pickled by protocol 0": lambda error: pickle.loads(
        pickle.dumps(error, 0)
    ),
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
    "pickled twice": lambda error: pickle.loads(
        pickle.dumps(pickle.loads(pickle.dumps(error)))
    ),
}


def test_all_are_sqlalchemys():
    assert issubclass(CheckoutTimeout, SQLAlchemyTimeout)
    assert issubclass(PoolDeadlock, CheckoutTimeout)
    assert issubclass(TooManyWaiting, CheckoutTimeout)
    assert issubclass(ConnectionReclaimed, OperationalError)
    for each in (CheckoutTimeout, ConnectionReclaimed):
        assert issubclass(each, SQLAlchemyError)
        assert getattr(sa_reaperpool, each.__name__) is each


@pytest.mark.parametrize("make", CARRIED)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_they_carry(make, way):
    error = make()
    other = way(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert other.args == error.args
    for name, value in CARRIED[make].items():
        assert getattr(other, name) == value, name


def test_subclasses_keep_their_class():
    class Mine(CheckoutTimeout):
        pass

    error = timeout()
    error.__class__ = Mine
    assert copy.copy(error).waited == 2.5
    assert type(copy.copy(error)) is Mine


def test_messages():
    assert str(timeout()).startswith("none came free")
    assert "3o7r" in str(timeout())
    assert str(reclaimed()) == "taken back"


def test_raised_again_it_is_the_same_and_another():
    error = reclaimed()
    again = error.again()
    assert again is not error
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.fixture
def everything(caplog):
    """All log records of a test, at any level, as text with traces."""
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy", "sqlalchemy.pool", "sqlalchemy.engine"):
        caplog.set_level(logging.DEBUG, name)

    def told():
        formatter = logging.Formatter("%(name)s %(message)s")
        return "\n".join(
            formatter.format(record) + repr(record.args)
            for record in caplog.records
        )

    return told


class Down(Exception):
    """As a driver's own, without the address."""


class Module:
    """A driver's module, in whose connect() the password arrives."""

    Error = Down
    paramstyle = "qmark"

    def __init__(self):
        self.driver = Driver()
        self.passwords = set()

    def connect(self, **arguments):
        self.passwords.add(arguments["password"])
        return self.driver.connect()


class PasswordDialect(StubDialect):
    name = "stub"
    driver = "stub"
    supports_statement_cache = True

    def __init__(self, dbapi=None, **options):
        DefaultDialect.__init__(self, dbapi=dbapi, **options)
        self.pings = []
        self.dead = set()


def an_engine(module, **options):
    """An engine whose URL has a password."""
    registry.register("stubdb", __name__, "PasswordDialect")
    return create_engine(
        f"stubdb://app:{SECRET}@db.example/app?plugin=reaperpool",
        module=module,
        reaping_frequency=None,
        dead_connection_timeout=0,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0,
        **options,
    )


def test_no_password_is_told_anywhere(everything, monkeypatch):
    module = Module()
    engine = an_engine(module, leak_timeout=1, min_idle=1, keepalive=1)
    clock = Clock(monkeypatch)
    pool = engine.pool
    messages = []

    def collect(error):
        while error is not None:
            messages.extend([str(error), repr(error), repr(vars(error))])
            error = error.__cause__ or error.__context__

    with engine.connect() as connection:
        assert module.passwords == {SECRET}
        with pytest.raises(CheckoutTimeout) as timed_out:
            pool.connect()
        collect(timed_out.value)
        messages.append(repr((pool.leases(), pool.stats(), pool.status())))
        messages.append(repr((pool, connection.connection, engine)))
        work(pool, clock, 5)
        connection.invalidate()

    abandoned = in_ended_thread(engine.connect)
    assert pool.reap() == 1
    with pytest.raises(ConnectionReclaimed) as taken_back:
        abandoned.execute(text("SELECT 1"))
    collect(taken_back.value)

    module.driver.then(*[Down("no route")] * 9)
    with pytest.raises(DBAPIError) as refused:
        engine.connect()
    collect(refused.value)
    pool.flush()
    work(pool, clock, 500)
    with pytest.raises(Exception) as not_ready:
        pool.wait_ready()
    collect(not_ready.value)

    logged = everything()
    for part in ("checked out", "Possible leak", "took back", "min_idle"):
        assert part in logged, f"the test did not see {part!r}"
    assert SECRET not in logged
    assert SECRET not in "\n".join(messages)
    assert SECRET not in repr(pool.recreate())
    engine.dispose()


@pytest.mark.parametrize("slip", ["max_age=10?password=", "jitter=password="])
def test_no_password_in_the_refusal_of_an_option(slip):
    with pytest.raises(ArgumentError) as caught:
        create_engine(
            f"sqlite:////a.db?plugin=reaperpool&{slip}{SECRET}",
        )
    assert SECRET not in str(caught.value)


def test_no_driver_message_in_a_warning_about_the_refill(everything):
    """A driver's own words may hold the address it was given."""
    driver = Driver()
    pool = ReaperPool(driver.connect, min_idle=1, reaping_frequency=None)
    pool.connect().close()
    pool.flush()
    driver.then(ValueError(f"no server at user:{SECRET}@host"))
    pool.tend(float("inf"), lambda key, task: task())
    warnings = [
        line for line in everything().splitlines() if "min_idle" in line
    ]
    assert warnings and SECRET not in "\n".join(warnings)
