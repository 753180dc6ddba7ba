"""How engines, processes and their children end.

Each test is a program of its own, since what it shows belongs to a process
as a whole: its one reaper thread, its exit, its forks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from waiting import eventually

import sa_reaperpool
from postgresql.conftest import Observer

Program = Callable[..., Any]

# what all programs begin with
PROLOGUE = """
import gc
import json
import os
import sys
import threading
import time
import weakref

from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import Worker
from waiting import eventually
from waiting import in_a_thread_that_ends

from sa_reaperpool import ReaperPool

def make_engine(**options):
    options = {"pool_size": 5, "max_overflow": 0, "pool_timeout": 10} | options
    return create_engine(URL, poolclass=ReaperPool, **options)

def backend_of(connection):
    return connection.connection.driver_connection.info.backend_pid

def helpers():
    return sorted(
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("sa_reaperpool")
    )

def server_shows():
    with MONITOR.connect() as connection:
        return set(connection.scalars(text(
            "SELECT pid FROM pg_stat_activity WHERE application_name = :name"
        ), {"name": NAME}))

def new_monitor():
    from sqlalchemy.pool import NullPool
    return create_engine(MONITOR_URL, poolclass=NullPool)

MONITOR = new_monitor()
"""


@pytest.fixture
def program(postgres_url: str, driver: str) -> Program:
    """Runs a program to its end; it has to be clean, and may print JSON."""

    name = f"reaperpool-{uuid.uuid4().hex[:12]}"
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}")
    named = url.update_query_dict({"application_name": name})
    constants = {
        "URL": named.render_as_string(hide_password=False),
        "MONITOR_URL": url.render_as_string(hide_password=False),
        "NAME": name,
    }
    tests = Path(__file__).parent.parent
    package = Path(sa_reaperpool.__file__).parent.parent

    def run(source: str, **more: object) -> Any:
        lines = [f"{key} = {value!r}" for key, value in constants.items()]
        lines += [f"{key} = {value!r}" for key, value in more.items()]
        lines += [PROLOGUE, textwrap.dedent(source)]
        ended = subprocess.run(
            # forking with threads about is what this is about
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                "\n".join(lines),
            ],
            env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{tests}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
            text=True,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return json.loads(ended.stdout) if ended.stdout else None

    run.name = name  # type: ignore[attr-defined]
    return run


# dropped


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_idle": 2, "reaping_frequency": 0.02},
        {"max_age": 0.1, "keepalive": 0.05, "reaping_frequency": 0.02},
        {"dead_connection_timeout": 0.02},
        {"reaping_frequency": None},
    ],
    ids=str,
)
def test_dropped_engine(program: Program, options: dict[str, Any]) -> None:
    program(
        """
        engine = make_engine(**OPTIONS)
        connections = [engine.connect() for _ in range(3)]
        for connection in connections:
            connection.execute(text("SELECT 1"))
            connection.close()
        old = in_a_thread_that_ends(engine.connect)
        if "dead_connection_timeout" in OPTIONS:
            import logging
            logging.disable()
            eventually(lambda: engine.pool.stats().closed == {"reaped": 1})
        expected = ["sa_reaperpool reaper"]
        if OPTIONS.get("reaping_frequency", 20) is None:
            expected = []
        assert [n for n in helpers() if "helper" not in n] == expected
        assert server_shows()
        gone = [weakref.ref(engine), weakref.ref(engine.pool)]

        del engine, connections, connection, old
        def collected():
            gc.collect()
            return all(ref() is None for ref in gone)
        eventually(collected)
        eventually(lambda: not helpers())
        eventually(lambda: not server_shows())
        """,
        OPTIONS=options,
    )


def test_last_of_two_engines(program: Program) -> None:
    program(
        """
        engines = [make_engine(), make_engine()]
        for engine in engines:
            engine.connect().close()
        eventually(lambda: helpers() == ["sa_reaperpool reaper"])
        del engine
        engines.pop()
        gc.collect()
        eventually(lambda: len(server_shows()) == 1)
        assert helpers() == ["sa_reaperpool reaper"]
        engines.pop()
        gc.collect()
        eventually(lambda: not helpers())
        eventually(lambda: not server_shows())

        # and another begins anew
        engine = make_engine(dead_connection_timeout=0.05)
        import logging
        logging.disable()
        old = in_a_thread_that_ends(engine.connect)
        eventually(lambda: engine.pool.stats().closed == {"reaped": 1})
        assert helpers()[-1:] == ["sa_reaperpool reaper"]
        """
    )


def test_disposed_engine(program: Program) -> None:
    program(
        """
        engine = make_engine(reaping_frequency=0.05)
        pool = engine.pool
        held = engine.connect()
        engine.connect().close()
        pid = backend_of(held)
        pool.dispose()
        assert (pool.stats().in_use, pool.checkedout()) == (0, 0)
        eventually(lambda: server_shows() == {pid})

        # returned late, it is kept; the next round closes it
        assert held.scalar(text("SELECT 1")) == 1
        held.close()
        eventually(lambda: pool.stats().closed == {"shutdown": 2})
        eventually(lambda: server_shows() == set())
        """
    )


# interpreter exit

EXITS = {
    "held": "held = engine.connect(); held.execute(text('SELECT 1'))",
    "held by a session": "s = Session(engine); s.execute(text('SELECT 1'))",
    "idle": "engine.connect().close()",
    # which is reaped, and logged, if the exit takes that long
    "abandoned": """
import logging
logging.disable()
old = in_a_thread_that_ends(engine.connect)
""",
    "being reaped": """
import logging
logging.disable()
old = [in_a_thread_that_ends(engine.connect) for _ in range(3)]
eventually(lambda: engine.pool.stats().closed)
""",
    "kept by a module": """
sys.modules["json"].kept = engine.connect()
sys.modules["json"].kept.execute(text("SELECT 1"))
""",
    "in a cycle": "a = [engine.connect()]; a.append(a); del a",
    "threads that wait": """
held = [engine.connect() for _ in range(5)]
waiters = [Worker(engine.connect) for _ in range(3)]
eventually(lambda: engine.pool.stats().waiting == 3)
""",
    "threads that use": """
def use():
    while True:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
users = [Worker(use) for _ in range(3)]
eventually(lambda: engine.pool.stats().checkouts > 20)
""",
    "a running statement": """
connection = engine.connect()
slow = text("SELECT pg_sleep(600)")
running = Worker(lambda: connection.execute(slow))
eventually(lambda: engine.pool.leases()[0].in_transaction)
""",
    "busy upkeep": """
busy = make_engine(
    min_idle=5, max_age=0.02, reaping_frequency=0.005, keepalive=0.01
)
busy.connect().close()
eventually(lambda: busy.pool.stats().closed.get("age", 0) > 10)
""",
}


@pytest.mark.parametrize("what", EXITS)
@pytest.mark.parametrize("way", ["", "sys.exit(0)"])
def test_exit(
    program: Program, observer: Observer, what: str, way: str
) -> None:
    program(
        "engine = make_engine(\n"
        "    dead_connection_timeout=0.05, reaping_frequency=0.05\n"
        ")\n" + EXITS[what] + "\n" + way
    )

    if what != "a running statement":
        name = program.name  # type: ignore[attr-defined]
        sessions = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
        )
        eventually(lambda: not observer.rows(sessions, name))


# fork

FORK = """
def in_a_child(work):
    "What this gives in a forked child; it leaves without clean-up."
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            with open(write, "w") as file:
                json.dump(work(), file)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return json.loads(told)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork(program: Program, table: str) -> None:
    program(
        FORK
        + """
engine = make_engine(dead_connection_timeout=0.2, reaping_frequency=0.05)
held = engine.connect()
held.execute(text(f"INSERT INTO {TABLE} VALUES (1)"))
engine.connect().close()
mine = server_shows()
assert len(mine) == 2

# a second thread of the parent, that holds one as well, in a thread-local:
# those of other threads are destroyed as the child begins
taken, may_end = threading.Event(), threading.Event()
def hold():
    local = threading.local()
    local.handle = engine.raw_connection()
    with local.handle.cursor() as cursor:
        cursor.execute(f"INSERT INTO {TABLE} VALUES (2)")
    del cursor
    taken.set()
    may_end.wait(30)
    local.handle.commit()
    local.handle.close()
other = Worker(hold)
eventually(taken.is_set)
mine = server_shows()

def child():
    pids = []
    connections = [engine.connect() for _ in range(5)]
    for connection in connections:
        pids.append(connection.scalar(text("SELECT pg_backend_pid()")))
        assert backend_of(connection) == pids[-1]
    assert engine.pool.stats().in_use == 5
    for connection in connections:
        connection.close()
    # the child's reaper is at work too
    import logging
    logging.disable()
    old = in_a_thread_that_ends(engine.connect)
    eventually(lambda: engine.pool.stats().closed == {"reaped": 1})
    # the parent's handle is of no use here, and harmless
    try:
        held.execute(text("SELECT 1"))
    except Exception as error:
        told = type(error).__name__
    else:
        told = None
    held.close()
    gc.collect()
    return pids, told

pids, told = in_a_child(child)
assert len(set(pids)) == 5
assert mine.isdisjoint(pids)
assert told == "ConnectionReclaimed", told

# the parent goes on
assert held.scalar(text(f"SELECT count(*) FROM {TABLE}")) == 1
held.commit()
held.close()
may_end.set()
other.result()
with engine.connect() as connection:
    rows = connection.scalars(text(f"SELECT x FROM {TABLE} ORDER BY x"))
    assert rows.all() == [1, 2]
assert mine <= server_shows()
assert engine.pool.stats().closed == {}
""",
        TABLE=table,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_whose_child_ends_in_the_usual_way(
    program: Program, table: str
) -> None:
    program(
        """
        engine = make_engine()
        held = engine.connect()
        held.execute(text(f"INSERT INTO {TABLE} VALUES (1)"))
        engine.connect().close()
        mine = server_shows()
        child = os.fork()
        if not child:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            # its objects are collected, its exit functions run
            sys.exit()
        _, status = os.waitpid(child, 0)
        assert status == 0
        held.commit()
        held.close()
        with engine.connect() as connection:
            assert connection.scalar(text(f"SELECT x FROM {TABLE}")) == 1
        eventually(lambda: server_shows() == mine)
        """,
        TABLE=table,
    )
