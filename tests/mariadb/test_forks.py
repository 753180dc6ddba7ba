"""Forks, with PyMySQL on a real server: its cursors read as they end."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from forks import Child
from forks import branch
from forks import in_a_child
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import text
from stub import Gate
from waiting import Worker

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool
from sa_reaperpool import fork

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

ROWS = list(range(1, 20_001))


@pytest.fixture
def engine(mariadb_url: str) -> Iterator[Engine]:
    engine = create_engine(
        mariadb_url, poolclass=ReaperPool, pool_size=1, max_overflow=0
    )
    yield engine
    engine.dispose()


def streamed(connection):
    """More than its socket has room for."""
    return connection.execution_options(
        stream_results=True, max_row_buffer=10
    ).execute(text("SELECT seq, repeat('x', 200) FROM seq_1_to_20000"))


def test_a_streamed_result_whose_block_the_child_leaves(engine):
    child = None
    try:
        with engine.connect() as connection, streamed(connection) as result:
            found = [next(result)[0]]
            child = branch()
            if not isinstance(child, Child):
                raise SystemExit
            assert child.result() == "left"
            found += [x for x, _ in result]
    except SystemExit:
        child("left")
    assert found == ROWS


def test_a_streamed_result_that_the_child_lets_go_of(engine):
    """Not even the driver's noise about it is heard."""
    noise = []

    def child():

        sys.unraisablehook = lambda what: noise.append(str(what.exc_value))
        kept.clear()
        gc.collect()
        return noise

    with engine.connect() as connection:
        kept = [streamed(connection)]
        found = [next(kept[0])[0]]
        assert in_a_child(child) == []
        found += [x for x, _ in kept[0]]
    assert found == ROWS


def test_a_streamed_result_in_another_threads_thread_local(engine):
    """It goes in the child before any hook is called there."""
    gate = Gate()

    def work():
        local = threading.local()
        with engine.connect() as connection:
            local.result = streamed(connection)
            found = [next(local.result)[0]]
            gate()
            return found + [x for x, _ in local.result]

    worker = Worker(work)
    gate.wait()
    assert in_a_child(lambda: "ended") == "ended"
    assert fork._held == {}
    gate.open()
    assert worker.result() == ROWS


def test_a_streamed_result_that_the_child_reads(engine):
    def child():
        with pytest.raises(ConnectionReclaimed):
            result.all()
        connection.rollback()
        return connection.execute(text("SELECT 1")).scalar()

    with engine.connect() as connection:
        result = streamed(connection)
        found = [next(result)[0]]
        assert in_a_child(child) == 1
        found += [x for x, _ in result]
    assert found == ROWS
