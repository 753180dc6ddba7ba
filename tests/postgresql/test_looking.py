"""What the pool says of itself is what the server sees.

Threads do what comes to their minds; at quiet moments, when all of them
stand still, each number is compared with pg_stat_activity.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import threading
from collections import Counter
from typing import Any

import psycopg2
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pages import Page
from pages import of_wsgi
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import exc
from sqlalchemy import text
from waiting import PATIENCE
from waiting import Worker
from waiting import eventually

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from sa_reaperpool import ReaperPool
from sa_reaperpool import label
from sa_reaperpool import status_app
from sa_reaperpool.exporters.opentelemetry import instrument
from sa_reaperpool.exporters.prometheus import PoolCollector
from sa_reaperpool.exporters.sources import Sources
from sa_reaperpool.snapshot import ConnectionInfo

THREADS = 8
ROUNDS = 12


class Crew:
    """Threads that each do something, and then all stand still."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.busy = threading.Barrier(THREADS + 1)
        self.quiet = threading.Barrier(THREADS + 1)
        self.over = False
        self.workers = [
            Worker(lambda n=n: self._work(random.Random(seed * 99 + n)))
            for n in range(THREADS)
        ]

    def _work(self, chance: random.Random) -> None:
        connection: Connection | None = None
        while True:
            self.busy.wait(PATIENCE)
            if self.over:
                break
            for _ in range(chance.randrange(4)):
                connection = self._do(chance, connection)
            self.quiet.wait(PATIENCE)
        if connection is not None:
            connection.close()

    def _do(
        self, chance: random.Random, connection: Connection | None
    ) -> Connection | None:
        if connection is None:
            with label(f"job {chance.randrange(3)}"):
                return self._take()
        what = chance.randrange(6)
        if what == 0:
            connection.invalidate()
        elif what == 1:
            connection.detach()
        elif what < 4:
            connection.execute(text("SELECT 1"))
            return connection
        connection.close()
        return None

    def _take(self) -> Connection | None:
        try:
            return self.engine.connect()
        except exc.TimeoutError:
            return None

    def stand_still(self) -> None:
        self.busy.wait(PATIENCE)
        self.quiet.wait(PATIENCE)

    def end(self) -> None:
        self.over = True
        self.busy.wait(PATIENCE)
        for worker in self.workers:
            worker.result()


def states(observer: Observer, engine: Engine) -> Counter[str]:
    """What the server says of this engine's sessions."""

    rows = observer.rows(
        "SELECT state FROM pg_stat_activity WHERE application_name = %s",
        engine.url.query["application_name"],
    )
    return Counter(state for (state,) in rows)


def told(pool: ReaperPool) -> Counter[str]:
    """The same, as the snapshot has it."""

    return Counter(_state(each) for each in pool.snapshot(None).connections)


def _state(each: ConnectionInfo) -> str:
    begun = each.lease is not None and each.lease.in_transaction
    return "idle in transaction" if begun else "idle"


def written(pool: ReaperPool) -> Counter[str]:
    """The same, as a reader of the report would count it."""

    lines = pool.report(None).splitlines()
    found = re.match(r".*: (\d+) of \d+ in use, (\d+) idle; nobody", lines[0])
    assert found, lines[0]
    rows = [line.split()[:2] for line in lines[3:]]
    counted = Counter(row[0] for row in rows)
    assert counted["in"] == int(found[1]) and counted["idle"] == int(found[2])
    begun = sum("  open  " in line for line in lines[3:])
    return Counter({"idle in transaction": begun, "idle": len(rows) - begun})


def on_the_page(app: status_app) -> Counter[str]:
    """The same, as who sees the page would count it."""

    page = Page(of_wsgi(app).text)
    heading = " ".join(page.words)
    found = re.search(r": (\d+) of \d+ in use, (\d+) idle; nobody", heading)
    assert found, heading
    rows = page.rows[1:]
    counted = Counter(row[0] for row in rows)
    assert counted["in use"] == int(found[1])
    assert counted["idle"] == int(found[2])
    begun = sum("open" in row for row in rows)
    return Counter({"idle in transaction": begun, "idle": len(rows) - begun})


def in_its_json(app: status_app) -> dict[str, Any]:
    [pool] = json.loads(of_wsgi(app, "format=json").text)["pools"]
    assert isinstance(pool, dict)
    return pool


def counted_in(page: dict[str, Any]) -> Counter[str]:
    leases = [each["lease"] for each in page["connections"]]
    return Counter(
        "idle in transaction" if lease and lease["in_transaction"] else "idle"
        for lease in leases
    )


def ages(observer: Observer, engine: Engine) -> list[float]:
    """How old the server says that its sessions are, oldest first."""

    rows = observer.rows(
        "SELECT extract(epoch FROM clock_timestamp() - backend_start)::float8"
        " FROM pg_stat_activity WHERE application_name = %s",
        engine.url.query["application_name"],
    )
    return sorted((age for (age,) in rows), reverse=True)


@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_the_server(
    engines: Engines, observer: Observer, driver: str, seed: int
) -> None:
    engine = engines(driver, pool_size=3, max_overflow=3, pool_timeout=0.01)
    pool: Any = engine.pool
    crew = Crew(engine, seed)
    app = status_app(engine)
    seen: Counter[str] = Counter()
    for _ in range(ROUNDS):
        crew.stand_still()
        # a server takes its time to notice a close
        eventually(lambda: states(observer, engine) == told(pool))
        assert +written(pool) == +on_the_page(app) == told(pool)
        page = in_its_json(app)
        assert counted_in(page) == told(pool)
        newest_first = sorted(each["age"] for each in page["connections"])
        for age, at_server in zip(
            reversed(newest_first), ages(observer, engine), strict=True
        ):
            # which was asked later, and began it before the client was in
            assert age <= at_server < age + 5
        stats = pool.stats()
        assert page["stats"] == dataclasses.asdict(stats)
        assert stats == pool.snapshot().stats
        assert stats.idle + stats.in_use == told(pool).total()
        assert stats.opened - sum(stats.closed.values()) == (
            stats.idle + stats.in_use
        )
        assert (stats.opening, stats.waiting) == (0, 0)
        assert stats.in_use == len(pool.leases()) == pool.checkedout()
        seen += told(pool)
    crew.end()
    assert len(seen) == 2
    eventually(lambda: states(observer, engine) == told(pool))


def test_exporters_agree_with_the_server(
    engines: Engines, observer: Observer
) -> None:
    engine = engines(pool_size=3, max_overflow=3, pool_timeout=0.01)
    pool: Any = engine.pool
    registry = CollectorRegistry()
    registry.register(PoolCollector(engine))
    reader = InMemoryMetricReader()
    instrument(engine, meter_provider=MeterProvider([reader]))
    crew = Crew(engine, 7)
    for _ in range(ROUNDS):
        crew.stand_still()
        eventually(lambda: states(observer, engine) == told(pool))
        used = pool.checkedout()
        expected = {"used": used, "idle": told(pool).total() - used}
        expected["opening"] = 0
        assert by_state_of_prometheus(registry) == expected
        assert by_state_of_opentelemetry(reader) == expected
        name = "db_client_connection_timeouts_total"
        labels = {"db_client_connection_pool_name": reading_name(engine)}
        timeouts = registry.get_sample_value(name, labels)
        assert timeouts == pool.stats().timeouts
    crew.end()


def by_state_of_prometheus(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["db_client_connection_state"]: sample.value
        for family in registry.collect()
        if family.name == "db_client_connection_count"
        for sample in family.samples
    }


def by_state_of_opentelemetry(reader: InMemoryMetricReader) -> Any:
    data: Any = reader.get_metrics_data()
    [scope] = data.resource_metrics[0].scope_metrics
    [metric] = [
        each
        for each in scope.metrics
        if each.name == "db.client.connection.count"
    ]
    return {
        point.attributes["db.client.connection.state"]: point.value
        for point in metric.data.data_points
    }


def reading_name(engine: Engine) -> str:
    [reading] = Sources((engine,), False).read()
    return reading.name


def test_who_waits(engines: Engines) -> None:
    engine = engines(pool_size=2)
    pool: Any = engine.pool
    held = [engine.connect(), engine.connect()]
    workers = [
        Worker(lambda: engine.connect().close(), f"web-{n}") for n in range(3)
    ]
    eventually(lambda: pool.stats().waiting == 3)
    lines = pool.report().splitlines()
    assert ": 2 of 2 in use, 0 idle; 3 threads wait, longest " in lines[0]
    assert {line.split()[2] for line in lines[6:]} == {
        "web-0",
        "web-1",
        "web-2",
    }
    assert "SELECT" not in pool.report()
    for connection in held:
        connection.close()
    for worker in workers:
        worker.result()


def test_no_password_of_a_server_that_refuses(
    engines: Engines, postgres_server: Any
) -> None:
    engine = engines()
    url = engine.url.set(password="s3cret-tiger", database="no_such_database")
    refused = engines(url=url.render_as_string(hide_password=False))
    with pytest.raises(exc.OperationalError) as caught:
        refused.connect()
    assert isinstance(caught.value.orig, psycopg2.OperationalError)
    pool: Any = refused.pool
    assert "newest connect error" in pool.report()
    assert "s3cret-tiger" not in pool.report()
