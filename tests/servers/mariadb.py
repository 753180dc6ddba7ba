"""A MariaDB server of the tests' own, where the machine has its programs."""

from __future__ import annotations

import secrets
import signal
import socket
import threading
import time
from pathlib import Path

from .process import Keeper
from .process import ServerError
from .process import find_program
from .process import free_port

USER = "reaperpool"
DATABASE = "reaperpool"
START_TIMEOUT = 60


def programs() -> tuple[str, str] | None:
    """The paths of mariadb-install-db and mariadbd, or None."""

    install = find_program("mariadb-install-db", "mysql_install_db")
    server = find_program("mariadbd", "mysqld")
    return (install, server) if install and server else None


class MariaDB:
    """A server that runs while this object is open, and no longer."""

    def __init__(self, *, max_connections: int = 250) -> None:
        found = programs()
        if found is None:
            raise ServerError(
                "no MariaDB server programs (mariadbd, mariadb-install-db)"
                " on this machine: install the package mariadb-server"
            )
        install, self._server = found
        self.max_connections = max_connections
        self.password = secrets.token_hex(16)
        self.port = free_port()
        self.pid = 0
        self._keeper = Keeper()
        try:
            self._keeper.run(
                [
                    install,
                    "--no-defaults",
                    f"--datadir={self.folder / 'data'}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                ]
            )
            self._write_init_file()
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> Path:
        return self._keeper.folder

    def url(self, driver: str = "pymysql") -> str:
        """What :func:`sqlalchemy.create_engine` takes."""

        return (
            f"mysql+{driver}://{USER}:{self.password}"
            f"@127.0.0.1:{self.port}/{DATABASE}?charset=utf8mb4"
        )

    def start(self) -> None:
        """Start the server, on the port that it had before if any."""

        deadline = time.monotonic() + START_TIMEOUT
        while not self._try_start(deadline):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"MariaDB does not start:\n{self._keeper.log()}"
                )
            if not self.pid:
                self.port = free_port()  # someone was quicker

    def stop(self) -> None:
        """Shut down in order; sessions end."""

        self._keeper.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash does: clients find closed sockets."""

        self._keeper.signal(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def log(self) -> str:
        """What the server has logged until now."""

        return self._keeper.log()

    def close(self) -> None:
        """End the server and remove its folder."""

        self._keeper.close()

    def __enter__(self) -> MariaDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_init_file(self) -> None:
        # Read at each start, before the port opens.  The accounts that come
        # with a new database have no password.
        self._keeper.write(
            "init.sql",
            f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
            f"CREATE USER IF NOT EXISTS '{USER}'@'127.0.0.1'"
            f" IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1'"
            " WITH GRANT OPTION;\n"
            "DROP USER IF EXISTS 'root'@'127.0.0.1', 'root'@'::1';\n",
        )

    def _try_start(self, deadline: float) -> bool:
        pid = self._keeper.start(
            [
                self._server,
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                f"--socket={self.folder / 'socket'}",
                f"--pid-file={self.folder / 'pid'}",
                f"--init-file={self.folder / 'init.sql'}",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                f"--max-connections={self.max_connections}",
                "--innodb-buffer-pool-size=32M",
                # nothing here has to survive the machine
                "--innodb-flush-log-at-trx-commit=0",
            ]
        )
        while time.monotonic() < deadline:
            if self._keeper.poll() is not None:
                return False
            if self._greets():
                self.pid = pid
                return True
            threading.Event().wait(0.02)
        return False

    def _greets(self) -> bool:
        """MariaDB speaks first; a foreign program on the port would not."""

        try:
            address = ("127.0.0.1", self.port)
            with socket.create_connection(address, timeout=5) as client:
                return b"MariaDB" in client.recv(256)
        except OSError:
            return False
