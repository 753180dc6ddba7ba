"""Against prometheus_client itself, and what it writes for Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import DuplicateTimeseries
from stub import Driver

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool.exporters.prometheus import PoolCollector
from sa_reaperpool.timings import BOUNDS

NAME = "db_client_connection_pool_name"
STATE = "db_client_connection_state"


def a_pool(name="shop", **options):
    options = {"reaping_frequency": None, "timeout": 0, **options}
    return ReaperPool(Driver().connect, logging_name=name, **options)


def scraped(collector):
    """What Prometheus would understand: samples by name and labels."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    families = text_string_to_metric_families(
        generate_latest(registry).decode()
    )
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_figures():
    pool = a_pool(pool_size=2, max_overflow=1, min_idle=1)
    handles = [pool.connect() for _ in range(3)]
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    for handle in handles[:2]:
        handle.close()
    handles[0] = pool.connect()
    handles[0].close()
    samples = scraped(PoolCollector(pool))
    of = (NAME, "shop")
    count = "db_client_connection_count"
    assert samples == {
        (count, of, (STATE, "idle")): 2,
        (count, of, (STATE, "used")): 1,
        (count, of, (STATE, "opening")): 0,
        ("db_client_connection_max", of): 3,
        ("db_client_connection_idle_max", of): 2,
        ("db_client_connection_idle_min", of): 1,
        ("db_client_connection_pending_requests", of): 0,
        ("db_client_connection_timeouts_total", of): 1,
        ("sa_reaperpool_checkouts_total", of): 4,
        ("sa_reaperpool_waits_total", of): 1,
        ("sa_reaperpool_wait_seconds_total", of): pool.stats().waited,
        ("sa_reaperpool_longest_wait_seconds", of): pool.stats().longest_wait,
        ("sa_reaperpool_opened_total", of): 3,
        ("sa_reaperpool_connect_failures_total", of): 0,
    }
    handles[2].close()
    closed = ("sa_reaperpool_closed_total", of, ("reason", "idle"))
    assert scraped(PoolCollector(pool))[closed] == 1


def test_no_limit():
    names = {key[0] for key in scraped(PoolCollector(a_pool(pool_size=0)))}
    assert "db_client_connection_max" not in names
    assert "db_client_connection_idle_max" not in names


def test_histograms():
    pool = a_pool()
    collector = PoolCollector(pool, histograms=True)
    pool.timings.waited(0.002)
    for seconds in (0.3, 0.5, 99.0):
        pool.timings.used(seconds)
    samples = scraped(collector)
    name = "db_client_connection_use_time_seconds"
    buckets = {
        dict(key[1:])["le"]: value
        for key, value in samples.items()
        if key[0] == f"{name}_bucket"
    }
    assert len(buckets) == len(BOUNDS) + 1
    assert buckets["0.25"] == 0 and buckets["0.5"] == 2
    assert buckets["30.0"] == 2 and buckets["+Inf"] == 3
    of = (NAME, "shop")
    assert samples[f"{name}_count", of] == 3
    assert samples[f"{name}_sum", of] == pytest.approx(99.8)
    assert samples["db_client_connection_wait_time_seconds_count", of] == 1
    assert samples["db_client_connection_create_time_seconds_count", of] == 0


def test_no_histograms_unless_asked_for():
    pool = a_pool()
    samples = scraped(PoolCollector(pool))
    assert not any("time_seconds" in key[0] for key in samples)
    assert pool.timings is None


def test_hostile_names():
    pools = [a_pool(name) for name in ('a"b\\c', "x\ny\x1b\ud800")]
    names = {dict(key[1:])[NAME] for key in scraped(PoolCollector(*pools))}
    assert names == {'a"b\\c', "x y\\x1b\\ud800"}


def test_registered_twice():
    registry = CollectorRegistry(auto_describe=True)
    registry.register(PoolCollector(a_pool()))
    with pytest.raises(DuplicateTimeseries):
        registry.register(PoolCollector())


def test_reading_changes_nothing():
    pool = a_pool()
    handle = pool.connect()
    before = pool.stats()
    for _ in range(3):
        scraped(PoolCollector(pool))
    assert pool.stats() == before
    handle.close()
