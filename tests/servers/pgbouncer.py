"""PgBouncer in front of a PostgreSQL, where the machine has its program."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

from .postgresql import DATABASE
from .postgresql import USER
from .postgresql import PostgreSQL
from .process import Keeper
from .process import ServerError
from .process import find_program
from .process import free_port

MODES = ("transaction", "session")
START_TIMEOUT = 60


class PgBouncer:
    """Runs while this object is open, and no longer.

    The databases that it offers are named after their :data:`MODES`.

    :param server: the PostgreSQL behind.
    :param sizes: connections to the server, for each mode.
    """

    def __init__(self, server: PostgreSQL, sizes: dict[str, int]) -> None:
        found = find_program("pgbouncer")
        if found is None:
            raise ServerError("no pgbouncer: install the package of that name")
        self._program = found
        self._server = server
        self._sizes = sizes
        self.port = free_port()
        self._started = False
        self._keeper = Keeper()
        try:
            # in clear, as it has to log in with it itself
            self._keeper.write("users", f'"{USER}" "{server.password}"\n')
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> Path:
        return self._keeper.folder

    def dsn(self, database: str = "pgbouncer") -> str:
        """What libpq takes; without a mode, of the admin console."""

        return (
            f"host=127.0.0.1 port={self.port} user={USER} "
            f"password={self._server.password} dbname={database}"
        )

    def url(self, mode: str, driver: str = "psycopg2") -> str:
        """What :func:`sqlalchemy.create_engine` takes."""

        return (
            f"postgresql+{driver}://{USER}:{self._server.password}"
            f"@127.0.0.1:{self.port}/{mode}"
        )

    def start(self) -> None:
        """Start it, on the port that it had before if any."""

        deadline = time.monotonic() + START_TIMEOUT
        while not self._try_start(deadline):
            if time.monotonic() > deadline:
                raise ServerError(f"PgBouncer does not start:\n{self.log()}")
            if not self._started:
                self.port = free_port()  # someone was quicker
        self._started = True

    def _try_start(self, deadline: float) -> bool:
        settings = self._keeper.write("pgbouncer.ini", self._settings())
        before = self.log().count("process up:")
        self._keeper.start([self._program, str(settings)])
        while time.monotonic() < deadline and self._keeper.poll() is None:
            if self.log().count("process up:") > before:
                return True
            threading.Event().wait(0.01)
        return False

    def stop(self) -> None:
        """Close all connections at once."""

        self._keeper.signal(signal.SIGTERM)

    def restart(self) -> None:
        self.stop()
        self.start()

    def log(self) -> str:
        return self._keeper.log()

    def close(self) -> None:
        self._keeper.close()

    def __enter__(self) -> PgBouncer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settings(self) -> str:
        databases = "".join(
            f"{mode} = host=127.0.0.1 port={self._server.port} "
            f"dbname={DATABASE} pool_mode={mode} pool_size={size}\n"
            for mode, size in self._sizes.items()
        )
        return (
            f"[databases]\n{databases}"
            "[pgbouncer]\n"
            "listen_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\n"
            "unix_socket_dir =\n"
            "auth_type = scram-sha-256\n"
            f"auth_file = {self.folder / 'users'}\n"
            f"admin_users = {USER}\n"
            # after a failed connect to the server it would wait for 15 s
            "server_login_retry = 0.05\n"
        )
