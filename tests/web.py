"""Real servers on 127.0.0.1 for the tests, and clients for them."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import missing
from stub import PATIENCE
from stub import until


def required(*modules: str) -> list:
    """These modules; the test is skipped if one is not installed."""
    found = []
    for name in modules:
        try:
            found.append(__import__(name))
        except ImportError:
            missing(f"the package {name} is not installed")
    return found


@contextmanager
def wsgi_server(app) -> Iterator[int]:
    """Werkzeug's, with a thread for each request; gives the port."""
    from werkzeug.serving import WSGIRequestHandler
    from werkzeug.serving import make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *args):
            pass

    server = make_server(
        "127.0.0.1", 0, app, threaded=True, request_handler=Quiet
    )
    # or its end would not wait for its threads
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


@contextmanager
def asgi_server(app, **options) -> Iterator[int]:
    """Uvicorn; gives the port."""
    import uvicorn

    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def get(port: int, path: str) -> tuple[int, bytes]:
    """One request, on a connection of its own."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.read()
    finally:
        client.close()


def hang_up(port: int, path: str) -> None:
    """Ask, read the first few bytes, and go away."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    client.request("GET", path)
    client.getresponse().read(1)
    client.sock.close() if client.sock else None
    client.close()


def get_many(port: int, paths, clients: int, each: int) -> Counter:
    """Many requests at a time; gives how often there was which answer."""
    answers: Counter = Counter()
    lock = threading.Lock()

    def client(number):
        for turn in range(each):
            path = paths[(number + turn) % len(paths)]
            answer = get(port, path)
            with lock:
                answers[(path, *answer)] += 1

    threads = [
        threading.Thread(target=client, args=(number,), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
        assert not thread.is_alive()
    return answers
