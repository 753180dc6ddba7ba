"""ReaperPool beside its peers: all figures in one table, and two pictures.

::

    pip install -e ".[bench]"
    python -m benchmarks --quick
    python -m benchmarks --table README.rst --pictures docs/pictures

Each room measures one thing, of all pools in the same run and in turns, so
that whatever else the machine does meets all of them; most figures are ratios
to QueuePool, which carry over to other machines as times do not.  PostgreSQL
is started for it, unless --url has the address of one.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from pathlib import Path
from typing import Any
from typing import NoReturn

from .rows import Row
from .rows import Skip
from .settings import Settings
from .table import on_screen
from .table import summary
from .table import surroundings
from .table import write

# A room is ``benchmarks/NAME.py`` with ``run(settings) -> list[Row]``, or a
# function of such a module; what --list says of it is its docstring's first
# line.
ROOMS = {
    "stub": "uncontended.on_stub",
    "psycopg2": "uncontended.on_postgresql",
    "query": "query.run",
    "contended": "contended.run",
    "sessions": "sessions.run",
    "reserved": "reserved.run",
    "rounds": "reaping.rounds",
    "deaths": "reaping.deaths",
    "memory": "footprint.memory",
    "thousand": "footprint.thousand",
}


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.list:
        for name in ROOMS:
            print(f"{name:12}{_about(name)}")
        return 0
    # a server, and Ruby, are to be ended whichever way this ends
    signal.signal(signal.SIGTERM, _ended)
    rows: list[Row] = []
    try:
        with Settings(given.url, given.quick) as settings:
            for name in given.only or ROOMS:
                rows += _measured(name, settings)
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130
    print(f"\n{on_screen(rows)}\n\n{surroundings()}\n{summary(rows)}")
    if given.table is not None:
        write(given.table, rows)
    if given.pictures is not None:
        given.pictures.mkdir(parents=True, exist_ok=True)
        for name, svg in settings.pictures.items():
            path = given.pictures / f"{name}.svg"
            path.write_text(svg, encoding="utf-8")
    if given.json is not None:
        given.json.mkdir(parents=True, exist_ok=True)
        for where, suite in settings.suites.items():
            path = given.json / f"{where.replace(' ', '-')}.json"
            suite.dump(str(path), replace=True)
    return 0


def _measured(name: str, settings: Settings) -> list[Row]:
    settings.say(f"{name}: {_about(name)}")
    began = time.monotonic()
    try:
        rows: list[Row] = _room(name)(settings)
    except Skip as reason:
        rows = [Row(_about(name), "ReaperPool", None, note=str(reason))]
    settings.say(f"  {time.monotonic() - began:.0f} s")
    return rows


def _room(name: str) -> Any:
    module, _, function = ROOMS[name].partition(".")
    try:
        found = importlib.import_module(f"benchmarks.{module}")
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed: "
            'pip install -e ".[bench]" brings what this needs'
        ) from None
    return getattr(found, function)


def _about(name: str) -> str:
    room = _room(name)
    text = room.__doc__ or sys.modules[room.__module__].__doc__ or name
    return str(text).strip().splitlines()[0].rstrip(".")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="of a PostgreSQL to use")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few rounds, under a minute: shows that it works, not more",
    )
    parser.add_argument(
        "--only", nargs="+", choices=ROOMS, metavar="NAME", help="see --list"
    )
    parser.add_argument(
        "--list", action="store_true", help="say what can be measured"
    )
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="to write it to, in reST; in README.rst it takes its place",
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="to write SVGs to"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FOLDER",
        help="to write all timings to, for pyperf's own commands",
    )
    return parser


def _ended(signum: int, frame: object) -> NoReturn:
    # once: what follows is the end
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
