"""A pool of clients that have nothing to do with a database.

The clients are those of a small server, which this starts itself: it keeps
counters, and takes one line for each command.  Run it; nothing else has to
be there::

    python examples/generic_client_pool.py

The same works for a Redis client, an FTP session, a serial line: whatever
is slow to open and must not be used by two threads at a time.
"""

from __future__ import annotations

import itertools
import logging
import socket
import socketserver
import sys
import threading
import time

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import CreatorError
from sa_reaperpool import ReaperPool
from sa_reaperpool import Wrapper

# the server: "ADD visits" is answered by the new count


class Counters(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Session)
        self.counts = {}
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.opened = self.said_goodbye = self.hung_up = 0


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        server = self.server
        with server.lock:
            number = next(server.numbers)
            server.opened += 1
        self.answer(number)
        for line in self.rfile:
            command, *words = line.decode().split()
            with server.lock:
                if command == "QUIT":
                    server.said_goodbye += 1
                    break
                count = server.counts.get(words[0], 0) + 1
                server.counts[words[0]] = count
            self.answer(count)
        else:
            with server.lock:
                server.hung_up += 1

    def answer(self, number):
        self.wfile.write(f"{number}\n".encode())


# the client: as one finds them, with no thought of pools


class Client:
    """Speaks to the server; of use to one thread at a time."""

    def __init__(self, host, port):
        self._socket = socket.create_connection((host, port), timeout=5)
        self._lines = self._socket.makefile("rw", newline="\n")
        self.number = int(self._lines.readline())

    def add(self, counter):
        self._lines.write(f"ADD {counter}\n")
        self._lines.flush()
        return int(self._lines.readline())

    def quit(self):
        try:
            self._lines.write("QUIT\n")
            self._lines.flush()
        finally:
            self._lines.close()
            self._socket.close()


# the program: the pool is made here, before it is known where the server is

pool = ReaperPool(
    pool_size=3,
    max_overflow=0,
    timeout=5,
    # clients have no rollback()
    reset_on_return=None,
    # and quit() where others have close()
    disconnect_with=Client.quit,
    # Far more, or the default, in a real program: seconds, not tenths.
    max_age=0.8,
    jitter=0,
    dead_connection_timeout=0.2,
    reaping_frequency=0.1,
    logging_name="counters",
)


def share(threads, each):
    """Many threads, few clients."""
    numbers = set()
    start = threading.Barrier(threads)

    def work():
        start.wait()
        for _ in range(each):
            with pool.connect() as client:
                client.add("shared")
                numbers.add(client.number)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(numbers)


def lose_one():
    """A thread that dies, and whose client nobody gives back."""
    lost = []
    thread = threading.Thread(
        target=lambda: lost.append(pool.connect()), name="careless"
    )
    thread.start()
    thread.join()
    return lost[0]


def until(condition, patience=10.0):
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("The pool did not do what this example shows.")
        time.sleep(0.01)


def main():
    # the pool's warnings, between the other lines
    logging.basicConfig(stream=sys.stdout, format="   the log: %(message)s")

    try:
        pool.connect()
    except CreatorError as error:
        print("1. Too early:", error)

    server = Counters()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address
    pool.connect_with(lambda: Client(host, port))
    print("2. Told how to connect; open so far:", server.opened)

    clients = share(threads=12, each=20)
    count = server.counts["shared"]
    print(f"3. 12 threads counted to {count} with {clients} clients")

    counters = Wrapper(pool)
    counters.add("visits")
    counters.add("visits")
    with counters.with_connection() as client:
        same = counters.number == counters.number == client.number
        visits = counters.add("visits")
    print(f"4. As one global object: {visits} visits;", end=" ")
    print("in a block, one client" if same else "in a block, several clients")

    lost = lose_one()
    print("5. A thread died with a client in its hands")
    until(lambda: pool.stats().closed.get("reaped"))
    try:
        lost.add("visits")
    except ConnectionReclaimed:
        print("   The pool has its place again; who kept it gets an error")

    before = server.opened
    until(lambda: pool.stats().idle == 0)
    with pool.connect() as client:
        new = client.number > before
    print("6. All grew too old and were closed;", end=" ")
    print("the next is a new one" if new else "the next is an old one")

    pool.dispose()
    until(lambda: server.said_goodbye + server.hung_up == server.opened)
    print(
        f"7. Closed: {server.said_goodbye} of the {server.opened} clients "
        "said goodbye to the server"
    )
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
