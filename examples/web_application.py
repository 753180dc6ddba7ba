"""A web application whose requests reserve connections, and hold none after.

FastAPI runs endpoints that are plain functions in a few worker threads,
which live on when a request is over.  What one reserves and nobody gives
back, its thread would keep; ``ReleaseConnections`` gives it back at the end
of the request, however that ends.

Run it, with FastAPI and uvicorn installed; it serves itself, on a port that
is free, with an SQLite file in a temporary folder::

    pip install fastapi uvicorn
    python examples/web_application.py

If something is not as promised it says so, and exits with 1.
"""

# without `annotations` from __future__: FastAPI reads them

import http.client
import json
import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextlib import contextmanager

from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text

from sa_reaperpool import ReaperPool
from sa_reaperpool import ReleaseConnections
from sa_reaperpool import with_connection

try:
    import fastapi
    import uvicorn
except ImportError as error:
    sys.exit(f"{error}: this example needs fastapi and uvicorn")

PATIENCE = 60.0

TABLES = [
    "CREATE TABLE visits (page TEXT PRIMARY KEY, number INTEGER)",
    "CREATE TABLE journal (id INTEGER PRIMARY KEY, page TEXT)",
    "INSERT INTO visits VALUES ('garden', 0), ('attic', 0)",
]


# the application


class Visits:
    """What is done in the database, in parts that know nothing of others.

    Each asks for its thread's connection.  Within a block of an endpoint's
    that is the block's, with its transaction; nobody has to hand it on.
    """

    def __init__(self, engine):
        self.engine = engine

    def count(self, page):
        with with_connection(self.engine) as connection:
            connection.execute(
                text("UPDATE visits SET number = number + 1 WHERE page = :p"),
                {"p": page},
            )

    def write_down(self, page):
        with with_connection(self.engine) as connection:
            connection.execute(
                text("INSERT INTO journal (page) VALUES (:p)"), {"p": page}
            )

    def number(self, page):
        # The DBAPI's own, from the pool.  It is reserved from here on, and
        # nothing in this application releases it.
        connection = self.engine.pool.connection()
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT number FROM visits WHERE page = ?", [page])
            return cursor.fetchone()[0]


def make_application(engine, release=True):
    app = fastapi.FastAPI()
    visits = Visits(engine)
    if release:
        app.add_middleware(ReleaseConnections)

    @app.post("/{page}")
    def enter(page: str):
        with with_connection(engine) as connection, connection.begin():
            visits.count(page)
            visits.write_down(page)
            if page == "attic":
                # counted and written down it is, but not committed
                raise fastapi.HTTPException(403, "nobody goes there")
        return visits.number(page)

    @app.get("/{page}")
    def look(page: str):
        return visits.number(page)

    return app


def make_engine(folder):
    engine = create_engine(
        f"sqlite:///{folder}/visits.db",
        poolclass=ReaperPool,
        pool_size=3,
        max_overflow=0,
        pool_timeout=PATIENCE,
        # seconds that a writer waits for the one before
        connect_args={"timeout": PATIENCE},
    )
    with engine.begin() as connection:
        for statement in TABLES:
            connection.execute(text(statement))
    return engine


# a server, and those who ask it


@contextmanager
def served(app):
    """Gives the port."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "the server starts")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def ask(port, method, page):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with closing(client):
        client.request(method, f"/{page}")
        response = client.getresponse()
        return response.status, json.loads(response.read())


def ask_often(port, requests, at_a_time):
    """Gives how often there was which status."""
    with ThreadPoolExecutor(at_a_time) as clients:
        asked = [clients.submit(ask, port, *request) for request in requests]
        return Counter(each.result()[0] for each in asked)


# what is shown


def promise(kept, what):
    if not kept:
        sys.exit(f"Not as promised: {what}")


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        promise(time.monotonic() < deadline, what)
        time.sleep(0.01)


def with_it(engine, each=40):
    kinds = [("POST", "garden"), ("POST", "attic"), ("GET", "garden")]
    with served(make_application(engine)) as port:
        answers = ask_often(port, kinds * each, at_a_time=12)
        # an answer may be here a moment before its request's end is
        pool = engine.pool
        until(lambda: pool.checkedout() == 0, "nothing is held")
        print(f"1. {each * 3} requests, 12 at a time,", end=" ")
        print(f"on {pool.stats().opened} connections:", end=" ")
        print(f"{answers[200]} answered, {answers[403]} refused")
        print(f"   Connections still held: {pool.checkedout()}")
    promise(answers == {200: each * 2, 403: each}, "all are answered")
    promise(pool.stats().opened <= 3, "with no more than 3 connections")

    with engine.connect() as connection:
        counted, written = connection.execute(
            text(
                "SELECT (SELECT sum(number) FROM visits), "
                "(SELECT count(*) FROM journal)"
            )
        ).one()
    print(f"   Visits counted: {counted}, written down: {written}")
    promise(counted == written == each, "both or neither")


def without_it(engine):
    reaped = threading.Event()
    event.listen(engine.pool, "reap", lambda lease, reason: reaped.set())
    with served(make_application(engine, release=False)) as port:
        ask(port, "GET", "garden")
        leases = engine.pool.leases()
        print("2. Without ReleaseConnections, after one request more:")
        print(f"   Connections still held: {len(leases)}", end="")
        for lease in leases:
            where = lease.where.replace("\\", "/").rpartition("/")[2]
            print(f", by '{lease.holders[0].name}', from {where}")
        promise(len(leases) == 1, "that it is needed")
        print("3. The server stops, and its threads end")
    promise(reaped.wait(PATIENCE), "the pool takes it back")
    print(f"   Connections still held: {engine.pool.checkedout()}")


def main():
    # the pool's warnings, between the other lines
    logging.basicConfig(stream=sys.stdout, format="   the log: %(message)s")
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(folder)
        with_it(engine)
        without_it(engine)
        engine.dispose()


if __name__ == "__main__":
    main()
