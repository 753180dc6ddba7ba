"""A relay between client and server that counts what the client sends."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes each connection on to a server, and counts.

    .. attribute:: sent

        bytes that clients have sent, all connections together

    .. attribute:: ended

        connections that one of the two has closed

    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self.ended = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            with self._lock:
                self._sockets += [client, server]
            for work in (self._upwards, self._downwards):
                threading.Thread(
                    target=work, args=(client, server), daemon=True
                ).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                with self._lock:
                    self.sent += len(data)
                server.sendall(data)
        _end(server)

    def _downwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _end(client)
        with self._lock:
            self.ended += 1

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                _end(each)
                each.close()


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
