"""What all exporters read: figures by name, whose counters never fall."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
from forks import in_a_child
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError
from stub import Driver
from stub import Gate
from stub import StubError
from stub import Task

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool.exporters.sources import Sources


def a_pool(name="shop", **options):
    options = {"reaping_frequency": None, "timeout": 0, **options}
    return ReaperPool(Driver().connect, logging_name=name, **options)


def an_engine(tmp_path, **options):
    return create_engine(
        f"sqlite:///{tmp_path}/file.db",
        poolclass=ReaperPool,
        reaping_frequency=None,
        **options,
    )


def reading(*given, **options):
    [found] = Sources(given, options.get("histograms", False)).read()
    return found


def test_figures():
    pool = a_pool(pool_size=2, max_overflow=1, min_idle=1)
    handles = [pool.connect() for _ in range(3)]
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    handles.pop().close()
    found = reading(pool)
    assert found.name == "shop"
    assert found.states == {"idle": 1, "used": 2, "opening": 0}
    assert (found.most, found.most_idle, found.least_idle) == (3, 2, 1)
    assert found.waiting == 0
    assert found.counters["checkouts"] == found.counters["opened"] == 3
    assert found.counters["timeouts"] == 1
    assert found.closed == {} and found.histograms is None
    for handle in handles:
        handle.close()
    assert reading(pool).closed == {"idle": 1}


def test_without_limits():
    found = reading(a_pool(pool_size=0))
    assert found.most is None and found.most_idle is None


def test_failures():
    driver = Driver()
    driver.then(StubError("no"))
    pool = ReaperPool(driver.connect, reaping_frequency=None)
    with pytest.raises(StubError):
        pool.connect()
    assert reading(pool).counters["connect_failures"] == 1


# names


@pytest.mark.parametrize(
    "url, name",
    [
        ("postgresql+psycopg2://me:tiger@db/app", "db/app"),
        ("postgresql+psycopg2://me:tiger@db:5433/app", "db:5433/app"),
        ("postgresql+psycopg2://", "postgresql"),
        ("sqlite:////var/app.db", "sqlite//var/app.db"),
        ("sqlite:////var/me@work/app.db", "sqlite//var/me@work/app.db"),
        # with slips
        (
            "postgresql+psycopg2://me@db/app&password=tiger",
            "db/app&password=***",
        ),
        (
            "postgresql+psycopg2://me@db;password=tiger/app",
            "db;password=***",
        ),
        ("postgresql+psycopg2://me:x@tiger/wolf@db/app", "postgresql/***"),
        ("postgresql+psycopg2://me:x@/tiger@db/app", "postgresql/***"),
        ("postgresql+psycopg2://me:x@tiger@db/app", "***/app"),
    ],
)
def test_an_engine_is_called_by_its_address(url, name):
    engine = create_engine(url, poolclass=ReaperPool)
    assert reading(engine).name == name
    named = create_engine(url, poolclass=ReaperPool, pool_logging_name="shop")
    assert reading(named).name == "shop"


def test_names_are_harmless():
    assert reading(a_pool("a\nb\ud800")).name == "a b\\ud800"
    assert reading(a_pool(" ")).name == "-"


def test_pools_of_one_name_are_one():
    pools = [a_pool(pool_size=size, max_overflow=0) for size in (1, 2)]
    handles = [pool.connect() for pool in pools]
    found = reading(*pools)
    assert found.states["used"] == found.counters["checkouts"] == 2
    assert found.most == found.most_idle == 3
    for handle in handles:
        handle.close()


def test_all_pools_of_the_process():
    sources = Sources((), False)
    pools = [a_pool("all-1"), a_pool("all-2")]
    names = {each.name for each in sources.read()}
    assert names >= {"all-1", "all-2"}
    del pools
    gc.collect()
    names = {each.name for each in sources.read()}
    assert not names & {"all-1", "all-2"}


@pytest.mark.parametrize("wrong", [None, "shop", object()])
def test_refuses_what_is_none(wrong):
    with pytest.raises(ArgumentError, match="An exporter takes engines"):
        Sources((wrong,), False)


def test_refuses_another_pool():
    with pytest.raises(ArgumentError, match="this is SingletonThreadPool"):
        Sources((create_engine("sqlite://"),), False)


# over time


def test_follows_an_engine_through_a_dispose(tmp_path):
    engine = an_engine(tmp_path)
    sources = Sources((engine,), False)
    engine.connect().close()
    [before] = sources.read()
    # not read since
    engine.connect().close()
    engine.dispose()
    [after] = sources.read()
    assert before.counters["checkouts"] == 1
    assert after.counters["checkouts"] == 2
    assert after.closed == {"shutdown": 1}
    assert after.states == {"idle": 0, "used": 0, "opening": 0}
    assert after.most == before.most == 15
    engine.connect().close()
    [last] = sources.read()
    assert last.counters["checkouts"] == 3 and last.states["idle"] == 1
    engine.dispose()


@pytest.mark.parametrize("all_pools", [False, True])
def test_what_no_reading_saw(tmp_path, all_pools):
    """Pools that came and went in between, and what the last one did."""
    engine = an_engine(tmp_path, pool_logging_name=f"unseen {all_pools}")
    sources = Sources(() if all_pools else (engine,), True)

    def read():
        gc.collect()
        [found] = [e for e in sources.read() if e.name.startswith("unseen")]
        return found.counters, found.closed, sum(found.histograms.use.counts)

    read()
    for _ in range(4):
        for _ in range(25):
            engine.connect().close()
        engine.dispose()
    # and one that is out meanwhile
    held = engine.connect()
    engine.dispose()
    held.close()
    del held
    counters, closed, uses = read()
    assert counters["checkouts"] == uses == 101
    assert counters["opened"] == 5 and closed == {"shutdown": 5}
    assert read() == (counters, closed, uses)


def test_a_pool_that_nobody_used_and_its_next_one(tmp_path):
    """As servers dispose of in each of their processes, to be safe."""
    engine = an_engine(tmp_path, pool_logging_name="unused")
    pools = [engine.pool]
    for _ in range(2):
        engine.dispose()
        pools.append(engine.pool)
    [found] = [e for e in Sources((), False).read() if e.name == "unused"]
    assert (found.most, found.most_idle) == (15, 5)
    assert [pool.snapshot().over for pool in pools] == [True, True, False]


def test_another_one_of_a_name_that_had_none():
    sources = Sources((), True)

    def read():
        return [
            (each.counters["checkouts"], sum(each.histograms.use.counts))
            for each in sources.read()
            if each.name == "tenant"
        ]

    for turn in (1, 2):
        pool = a_pool("tenant")
        sources.read()
        pool.connect().close()
        assert read() == [(turn, turn)]
        del pool
        gc.collect()
        assert read() == []


def test_more_sources(tmp_path):
    one, other = a_pool("one"), a_pool("other")
    sources = Sources((one,), False)
    sources.add((other,), True)
    found = {each.name: each for each in sources.read()}
    assert found["one"].histograms is None
    assert found["other"].histograms is not None
    with pytest.raises(ArgumentError):
        sources.add((1,), False)
    sources.add((), False)
    assert {each.name for each in sources.read()} >= {"one", "other"}


def test_counters_stay_when_a_pool_goes():
    pools = [a_pool(), a_pool()]
    for pool in pools:
        pool.connect().close()
    sources = Sources((), False)
    read = [each for each in sources.read() if each.name == "shop"]
    first = read[0].counters["checkouts"]
    del pool
    pools.pop()
    gc.collect()
    [later] = [each for each in sources.read() if each.name == "shop"]
    assert later.counters["checkouts"] == first


def test_keeps_nothing_alive(tmp_path):
    engine, pool = an_engine(tmp_path), a_pool()
    sources = Sources((engine, pool), False)
    assert len(sources.read()) == 2
    del engine, pool
    gc.collect()
    assert sources.read() == []


def test_a_disposed_pool_has_no_limit(tmp_path):
    engine = an_engine(tmp_path, pool_logging_name="disposed")
    former = engine.pool
    engine.connect().close()
    engine.dispose()
    found = {each.name: each for each in Sources((), False).read()}
    assert found["disposed"].most == 15
    assert found["disposed"].counters["checkouts"] == 1
    del former


def test_histograms_are_switched_on(tmp_path):
    engine = an_engine(tmp_path)
    sources = Sources((engine,), True)
    timings = engine.pool.timings
    timings.used(0.5)
    engine.dispose()
    assert engine.pool.timings is timings
    [found] = sources.read()
    assert sum(found.histograms.use.counts) == 1


def test_histograms_stay_when_a_pool_goes():
    pools = [a_pool("times"), a_pool("times")]
    sources = Sources((), True)
    for pool in pools:
        pool.timings.used(0.5)
    del pool
    for _ in range(2):
        [found] = [each for each in sources.read() if each.name == "times"]
        assert sum(found.histograms.use.counts) == 2
        del pools[1:]
        gc.collect()


def test_a_forked_child_begins_anew():
    pool = a_pool()
    pool.connect().close()
    sources = Sources((pool,), True)
    pool.timings.used(0.5)
    sources.read()

    gate = Gate()

    def hold():
        with sources.lock:
            gate()

    def child():
        [found] = sources.read()
        assert found.counters["checkouts"] == 0
        return sum(found.histograms.use.counts) == 0

    holding = Task(hold)
    gate.wait()
    assert in_a_child(child)
    gate.open()
    holding.result()
    assert sources.read()[0].counters["checkouts"] == 1


def test_no_library_is_needed():
    program = (
        "import sys, sa_reaperpool, sa_reaperpool.exporters.sources\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'prometheus_client', 'opentelemetry'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.strip() == "[]", run.stderr
