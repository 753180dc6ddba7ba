"""What is asked on the command line, and what it answers."""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from . import __doc__ as _doc
from .accounting import Findings
from .pools import POOLS
from .run import Options
from .run import Target
from .run import torture

NAMES = {"reaper": "ReaperPool", "queue": "QueuePool"}
RECOVERY = 1.0
"""Seconds that ReaperPool may take until the first commit."""


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    # whose locks, in libpq, a child would find held: see benchmarks/forks.py
    os.environ.setdefault("PGGSSENCMODE", "disable")
    # that it forks while threads run is the purpose
    warnings.filterwarnings("ignore", message=".*fork", module=r".*torture")
    # what the pools have to say is what is counted here
    logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())
    options = Options(given.seconds, given.threads, given.seed)
    kinds = list(POOLS) if given.pool == "both" else [given.pool]
    print(
        f"{options.threads} threads, {options.seconds:g} s for each pool, "
        f"seed {options.seed}",
        flush=True,
    )
    found = {}
    with _target(given.url) as target:
        for kind in kinds:
            found[kind] = torture(kind, target, options)
            print("\n" + _report(NAMES[kind], found[kind]), flush=True)
    if "reaper" not in found:
        return 0
    wrong = {
        name: count
        for name, count in found["reaper"].must_be_zero().items()
        if count
    }
    if wrong:
        print(f"\nReaperPool has what must be 0: {', '.join(wrong)}")
    if not found["reaper"].transfers.committed:
        print("\nReaperPool committed nothing")
        return 1
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=_doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "url",
        nargs="?",
        help="of a PostgreSQL to use; its server is not killed. "
        "Default: a server of the bench's own",
    )
    parser.add_argument("--seconds", type=float, default=60, metavar="N")
    parser.add_argument("--threads", type=int, default=32, metavar="N")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(10**6),
        metavar="N",
        help="draws the faults; default: another one each time",
    )
    parser.add_argument(
        "--pool", choices=[*POOLS, "both"], default="both"
    )
    return parser


@contextmanager
def _target(url: str | None) -> Iterator[Target]:
    if url is not None:
        given = make_url(url).set(drivername="postgresql+psycopg2")
        if given.host is None:
            raise SystemExit("The address needs a host: a relay goes between")
        yield Target(given, None)
        return
    # the launcher is that of the tests
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    from servers import PostgreSQL

    with PostgreSQL(durable=True) as server:
        yield Target(make_url(server.url("psycopg2")), server)


def _report(name: str, found: Findings) -> str:
    transfers, progress = found.transfers, found.progress
    faults = ", ".join(
        f"{fault} {count}"
        for fault, count in sorted(progress.faults.items())
        if fault not in ("none", "end")
    )
    lines = [
        name,
        f"  faults: {faults}",
        _line("transfers committed", transfers.committed),
        _line("  by forked children", progress.children),
        _line("failed before COMMIT, and tried again", transfers.failed),
        _line("broken during COMMIT, and committed", transfers.unknown_kept),
        _line("broken during COMMIT, and not", transfers.unknown_gone),
        _line("most connections at once", found.capacity.most),
        _line(
            "longest without a commit, database there",
            f"{progress.longest_pause * 1000:.0f} ms",
        ),
        _recovery(progress.recoveries),
        "  and these must be 0:",
    ]
    lines += [
        _line(what, count) for what, count in found.must_be_zero().items()
    ]
    return "\n".join(lines)


def _line(what: str, value: object) -> str:
    return f"    {what:<42}{value!s:>14}"


def _recovery(times: list[float]) -> str:
    what = "first commit after a server's return"
    if not times:
        return _line(what, "no restart")
    bar = "" if max(times) < RECOVERY else f", not under {RECOVERY:g} s"
    return _line(
        what,
        f"median {statistics.median(times) * 1000:.0f} ms, "
        f"longest {max(times) * 1000:.0f} ms{bar}",
    )


if __name__ == "__main__":
    sys.exit(main())
