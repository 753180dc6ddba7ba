"""Pools for prometheus_client: ``pip install sa-reaperpool[prometheus]``.

The names are those that OpenTelemetry's exporter would make of its own
conventions for connection pools, so that one dashboard serves both; what
these have no name for begins with ``sa_reaperpool_``.
"""

from __future__ import annotations

from typing import Callable
from typing import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import HistogramMetricFamily

from ..timings import BOUNDS
from ..timings import Histogram
from .sources import Reading
from .sources import Source
from .sources import Sources

_POOL = "db_client_connection_pool_name"
_STATE = "db_client_connection_state"
_CONNECTION = "db_client_connection_"

_GAUGES: list[tuple[str, str, Callable[[Reading], float | None]]] = [
    (
        _CONNECTION + "max",
        "Connections that may be open at once",
        lambda reading: reading.most,
    ),
    (
        _CONNECTION + "idle_max",
        "Idle connections that are kept at most",
        lambda reading: reading.most_idle,
    ),
    (
        _CONNECTION + "idle_min",
        "Idle connections that are kept at least",
        lambda reading: reading.least_idle,
    ),
    (
        _CONNECTION + "pending_requests",
        "Threads that wait for a connection",
        lambda reading: reading.waiting,
    ),
    (
        "sa_reaperpool_longest_wait_seconds",
        "The longest wait for a connection so far",
        lambda reading: reading.longest_wait,
    ),
]

_COUNTERS = [
    (_CONNECTION + "timeouts", "Checkouts that got nothing", "timeouts"),
    ("sa_reaperpool_checkouts", "Checkouts", "checkouts"),
    ("sa_reaperpool_waits", "Checkouts that had to wait", "waits"),
    ("sa_reaperpool_wait_seconds", "Time that they waited", "waited"),
    ("sa_reaperpool_opened", "Connections opened", "opened"),
    (
        "sa_reaperpool_connect_failures",
        "Connections that could not be opened",
        "connect_failures",
    ),
]

_HISTOGRAMS = [
    ("wait", "Time from a checkout's beginning to its connection"),
    ("use", "Time from a checkout to the return"),
    ("create", "Time that opening a connection took"),
]


class PoolCollector:
    """Figures of pools, read when Prometheus asks for them::

        from prometheus_client import REGISTRY

        REGISTRY.register(PoolCollector(engine))

    A registry takes one of these, which is to have all engines.

    Reading costs the pools nothing between.  Figures are of this process;
    prometheus_client's multiprocess mode collects none of a collector's.

    :param sources: engines and pools; without any, all pools of the
     process.  Pools of one name are added up; one without a name
     (``pool_logging_name``) is called by its engine's address and database.

    :param histograms: have the times of waiting, use and opening measured
     from now on.

    :raises sqlalchemy.exc.ArgumentError: one is neither a ReaperPool nor an
     engine with one.

    """

    def __init__(self, *sources: Source, histograms: bool = False):
        self._sources = Sources(sources, histograms)

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client calls."""
        readings = self._sources.read()
        states = GaugeMetricFamily(
            _CONNECTION + "count",
            "Connections by state",
            labels=[_POOL, _STATE],
        )
        closed = CounterMetricFamily(
            "sa_reaperpool_closed",
            "Connections closed, by reason",
            labels=[_POOL, "reason"],
        )
        for reading in readings:
            for state, count in reading.states.items():
                states.add_metric([reading.name, state], count)
            for reason, count in reading.closed.items():
                closed.add_metric([reading.name, reason], count)
        yield states
        yield closed
        yield from _gauges(readings)
        yield from _counters(readings)
        yield from _histograms(readings)


def _gauges(readings: list[Reading]) -> Iterator[Metric]:
    for name, text, figure in _GAUGES:
        family = GaugeMetricFamily(name, text, labels=[_POOL])
        for reading in readings:
            value = figure(reading)
            if value is not None:
                family.add_metric([reading.name], value)
        yield family


def _counters(readings: list[Reading]) -> Iterator[Metric]:
    for name, text, key in _COUNTERS:
        family = CounterMetricFamily(name, text, labels=[_POOL])
        for reading in readings:
            family.add_metric([reading.name], reading.counters[key])
        yield family


def _histograms(readings: list[Reading]) -> Iterator[Metric]:
    for key, text in _HISTOGRAMS:
        family = HistogramMetricFamily(
            f"{_CONNECTION}{key}_time_seconds", text, labels=[_POOL]
        )
        for reading in readings:
            if reading.histograms is not None:
                found: Histogram = getattr(reading.histograms, key)
                family.add_metric(
                    [reading.name], _buckets(found), sum(found.sums)
                )
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """As Prometheus has them: each with all below it."""
    buckets = []
    total = 0
    for bound, count in zip([*map(str, BOUNDS), "+Inf"], histogram.counts):
        total += count
        buckets.append((bound, float(total)))
    return buckets
