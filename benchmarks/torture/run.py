"""One pool's run, from an empty ledger to what was found."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from . import accounting
from . import journal
from . import ledger
from .accounting import Capacity
from .accounting import Findings
from .faults import Faults
from .faults import Server
from .journal import Journal
from .pools import LIMIT
from .pools import Connections
from .pools import make_engine
from .pools import slots_missing
from .relay import Relay
from .workers import Clerk
from .workers import Crowd

AFTERWARDS = 20.0
"""Seconds in which the pool has to give all of its connections."""


class Target(NamedTuple):
    """The database under the pool."""

    url: URL
    """For psycopg2, with a host and a port."""
    server: Server | None
    """To kill and start again, if it is the bench's own."""

    def direct(self) -> str:
        """What libpq takes, past the relay."""
        url = self.url.set(drivername="postgresql")
        return url.render_as_string(hide_password=False)


class Options(NamedTuple):
    seconds: float
    threads: int
    seed: int


def torture(kind: str, target: Target, options: Options) -> Findings:
    """Run one kind of pool, and compare what it leaves with the journal.

    :param kind: a name in :data:`.pools.POOLS`.

    """
    # past the pool under test, and with none of its own to go stale
    books = create_engine(target.url, poolclass=NullPool)
    ledger.create(books)
    written = Journal(Path(tempfile.gettempdir()))
    try:
        capacity, hung = _use(kind, target, options, written)
        return accounting.findings(
            written.lines,
            ledger.read(books),
            capacity,
            os.getpid(),
            hung,
        )
    finally:
        written.close()
        ledger.drop(books)


def _use(
    kind: str, target: Target, options: Options, written: Journal
) -> tuple[Capacity, int]:
    host, port = target.url.host, target.url.port or 5432
    assert host is not None
    relay = Relay(host, port, options.seed)
    engine = make_engine(kind, _through(relay, target.url))
    connections = Connections(engine)
    crowd = Crowd(
        Clerk(engine, connections, written), options.threads, options.seed
    )
    faults = Faults(
        engine,
        connections,
        crowd,
        relay,
        written,
        dsn=target.direct(),
        server=target.server,
        seed=options.seed,
    )
    try:
        faults.go_on_for(options.seconds)
        crowd.stop()
        # not counted as a pause: nobody works any more
        written.write(journal.FAULT, "end")
        missing = slots_missing(engine, LIMIT, AFTERWARDS)
        capacity = Capacity(connections.most, connections.over, missing)
        crowd.bury()
        return capacity, crowd.hung
    finally:
        crowd.stop()
        engine.dispose()
        relay.close()


def _through(relay: Relay, url: URL) -> URL:
    return url.set(host="127.0.0.1", port=relay.port).update_query_dict(
        {"application_name": f"torture-{os.getpid()}", "connect_timeout": "5"}
    )
