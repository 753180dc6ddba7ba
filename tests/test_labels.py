"""A label marks the leases that are taken inside its block."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import logging

import pytest
import rounds
from rounds import Clock
from sqlalchemy.exc import ArgumentError
from stub import Driver
from stub import Task
from stub import in_ended_thread

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool import label
from sa_reaperpool import labels


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {"reaping_frequency": None, "timeout": 0, **options}
    return ReaperPool(driver.connect, **options)


def taken(pool):
    """The label of a checkout that is made now."""
    handle = pool.connect()
    try:
        return pool.leases()[0].label
    finally:
        handle.close()


def test_marks_what_is_taken_inside(driver):
    pool = a_pool(driver)
    assert taken(pool) is None
    with label("GET /orders"):
        assert taken(pool) == "GET /orders"
        handle = pool.connect()
    assert pool.leases()[0].label == "GET /orders"
    handle.close()
    assert taken(pool) is None


def test_the_innermost_counts(driver):
    pool = a_pool(driver)
    with label("outer"):
        with label("inner"):
            assert taken(pool) == "inner"
        assert taken(pool) == "outer"


def test_ends_with_an_exception():
    with pytest.raises(KeyError):
        with label("outer"):
            raise KeyError()
    assert labels.current() is None


def test_decorates_a_function(driver):
    pool = a_pool(driver)

    @label("nightly")
    def job():
        return taken(pool)

    assert job() == job() == "nightly"


def test_decorates_a_coroutine(driver):
    """Which runs only later, and beside others."""
    pool = a_pool(driver)

    @label("nightly")
    async def job(*, name):
        before = taken(pool)
        await asyncio.sleep(0)
        with label(name):
            await asyncio.sleep(0)
            return before, taken(pool)

    async def main():
        both = await asyncio.gather(job(name="a"), job(name="b"))
        return both, taken(pool)

    assert asyncio.run(main()) == ([("nightly", "a"), ("nightly", "b")], None)
    assert job.__name__ == "job"


def test_decorates_no_generator():
    def parts():
        yield

    async def later():
        yield

    for function in (parts, later):
        with pytest.raises(ArgumentError, match="decorates no generator"):
            label("parts")(function)


def test_what_is_kept_of_it(driver):
    """Its own characters, and not too many."""

    class Markup(str):
        def __str__(self):
            return "<script>"

        def replace(self, *args):
            return "<script>"

    class Job(str, enum.Enum):
        NIGHTLY = "nightly"

    pool = a_pool(driver)
    for text, kept in [
        (Markup("bold"), "bold"),
        (Job.NIGHTLY, "nightly"),
        ("x" * 5_000_000, "x" * 500),
    ]:
        with label(text):
            found = taken(pool)
        assert found == kept and type(found) is str


def test_is_for_its_own_thread(driver):
    pool = a_pool(driver)
    with label("mine"):
        assert Task(taken, pool).result() is None
        inherited = contextvars.copy_context()
        assert Task(inherited.run, taken, pool).result() == "mine"


def test_left_in_another_context():
    """As a framework may leave what a request's generator has entered."""
    outer = label("outer")
    inner = label("inner")
    outer.__enter__()
    entered = contextvars.copy_context()
    entered.run(inner.__enter__)
    later = entered.copy()
    later.run(inner.__exit__, None, None, None)
    assert later.run(labels.current) == "outer"
    assert entered.run(labels.current) == "inner"
    outer.__exit__(None, None, None)
    assert labels.current() is None


@pytest.mark.parametrize("wrong", [None, b"GET", 7])
def test_takes_a_string(wrong):
    with pytest.raises(ArgumentError, match="takes a string, not a"):
        with label(wrong):
            pass


# who shows it


def test_an_error_shows_it(driver):
    pool = a_pool(driver, pool_size=1, max_overflow=0)
    with label("GET /orders\nSELECT"):
        handle = pool.connect()
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect()
    handle.close()
    assert ", label 'GET /orders SELECT', at " in str(caught.value)
    assert caught.value.leases[0].label == "GET /orders\nSELECT"


def test_a_reap_shows_it(driver, caplog):
    pool = a_pool(driver, dead_connection_timeout=0)

    def die():
        with label("import"):
            kept.append(pool.connect())

    kept = []
    in_ended_thread(die)
    with caplog.at_level(logging.WARNING):
        assert pool.reap() == 1
    assert ", label 'import'." in caplog.text
    with pytest.raises(Exception, match=", label 'import'"):
        kept[0].cursor()


def test_a_leak_shows_it(driver, caplog, monkeypatch):
    clock = Clock(monkeypatch)
    pool = rounds.a_pool(driver, leak_timeout=10)
    with label("report"):
        handle = pool.connect()
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        rounds.work(pool, clock, 11)
    [record] = caplog.records
    assert ", label 'report'.  " in record.getMessage()
    handle.close()
