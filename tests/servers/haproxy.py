"""HAProxy in front of servers, where the machine has its program."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Mapping

from .process import Keeper
from .process import ServerError
from .process import find_program
from .process import free_port

START_TIMEOUT = 60


class HAProxy:
    """Runs while this object is open, and no longer.

    :param servers: the ports of those behind, by name; none gets
     connections before :meth:`enable`.

    .. attribute:: port

        where it listens; connections go to the servers in turn

    """

    def __init__(self, servers: Mapping[str, int]) -> None:
        found = find_program("haproxy")
        if found is None:
            raise ServerError("no haproxy: install the package of that name")
        self._program = found
        self._servers = dict(servers)
        self.port = free_port()
        self._started = False
        self._keeper = Keeper()
        try:
            self._start()
            self._started = True
        except BaseException:
            self.close()
            raise

    def enable(self, name: str) -> None:
        """Send new connections there too."""

        self._tell(f"set server database/{name} state ready")

    def disable(self, name: str) -> None:
        """Send no new connections there; those that are open stay so."""

        self._tell(f"set server database/{name} state maint")

    def cut(self, name: str) -> None:
        """Close the connections to this server, on both sides."""

        self._tell(f"shutdown sessions server database/{name}")

    def close(self) -> None:
        # of SIGQUIT, which ends other servers, it makes something else
        if self._started:
            self._keeper.signal(signal.SIGTERM)
        self._keeper.close()

    def __enter__(self) -> HAProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._try_start(deadline):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"HAProxy does not start:\n{self._keeper.log()}"
                )
            self.port = free_port()  # someone was quicker

    def _try_start(self, deadline: float) -> bool:
        settings = self._keeper.write("haproxy.cfg", self._settings())
        self._keeper.start([self._program, "-db", "-f", str(settings)])
        while time.monotonic() < deadline and self._keeper.poll() is None:
            if self._runs():
                return True
            threading.Event().wait(0.01)
        return False

    def _runs(self) -> bool:
        try:
            return "Uptime" in self._ask("show info")
        except OSError:
            return False

    def _tell(self, command: str) -> None:
        answer = self._ask(command).strip()
        if answer:
            raise ServerError(f"{command}: {answer}")

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(START_TIMEOUT)
            client.connect(str(self._keeper.folder / "admin"))
            client.sendall(command.encode() + b"\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        return answer.decode()

    def _settings(self) -> str:
        servers = "".join(
            f"  server {name} 127.0.0.1:{port} disabled\n"
            for name, port in self._servers.items()
        )
        return (
            "global\n"
            # so that their turns are strict
            "  nbthread 1\n"
            f"  stats socket {self._keeper.folder / 'admin'}"
            " mode 600 level admin\n"
            "defaults\n"
            "  mode tcp\n"
            "  timeout connect 10s\n"
            "  timeout client 1h\n"
            "  timeout server 1h\n"
            "listen database\n"
            f"  bind 127.0.0.1:{self.port}\n"
            "  balance roundrobin\n"
            f"{servers}"
        )
