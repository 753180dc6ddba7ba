"""The work of the comparison, and its record, in this process."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from sa_reaperpool.compare_database import Database
from sa_reaperpool.compare_figures import POOLS
from sa_reaperpool.compare_figures import figures
from sa_reaperpool.compare_figures import window
from sa_reaperpool.compare_work import BARE
from sa_reaperpool.compare_work import MIXED
from sa_reaperpool.compare_work import Crew
from sa_reaperpool.compare_work import Log
from sa_reaperpool.compare_work import Stuck
from sa_reaperpool.compare_work import _Desk

pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/theirs.db"


class TestWork:
    @pytest.fixture
    def database(self, url: str) -> Iterator[Database]:
        with Database.opened(url) as database:
            yield database
            database.leave()

    @pytest.fixture(params=POOLS)
    def engine(
        self, request: pytest.FixtureRequest, database: Database
    ) -> Iterator[Engine]:
        if request.param == "QueuePool":
            engine = database.queue_pool(2, 5)
        else:
            engine = database.reaper_pool(
                {"pool_size": "2", "max_overflow": "0", "pool_timeout": "5"}
            )
        database.open_all(engine, 2)
        yield engine
        engine.dispose()

    @staticmethod
    def overlaps(log: Log) -> int:
        holds = window(log, log.seconds).holds
        return sum(
            earlier.lane == later.lane and earlier.end > later.begin
            for earlier, later in zip(holds, holds[1:])
        )

    @pytest.mark.parametrize("part", [MIXED, BARE])
    def test_one_holder_at_a_time(self, engine: Engine, part: str) -> None:
        log = Log("a pool", part, 0.5)
        Crew(engine, 6, "1").work(log, lambda log: True)

        found = window(log, log.seconds)
        assert found.lanes == [1, 2]
        assert len({hold.thread for hold in found.holds}) > 1
        assert self.overlaps(log) == 0
        assert not log.failed and not log.refused

    def test_a_connection_that_is_lent_twice_is_seen(
        self, database: Database, url: str
    ) -> None:
        engine = create_engine(
            url,
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
        )
        log = Log("a pool", MIXED, 0.5)
        Crew(database._ready(engine), 6, "1").work(log, lambda log: True)
        engine.dispose()
        assert self.overlaps(log) > 0

    def test_is_an_application_to_the_pool(self, database: Database) -> None:
        """Its reports name the work's own lines."""

        engine = database.reaper_pool({"pool_size": "2", "max_overflow": "0"})
        found: set[str] = set()

        def look(log: Log) -> bool:
            found.update(lease.where for lease in engine.pool.leases())
            return not found

        Crew(engine, 6, "1").work(Log("a pool", MIXED, 60), look)
        engine.dispose()
        assert all("compare_work.py:" in line for line in found), found
        assert found

    def test_ends_when_told_to(self, engine: Engine) -> None:
        log = Log("a pool", MIXED, 600)
        Crew(engine, 3, "1").work(log, lambda log: log.checkouts < 5)
        assert log.checkouts >= 5

    def test_who_does_not_end_is_not_awaited_for_ever(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sa_reaperpool.compare_work._PATIENCE", 0.1)
        with engine.connect(), engine.connect(), pytest.raises(Stuck):
            Crew(engine, 2, "1").work(
                Log("a pool", BARE, 0.1), lambda log: True
            )

    @pytest.mark.parametrize("pool", POOLS)
    def test_what_fails_is_counted(
        self, database: Database, pool: str
    ) -> None:
        engine = (
            database.queue_pool(1, 0.01)
            if pool == "QueuePool"
            else database.reaper_pool(
                {"pool_size": "1", "max_overflow": "0", "pool_timeout": "0.01"}
            )
        )
        with engine.connect():
            log = Log(pool, BARE, 0.2)
            Crew(engine, 3, "1").work(log, lambda log: True)
        engine.dispose()
        assert log.refused.total() == log.checkouts > 0
        found = figures([log])
        assert found.rate == 0
        assert found.refused == log.checkouts
        # who waited in vain has waited
        assert found.longest >= 0.01


class TestSeed:
    class Noting(_Desk):
        """Draws as the others do, and works not at all."""

        def __init__(self, seed: str, fails: bool = False) -> None:
            log = Log("a pool", MIXED, 1)
            super().__init__(None, Random(seed), log, array("d"))
            self.drawn: list[tuple[str, int, float]] = []
            self.fails = fails

        def note(self, job: str, row: int, length: float) -> None:
            self.drawn.append((job, row, length))
            if self.fails:
                raise RuntimeError("no")

        def __getattribute__(self, name: str) -> object:
            if name in ("read", "write", "edit", "think", "linger"):
                return lambda row, length: self.note(name, row, length)
            return super().__getattribute__(name)

    def drawn(self, seed: str, fails: bool = False) -> list[object]:
        desk = self.Noting(seed, fails)
        for _ in range(40):
            desk.mixed()
        return desk.drawn

    @pytest.fixture(autouse=True)
    def no_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "sa_reaperpool.compare_work.time.sleep", lambda seconds: None
        )

    def test_the_same_work(self) -> None:
        assert self.drawn("1/1/3") == self.drawn("1/1/3")
        assert self.drawn("1/1/3") != self.drawn("2/1/3")

    def test_whatever_becomes_of_it(self) -> None:
        assert self.drawn("1/1/3", fails=True) == self.drawn("1/1/3")

    def test_of_all_kinds(self) -> None:
        jobs = Counter(
            job for n in range(20) for job, *_ in self.drawn(f"{n}")
        )
        assert set(jobs) == {"read", "write", "edit", "think", "linger"}
        assert jobs["read"] > jobs["linger"]
