"""connect() and close() by one thread, and what passive liveness costs.

Not by pyperf's Runner: that measures one benchmark after the other, each in
its own processes, and on a machine that does other things as well a minute
lies between the two halves of a ratio.  What is taken from pyperf is its
clock, its worker processes (several, since a process may be quick or slow by
how its memory came to lie), its warm-up and its file format.  In each worker
all pools are open side by side and take turns, in another order each round,
in batches of some milliseconds; the figure is the median of the rounds'
ratios.

A pool of SQLAlchemy's stands alone on the stub driver, and belongs to an
engine on PostgreSQL.  Nothing is sent to the server but by those that ping.

``python -m benchmarks.uncontended`` is such a worker.
"""

from __future__ import annotations

import gc
import io
import json
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyperf

from .peers import MEASURING
from .peers import OURS
from .peers import PEERS
from .peers import PINGING
from .peers import RAW
from .peers import RESERVED
from .peers import STEADY
from .peers import STOCK
from .peers import UNDER
from .peers import UNWATCHED
from .peers import Peer
from .peers import open_all
from .rows import Bar
from .rows import Row
from .rows import row_of
from .settings import Settings

STUB = [STOCK, OURS, PINGING, RESERVED, MEASURING, RAW, UNDER, STEADY]
REAL = [STOCK, OURS, PINGING, UNWATCHED, RAW, UNDER, STEADY]

BATCH = 0.004
"""Seconds: short, so that a round's batches meet the same machine."""

WARM_UP = 0.03
"""Seconds, for each pool."""

ROOT = Path(__file__).parents[1]


def run(settings: Settings) -> list[Row]:
    return on_stub(settings) + on_postgresql(settings)


def on_stub(settings: Settings) -> list[Row]:
    """connect() and close() on a driver that does nothing."""
    values, missing = _measure(settings, "stub driver", None, STUB)
    what = "connect() and close(), stub driver"
    measuring = values.pop(MEASURING)
    rows = _beside(what, values, missing, Bar("at most", 0.35))
    if RAW in values:
        ratios = _ratios(values[OURS], values[RAW])
        rows.insert(
            1,
            row_of(
                "the same, beside psycopg_pool's getconn() and putconn()",
                OURS,
                ratios,
                "× psycopg_pool",
                Bar("below", 1),
            ),
        )
    again = "with_connection() when reserved, beside connect() and close()"
    for name, seconds in values.items():
        if name.endswith(", reserved"):
            ours = name == RESERVED
            rows.append(
                row_of(
                    again,
                    OURS if ours else name.removesuffix(", reserved"),
                    _ratios(seconds, values[STOCK]),
                    bar=Bar("at most", 0.1) if ours else None,
                )
            )
    rows.append(
        _cost(
            "histograms, a checkout",
            measuring,
            values[OURS],
            Bar("at most", 0.3),
        )
    )
    return rows


def on_postgresql(settings: Settings) -> list[Row]:
    """connect() and close() on psycopg2, and what passive liveness costs."""
    values, missing = _measure(settings, "PostgreSQL", settings.url, REAL)
    what = "connect() and close(), psycopg2"
    watched = values[OURS]
    unwatched = values.pop(UNWATCHED)
    rows = _beside(what, values, missing, Bar("at most", 0.5))
    rows.append(
        _cost(
            "passive liveness, a checkout",
            watched,
            unwatched,
            Bar("at most", 1.5),
        )
    )
    return rows


def _cost(
    what: str, with_it: list[float], without: list[float], bar: Bar
) -> Row:
    """What it adds to connect() and close()."""
    costs = [(a - b) * 1e6 for a, b in zip(with_it, without)]
    return row_of(what, OURS, costs, "µs", bar)


NOTES = {
    RAW: "psycopg 3",
    UNDER: "psycopg 3",
    "ActiveRecord": "pings at each checkout up to 7.0",
}


def _beside(
    what: str,
    values: dict[str, list[float]],
    missing: dict[str, str],
    bar: Bar,
) -> list[Row]:
    """Each pool's seconds by QueuePool's, round by round."""
    stock = values[STOCK]
    rows = []
    for name in sorted(values, key=lambda name: (name != OURS, name != STOCK)):
        if name.endswith(", reserved"):
            continue
        ours = name == OURS
        note = ""
        if "psycopg2" in what:
            notes = (NOTES[key] for key in NOTES if name.startswith(key))
            note = next(notes, "")
        if name == STOCK:
            # a ratio to itself tells nothing; its time does
            micro = [second * 1e6 for second in stock]
            rows.append(row_of(what, name, micro, "µs"))
            continue
        rows.append(
            row_of(
                what,
                name,
                _ratios(values[name], stock),
                bar=bar if ours else None,
                note=note,
            )
        )
    rows += [
        Row(what, name, None, note=reason)
        for name, reason in missing.items()
    ]
    return rows


def _ratios(some: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(some, others)]


def _measure(
    settings: Settings, where: str, url: str | None, names: list[str]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds a use, by pool, and why the pools that lack do so."""
    values: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    processes = settings.rounds(6, 1)
    for number in range(processes):
        settings.say(f"  {where}: process {number + 1} of {processes}")
        order = {
            "url": url,
            "names": names,
            "rounds": settings.rounds(40, 12),
            "seed": number,
        }
        # the order holds a password, and an argument is for all to see
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.uncontended"],
            input=json.dumps(order),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
            # Ctrl-C is for this process, which then ends that one
            start_new_session=True,
        )
        answer = json.loads(done.stdout)
        missing |= answer["missing"]
        suite = pyperf.BenchmarkSuite.loads(answer["suite"])
        settings.keep(suite, where)
        for benchmark in suite:
            seconds = values.setdefault(benchmark.get_name(), [])
            seconds += benchmark.get_values()
    return values, missing


# the worker


def main() -> None:
    told = sys.stdin.read()
    if not told:
        # who began this was interrupted before it could say what to do
        return
    order = json.loads(told)
    with ExitStack() as stack:
        names = [name for name in PEERS if name in order["names"]]
        peers, missing = open_all(order["url"], names, stack)
        suite = _take_turns(peers, order["rounds"], order["seed"])
    text = io.StringIO()
    suite.dump(text)
    print(json.dumps({"suite": text.getvalue(), "missing": missing}))


def _take_turns(peers: list[Peer], rounds: int, seed: int) -> Any:
    shuffle = random.Random(seed).shuffle
    counts = {peer.name: _count(peer) for peer in peers}
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    # what the imports left behind is not to be looked through again
    gc.collect()
    gc.freeze()
    order = list(peers)
    for _ in range(rounds):
        shuffle(order)
        for peer in order:
            count = counts[peer.name]
            # nobody collects what another has left
            gc.collect()
            peer.batch(max(count // 10, 1))
            seconds[peer.name].append(peer.batch(count) / count)
    return pyperf.BenchmarkSuite(
        [
            pyperf.Benchmark(
                [
                    pyperf.Run(
                        values,
                        metadata={"name": name, "unit": "second"},
                        collect_metadata=False,
                    )
                ]
            )
            for name, values in seconds.items()
        ]
    )


def _count(peer: Peer) -> int:
    """How many uses make a batch; warms up."""
    count, took, spent = 16, 0.0, 0.0
    while took < BATCH or spent < WARM_UP:
        if took < BATCH / 2:
            count *= 2
        took = peer.batch(count)
        spent += took
    return max(int(count * BATCH / took), 1)


if __name__ == "__main__":
    main()
