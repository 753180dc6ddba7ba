"""Against OpenTelemetry's own SDK, and its conventions' own names."""

from __future__ import annotations

import pytest
from forks import in_a_child
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from stub import Driver

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool.exporters.opentelemetry import _new
from sa_reaperpool.exporters.opentelemetry import instrument
from sa_reaperpool.timings import BOUNDS
from sa_reaperpool.timings import Histogram
from sa_reaperpool.timings import Timings

POOL = db_attributes.DB_CLIENT_CONNECTION_POOL_NAME
STATE = db_attributes.DB_CLIENT_CONNECTION_STATE


class Meters:
    """A provider and what its readers collect."""

    def __init__(self, readers=1):
        self.readers = [InMemoryMetricReader() for _ in range(readers)]
        self.provider = MeterProvider(self.readers)

    def instrument(self, *pools, **options):
        instrument(*pools, meter_provider=self.provider, **options)

    def metrics(self, reader=0):
        data = self.readers[reader].get_metrics_data()
        [resource] = data.resource_metrics
        [scope] = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def values(self):
        """By name and attributes, histograms aside."""
        return {
            (name, *sorted(point.attributes.items())): point.value
            for name, metric in self.metrics().items()
            for point in metric.data.data_points
            if hasattr(point, "value")
        }

    def histogram(self, key, reader=0):
        metric = self.metrics(reader)[f"db.client.connection.{key}"]
        [point] = metric.data.data_points
        return point


@pytest.fixture
def meters():
    meters = Meters()
    yield meters
    meters.provider.shutdown()


def a_pool(name="shop", **options):
    options = {"reaping_frequency": None, "timeout": 0, **options}
    return ReaperPool(Driver().connect, logging_name=name, **options)


def test_figures(meters):
    pool = a_pool(pool_size=2, max_overflow=1, min_idle=1)
    meters.instrument(pool)
    handles = [pool.connect() for _ in range(3)]
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    handles.pop().close()
    of = (POOL, "shop")
    count = db_metrics.DB_CLIENT_CONNECTION_COUNT
    used = db_attributes.DbClientConnectionStateValues.USED.value
    idle = db_attributes.DbClientConnectionStateValues.IDLE.value
    assert meters.values() == {
        (count, of, (STATE, idle)): 1,
        (count, of, (STATE, used)): 2,
        (count, of, (STATE, "opening")): 0,
        (db_metrics.DB_CLIENT_CONNECTION_MAX, of): 3,
        (db_metrics.DB_CLIENT_CONNECTION_IDLE_MAX, of): 2,
        (db_metrics.DB_CLIENT_CONNECTION_IDLE_MIN, of): 1,
        (db_metrics.DB_CLIENT_CONNECTION_PENDING_REQUESTS, of): 0,
        (db_metrics.DB_CLIENT_CONNECTION_TIMEOUTS, of): 1,
        ("sa_reaperpool.checkouts", of): 3,
        ("sa_reaperpool.waits", of): 1,
        ("sa_reaperpool.opened", of): 3,
        ("sa_reaperpool.connect_failures", of): 0,
    }
    for handle in handles:
        handle.close()
    closed = ("sa_reaperpool.closed", of, ("sa_reaperpool.reason", "idle"))
    assert meters.values()[closed] == 1


def test_units(meters):
    pool = a_pool()
    meters.instrument(pool, histograms=True)
    pool.timings.waited(1), pool.timings.used(1), pool.timings.created(1)
    pool.connect().invalidate()
    units = {name: metric.unit for name, metric in meters.metrics().items()}
    conventions = {
        name: unit
        for name, unit in units.items()
        if name.startswith("db.client.connection.")
    }
    assert conventions == {
        "db.client.connection.count": "{connection}",
        "db.client.connection.max": "{connection}",
        "db.client.connection.idle.max": "{connection}",
        "db.client.connection.idle.min": "{connection}",
        "db.client.connection.pending_requests": "{request}",
        "db.client.connection.timeouts": "{timeout}",
        "db.client.connection.wait_time": "s",
        "db.client.connection.use_time": "s",
        "db.client.connection.create_time": "s",
    }


def test_histograms(meters):
    pool = a_pool()
    meters.instrument(pool, histograms=True)
    for seconds in (0.0, 0.3, 0.5, 99.0):
        pool.timings.used(seconds)
    point = meters.histogram("use_time")
    assert dict(point.attributes) == {POOL: "shop"}
    assert tuple(point.explicit_bounds) == BOUNDS
    assert tuple(point.bucket_counts) == pool.timings.histograms().use.counts
    assert (point.count, point.sum) == (4, pytest.approx(99.8))
    # once, although it is read again
    pool.timings.used(0.3)
    point = meters.histogram("use_time")
    assert (point.count, point.sum) == (5, pytest.approx(100.1))


def test_two_readers():
    meters = Meters(2)
    pool = a_pool()
    meters.instrument(pool, histograms=True)
    for _ in range(3):
        pool.timings.used(0.5)
        meters.metrics(0)
    assert meters.histogram("use_time", 0).count == 3
    assert meters.histogram("use_time", 1).count == 3
    meters.provider.shutdown()


@pytest.mark.parametrize("bound", range(len(BOUNDS) + 1))
def test_a_mean_stays_in_its_bucket(bound):
    """Whatever is lost by rounding, of times that are all at its end."""
    edges = [0.0, *BOUNDS, 1e9]
    for seconds in (edges[bound + 1], edges[bound] * (1 + 1e-15)):
        timings = Timings()
        for _ in range(999):
            timings.used(seconds)
        now = timings.histograms().use
        again = Timings()
        for each in _new(Histogram(), now):
            again.used(each)
        assert again.histograms().use.counts == now.counts


def test_a_forked_child_begins_anew(meters):
    pool = a_pool()
    meters.instrument(pool, histograms=True)
    pool.timings.used(0.5), pool.timings.used(0.5)
    assert meters.histogram("use_time").count == 2

    def child():
        pool.timings.used(0.5)
        # what the SDK has of its parent, and one
        return meters.histogram("use_time").count == 3

    assert in_a_child(child)


@pytest.mark.parametrize("uses", [1, 5, 7])
def test_a_child_records_all_of_its_own(meters, uses):
    """However many its parent had."""
    pool = a_pool()
    meters.instrument(pool, histograms=True)
    for _ in range(5):
        pool.timings.used(0.3)
    assert meters.histogram("use_time").count == 5

    def child():
        # what the SDK has of the parent goes on in it
        for _ in range(uses):
            pool.timings.used(0.3)
        point = meters.histogram("use_time")
        return [point.count, round(point.sum, 6)]

    assert in_a_child(child) == [5 + uses, round(0.3 * (5 + uses), 6)]


def test_one_engine_after_the_other(meters):
    meters.instrument(a := a_pool("first"))
    a.connect().close()
    meters.instrument(b := a_pool("second"), histograms=True)
    for _ in range(2):
        b.connect().close()
    found = meters.values()
    assert found["sa_reaperpool.checkouts", (POOL, "first")] == 1
    assert found["sa_reaperpool.checkouts", (POOL, "second")] == 2
    point = meters.histogram("use_time")
    assert point.count == 2 and point.attributes[POOL] == "second"


def test_all_pools(meters):
    meters.instrument()
    pool = a_pool("of all")
    found = {dict(key[1:])[POOL] for key in meters.values()}
    assert "of all" in found
    del pool


def test_no_histograms_unless_asked_for(meters):
    pool = a_pool()
    meters.instrument(pool)
    assert not any("_time" in name for name in meters.metrics())
    assert pool.timings is None


def test_the_processs_provider():
    """Nothing is asked of a process that has none."""
    instrument(a_pool(), histograms=True)
