"""Pools for OpenTelemetry: ``pip install sa-reaperpool[opentelemetry]``.

Names, units and attributes are those of OpenTelemetry's semantic
conventions for database clients, section "Connection pools"; what these
have no name for begins with ``sa_reaperpool.``.
"""

from __future__ import annotations

import math
from typing import Callable
from typing import Iterable
from typing import Iterator
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions
from opentelemetry.metrics import Meter
from opentelemetry.metrics import MeterProvider
from opentelemetry.metrics import Observation
from opentelemetry.metrics import get_meter_provider

from .. import process
from ..timings import BOUNDS
from ..timings import Histogram
from ..timings import Histograms
from .sources import Reading
from .sources import Source
from .sources import Sources

_POOL = "db.client.connection.pool.name"
_STATE = "db.client.connection.state"
_REASON = "sa_reaperpool.reason"
_CONNECTION = "db.client.connection."

Observe = Callable[[Reading], Iterable[Observation]]

# A provider has each instrument once, and what observes it from the first.
_known: WeakKeyDictionary[MeterProvider, Sources] = WeakKeyDictionary()
_recorders: WeakKeyDictionary[MeterProvider, _Recorder] = WeakKeyDictionary()


def instrument(
    *sources: Source,
    histograms: bool = False,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Have the figures of pools read whenever a reader collects::

        sa_reaperpool.exporters.opentelemetry.instrument(engine)

    Reading costs the pools nothing between.  Beside the states ``idle`` and
    ``used`` of the conventions there is ``opening``: what is being opened,
    checked, reset or closed.

    :param sources: engines and pools, beside those of earlier calls; without
     any, all pools of the process.  Pools of one name are added up; one
     without a name (``pool_logging_name``) is called by its engine's
     address, port and database.

    :param histograms: have the times of waiting, use and opening measured
     from now on.  They are recorded when a reader collects, each as the
     mean of those in its bucket since the last time, so that counts and
     sums are exact.

    :param meter_provider: by default the process's own.

    :raises sqlalchemy.exc.ArgumentError: one is neither a ReaperPool nor an
     engine with one.

    """
    provider = meter_provider or get_meter_provider()
    meter = provider.get_meter("sa_reaperpool")
    known = _known.get(provider)
    if known is None:
        _known[provider] = known = Sources(sources, histograms)
        _observe_present(meter, known)
        _observe_counters(meter, known)
    else:
        known.add(sources, histograms)
    if histograms and provider not in _recorders:
        _recorders[provider] = _Recorder(meter, known)


def _observe_present(meter: Meter, sources: Sources) -> None:
    for name, unit, text, observe in [
        ("count", "connection", "Connections by state", _states),
        ("max", "connection", "Connections that may be open", _most),
        (
            "idle.max",
            "connection",
            "Idle connections that are kept at most",
            _most_idle,
        ),
        (
            "idle.min",
            "connection",
            "Idle connections that are kept at least",
            _least_idle,
        ),
        (
            "pending_requests",
            "request",
            "Threads that wait for a connection",
            _waiting,
        ),
    ]:
        meter.create_observable_up_down_counter(
            _CONNECTION + name,
            [_callback(sources, observe)],
            unit=f"{{{unit}}}",
            description=text,
        )


def _observe_counters(meter: Meter, sources: Sources) -> None:
    for name, unit, text, observe in [
        (
            _CONNECTION + "timeouts",
            "timeout",
            "Checkouts that got nothing",
            _counter("timeouts"),
        ),
        (
            "sa_reaperpool.checkouts",
            "checkout",
            "Checkouts",
            _counter("checkouts"),
        ),
        (
            "sa_reaperpool.waits",
            "checkout",
            "Checkouts that had to wait",
            _counter("waits"),
        ),
        (
            "sa_reaperpool.opened",
            "connection",
            "Connections opened",
            _counter("opened"),
        ),
        (
            "sa_reaperpool.connect_failures",
            "connection",
            "Connections that could not be opened",
            _counter("connect_failures"),
        ),
        (
            "sa_reaperpool.closed",
            "connection",
            "Connections closed, by reason",
            _closed,
        ),
    ]:
        meter.create_observable_counter(
            name,
            [_callback(sources, observe)],
            unit=f"{{{unit}}}",
            description=text,
        )


def _callback(
    sources: Sources, observe: Observe
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(options: CallbackOptions) -> Iterator[Observation]:
        for reading in sources.read():
            yield from observe(reading)

    return callback


def _one(reading: Reading, value: float | None) -> list[Observation]:
    if value is None:
        return []
    return [Observation(value, {_POOL: reading.name})]


def _states(reading: Reading) -> list[Observation]:
    return [
        Observation(count, {_POOL: reading.name, _STATE: state})
        for state, count in reading.states.items()
    ]


def _most(reading: Reading) -> list[Observation]:
    return _one(reading, reading.most)


def _most_idle(reading: Reading) -> list[Observation]:
    return _one(reading, reading.most_idle)


def _least_idle(reading: Reading) -> list[Observation]:
    return _one(reading, reading.least_idle)


def _waiting(reading: Reading) -> list[Observation]:
    return _one(reading, reading.waiting)


def _counter(key: str) -> Observe:
    return lambda reading: _one(reading, reading.counters[key])


def _closed(reading: Reading) -> list[Observation]:
    return [
        Observation(count, {_POOL: reading.name, _REASON: reason})
        for reason, count in reading.closed.items()
    ]


class _Recorder:
    """Records the histograms.

    The API has none that are observed, and to record costs microseconds,
    which no checkout is to pay.  So that is done as a reader collects.
    """

    def __init__(self, meter: Meter, sources: Sources):
        self._sources = sources
        self._process = process.number
        self._recorded: dict[str, Histograms] = {}
        self._instruments = {
            key: meter.create_histogram(
                f"{_CONNECTION}{key}_time",
                unit="s",
                description=text,
                explicit_bucket_boundaries_advisory=BOUNDS,
            )
            for key, text in [
                ("wait", "Time from a checkout's beginning to its connection"),
                ("use", "Time from a checkout to the return"),
                ("create", "Time that opening a connection took"),
            ]
        }
        # something that is observed, for its moment
        meter.create_observable_up_down_counter(
            "sa_reaperpool.measured",
            [self._collect],
            unit="{pool}",
            description="Pools whose times are measured",
        )

    def _collect(self, options: CallbackOptions) -> Iterator[Observation]:
        with self._sources.lock:
            if self._process != process.number:
                # a forked child, whose pools begin anew
                self._recorded.clear()
                self._process = process.number
            readings = self._sources.read()
            for reading in readings:
                if reading.histograms is not None:
                    self._record(reading.name, reading.histograms)
        yield Observation(len(readings))

    def _record(self, name: str, now: Histograms) -> None:
        before = self._recorded.get(name, Histograms())
        self._recorded[name] = now
        for key, instrument in self._instruments.items():
            for seconds in _new(getattr(before, key), getattr(now, key)):
                instrument.record(seconds, {_POOL: name})


def _new(before: Histogram, now: Histogram) -> Iterator[float]:
    """As many as there are new ones in each bucket, all their mean."""
    lower = 0.0
    for place, upper in enumerate([*BOUNDS, math.inf]):
        count = now.counts[place] - before.counts[place]
        if count > 0:
            mean = (now.sums[place] - before.sums[place]) / count
            if place:
                # what is rounded stays in its bucket
                mean = max(mean, math.nextafter(lower, math.inf))
            for _ in range(count):
                yield min(mean, upper)
        lower = upper
