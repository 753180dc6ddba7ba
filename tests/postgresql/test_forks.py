"""Forks on a real server: the traps, and programs that fork their workers."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Child
from forks import branch
from forks import in_a_child
from sqlalchemy import Connection
from sqlalchemy import CursorResult
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from stub import Gate
from waiting import Worker
from waiting import eventually
from web import get
from web import required

import sa_reaperpool
from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

POOLS = [QueuePool, ReaperPool]


# the two traps


@pytest.mark.parametrize("poolclass", POOLS)
def test_a_session_in_another_threads_thread_local(
    engines: Engines,
    observer: Observer,
    table: str,
    driver: str,
    poolclass: type[QueuePool],
) -> None:
    """The parent's commit succeeds; with QueuePool its row is lost."""
    engine = engines(driver, poolclass=poolclass)
    gate = Gate()

    def work() -> None:
        local = threading.local()
        local.session = Session(engine)
        local.session.execute(text(f"INSERT INTO {table} VALUES (1)"))
        gate()
        local.session.commit()
        local.session.close()

    worker = Worker(work)
    gate.wait()
    # it goes in a cycle with its transaction
    in_a_child(gc.collect)
    gate.open()
    worker.result()

    rows = observer.rows(f"SELECT x FROM {table}")
    assert rows == ([] if poolclass is QueuePool else [(1,)])


@pytest.mark.parametrize("poolclass", POOLS)
def test_during_the_first_connect(
    engines: Engines, driver: str, poolclass: type[QueuePool]
) -> None:
    """With QueuePool the child waits for ever."""
    engine = engines(driver, poolclass=poolclass)
    gate, parent = Gate(), os.getpid()
    initialise = engine.dialect.initialize

    def slowly(connection: Any) -> None:
        if os.getpid() == parent:
            gate()
        initialise(connection)

    engine.dialect.initialize = slowly  # type: ignore[method-assign]
    worker = Worker(lambda: engine.connect().close())
    gate.wait()

    def child() -> str:
        use = threading.Thread(
            target=lambda: engine.connect().close(), daemon=True
        )
        use.start()
        use.join(2 if poolclass is QueuePool else None)
        if use.is_alive():
            return "hangs"
        # which the dialect learns by then
        return f"version {engine.dialect.server_version_info[0]}"

    told = in_a_child(child)
    gate.open()
    worker.result()
    version = engine.dialect.server_version_info[0]  # type: ignore[index]
    stock = poolclass is QueuePool
    assert told == ("hangs" if stock else f"version {version}")


def test_two_branches_of_a_program(
    engines: Engines, observer: Observer, table: str, driver: str
) -> None:
    """Parent, child and grandchild each write what they have begun."""
    engine = engines(driver, pool_size=2)

    def write(numbers: list[int]) -> list[int]:
        with engine.connect() as connection:
            pids = [backend_of(connection)]
            connection.execute(
                text(f"INSERT INTO {table} VALUES (:x)"), {"x": numbers[0]}
            )
            if numbers[1:]:
                pids += in_a_child(write, numbers[1:])
            connection.commit()
        return pids

    pids = write([1, 2, 3])
    assert len(set(pids)) == 3
    rows = observer.rows(f"SELECT x FROM {table} ORDER BY x")
    assert rows == [(1,), (2,), (3,)]


def streamed(connection: Connection) -> CursorResult[Any]:
    return connection.execution_options(
        stream_results=True, max_row_buffer=10
    ).execute(text("SELECT generate_series(1, 1000)"))


def test_a_streamed_result_whose_block_the_child_leaves(
    engines: Engines, driver: str
) -> None:
    """Its driver would have the server close the parent's cursor."""
    engine = engines(driver)
    child = None
    try:
        with engine.connect() as connection, streamed(connection) as result:
            found = [next(result)[0]]
            child = branch()
            if not isinstance(child, Child):
                raise SystemExit
            assert child.result() == "left"
            found += [x for (x,) in result]
            connection.commit()
    except SystemExit:
        child("left")  # type: ignore[operator]
    assert found == list(range(1, 1001))


def test_a_streamed_result_that_the_child_reads(
    engines: Engines, driver: str
) -> None:
    """It fails there, and the connection is replaced as any that broke."""
    engine = engines(driver)

    own = text("SELECT pg_backend_pid()")

    def child() -> object:
        with pytest.raises(ConnectionReclaimed):
            result.all()
        connection.rollback()
        return connection.scalar(own)

    with engine.connect() as connection:
        backend = connection.scalar(own)
        result = streamed(connection)
        found = [next(result)[0]]
        assert in_a_child(child) not in (None, backend)
        found += [x for (x,) in result]
    assert found == list(range(1, 1001))


def test_what_was_taken_out_of_a_handle(
    engines: Engines, observer: Observer, driver: str
) -> None:
    """The driver's connection and a cursor; the child even closes them."""
    engine = engines(driver)
    handle = engine.raw_connection()
    raw: Any = handle.driver_connection
    cursor: Any = handle.cursor()
    cursor.execute("CREATE TEMPORARY TABLE mine AS SELECT 1 AS x")

    def child() -> str:
        for use in (
            lambda: cursor.execute("DROP TABLE mine"),
            raw.rollback,
        ):
            with pytest.raises(engine.dialect.loaded_dbapi.Error):
                use()
        cursor.close()
        raw.close()
        return "closed"

    assert in_a_child(child) == "closed"
    cursor.execute("SELECT x FROM mine")
    assert cursor.fetchall() == [(1,)]
    handle.close()


# programs


@pytest.fixture
def environment(
    postgres_url: str, table: str, tmp_path: Path
) -> dict[str, str]:
    tests = Path(__file__).parent.parent
    package = Path(sa_reaperpool.__file__).parent.parent
    return {
        **os.environ,
        "PYTHONPATH": f"{package}{os.pathsep}{tests}",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        "FORKED_URL": postgres_url,
        "FORKED_TABLE": table,
        "FORKED_FOLDER": str(tmp_path),
    }


@pytest.fixture
def program(
    environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Starts a program; it is killed, with its children, if it stays."""
    started = []

    def start(*argv: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *argv],
                env=environment,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        started.append(process)
        return process, log

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check(
    answers: list[Any],
    parents: list[int],
    parent: int,
    observer: Observer,
    table: str,
) -> None:
    """Each process has spoken to server processes of its own."""
    spoken: dict[int, set[int]] = {}
    for process, backend in answers:
        spoken.setdefault(process, set()).add(backend)
    assert len(spoken) == 2 and parent not in spoken
    one, other = spoken.values()
    assert one.isdisjoint(other)
    assert (one | other).isdisjoint(parents)
    assert len(parents) >= 2
    # what the parent had begun, and committed at its end
    rows = {x for (x,) in observer.rows(f"SELECT x FROM {table}")}
    assert {parent * 10 + 1, parent * 10 + 2} <= rows
    assert set(range(1, 21)) <= rows


def stop(process: subprocess.Popen[bytes], log: Path) -> list[int]:
    """End a program in order; what its parent process had at the server."""
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    text = log.read_text()
    assert "finished" in text and "Traceback" not in text, text
    found = re.search(r"the parent's: (\[.*\])", text)
    assert found is not None, text
    parents: list[int] = json.loads(found[1])
    return parents


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(
    program: Any, observer: Observer, table: str, method: str
) -> None:
    process, log = program("forked_app", method)
    assert process.wait(60) == 0, log.read_text()
    told = json.loads(log.read_text())
    answers, parents = told["answers"], told["parents"]
    check(answers, parents, process.pid, observer, table)


@pytest.mark.slow
def test_gunicorn_with_preload(
    program: Any, observer: Observer, table: str
) -> None:
    required("gunicorn")
    process, log = program(
        *("gunicorn", "--config", "python:forked_app", "--bind"),
        *("127.0.0.1:0", "--workers", "2", "--threads", "2"),
        "forked_app:app",
    )

    def listening() -> Any:
        assert process.poll() is None, log.read_text()
        return re.search(r"Listening at: http://[^:]*:(\d+)", log.read_text())

    port = int(eventually(listening, 60)[1])
    answers: list[Any] = []
    turns = iter(range(1, 10_000))
    both = threading.Lock()

    def ask() -> None:
        # until either of the two has answered
        while len(answers) < 20 or len({a[0] for a in answers}) < 2:
            with both:
                number = next(turns)
            status, body = get(port, f"/{number}")
            assert status == 200, log.read_text()
            answers.append(json.loads(body))

    for client in [Worker(ask) for _ in range(4)]:
        client.result(60)
    parents = stop(process, log)
    check(answers, parents, process.pid, observer, table)


@pytest.mark.slow
def test_celery_prefork(
    program: Any,
    observer: Observer,
    table: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (celery,) = required("celery")
    for name in ("queue", "control", "results", "met"):
        (tmp_path / name).mkdir()
    process, log = program(
        *("celery", "-A", "forked_tasks", "worker", "--pool", "prefork"),
        *("--concurrency", "2", "--without-gossip", "--without-mingle"),
        *("--without-heartbeat", "--loglevel", "info"),
        *("-O", "fair", "--prefetch-multiplier", "1"),
    )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return "the parent's:" in log.read_text()

    eventually(ready, 60)
    app = celery.Celery(
        "client", broker="filesystem://", backend=f"file://{tmp_path}/results"
    )
    app.conf.broker_transport_options = {
        "data_folder_in": str(tmp_path / "queue"),
        "data_folder_out": str(tmp_path / "queue"),
        "control_folder": str(tmp_path / "control"),
    }
    sent = [app.send_task("answer", [number]) for number in range(1, 21)]
    answers = [task.get(timeout=60, interval=0.02) for task in sent]
    app.close()
    parents = stop(process, log)
    check(answers, parents, process.pid, observer, table)


# all at once, for a short while


@pytest.mark.slow
def test_the_benchmark(postgres_url: str) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.forks"),
            *(postgres_url, "--forks", "10", "--traces"),
        ],
        cwd=Path(__file__).parent.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    assert "10 forks" in ended.stdout
