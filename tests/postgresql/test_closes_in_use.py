"""What its user begins as it is closed.

A program of its own, since it might crash: libpq's functions would use what
was freed.  What is freed is overwritten there, so that this shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from sqlalchemy import make_url

import sa_reaperpool

PROGRAM = """
import sys

from sqlalchemy import create_engine
from sqlalchemy import event
from waiting import Worker
from waiting import eventually

from sa_reaperpool import ReaperPool
from sa_reaperpool import liveness

engine = create_engine(sys.argv[1], poolclass=ReaperPool)
handle = engine.raw_connection()
# past the pool, which sees nothing of it
raw = handle.driver_connection
cursor = raw.cursor()
workers = []


def work():
    try:
        cursor.execute("SELECT pg_sleep(60)")
    except engine.dialect.dbapi.DatabaseError:
        return "cut off"


@event.listens_for(engine, "close")
def begin(*_):
    workers.append(Worker(work))
    eventually(lambda: liveness.running(raw))


engine.pool.disconnect()
[worker] = workers
print(worker.result(), bool(raw.closed))
"""


def test_a_statement_that_begins_at_the_close(
    postgres_url: str, driver: str
) -> None:
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}")
    places = [
        Path(file).parents[1] for file in (sa_reaperpool.__file__, __file__)
    ]
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(PROGRAM)]
        + [url.render_as_string(hide_password=False)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "MALLOC_PERTURB_": "165",
        },
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert (ended.returncode, ended.stdout) == (0, "cut off True\n"), (
        ended.stderr
    )
