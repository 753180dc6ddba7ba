"""An application whose engine is in use before its processes fork.

Served by gunicorn, run by Celery and by multiprocessing, as programs of
their own; see postgresql/test_forks.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time

from sqlalchemy import create_engine
from sqlalchemy import text

from sa_reaperpool import ReaperPool

engine = create_engine(
    os.environ["FORKED_URL"],
    poolclass=ReaperPool,
    pool_size=4,
    max_overflow=0,
    pool_timeout=15,
    reaping_frequency=0.05,
    min_idle=1,
)
INSERT = text(f"INSERT INTO {os.environ['FORKED_TABLE']} VALUES (:x)")


class Busy:
    """Two transactions that are open while others fork.

    One of the main thread's, and one that only another thread's local value
    refers to.
    """

    def __init__(self):
        self.process = os.getpid()
        self.connection = engine.connect()
        self.write(self.connection, 1)
        engine.connect().close()
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.hold, daemon=True)
        self.thread.start()
        assert self.begun.wait(20)

    def write(self, connection, number):
        connection.execute(INSERT, {"x": self.process * 10 + number})

    def hold(self):
        local = threading.local()
        local.connection = engine.connect()
        self.write(local.connection, 2)
        self.begun.set()
        self.may_end.wait()
        local.connection.commit()
        local.connection.close()

    def finish(self):
        """Commit both, in the process that began them."""
        assert os.getpid() == self.process
        self.connection.commit()
        self.connection.close()
        self.may_end.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def answer(number):
    """Write a row; the process that did it, and the server's."""
    with engine.begin() as connection:
        connection.execute(INSERT, {"x": number})
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    # so that others get a turn
    time.sleep(0.01)
    return os.getpid(), backend


def backends():
    """The server's processes that this one has, besides new ones."""
    return [
        entry.driver_connection.info.backend_pid
        for entry in engine.pool.queue.entries()
        if entry.connected
    ]


def app(environ, start_response):
    """WSGI: ``/NUMBER``."""
    told = json.dumps(answer(int(environ["PATH_INFO"].strip("/"))))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [told.encode()]


# not in what multiprocessing makes of the main program's file
busy = Busy() if __name__ == "forked_app" else None

# gunicorn reads this file as its configuration, and calls these
preload_app = True


def when_ready(server):
    print(f"the parent's: {json.dumps(backends())}", file=sys.stderr)


def on_exit(server):
    busy.finish()
    print("finished", file=sys.stderr)


def tell(numbers, queue):
    for number in numbers:
        queue.put(answer(number))


def main(method):
    """Children of each kind that multiprocessing knows."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["forked_app"])
    parents = backends()
    told = context.Queue()
    processes = [
        context.Process(target=tell, args=(numbers, told))
        for numbers in (range(1, 11), range(11, 21))
    ]
    for process in processes:
        process.start()
    answers = [told.get(timeout=60) for _ in range(20)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    busy.finish()
    json.dump({"answers": answers, "parents": parents}, sys.stdout)


if __name__ == "__main__":
    import forked_app

    forked_app.main(sys.argv[1])
