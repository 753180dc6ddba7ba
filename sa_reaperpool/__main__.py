"""The command line: ``python -m sa_reaperpool``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn
from typing import TypeAlias

from . import __version__
from . import redact

_DEMO = """\
Threads move money between accounts, through ordinary ORM sessions, first on
SQLAlchemy's QueuePool and then, with the same seed, on ReaperPool.  On the
way some threads die while they hold a connection and one forgets a
connection; on PostgreSQL the server also ends the idle connections now and
then.  The table at the end says what each pool made of it, and whether the
money is all there.
"""

_DEMO_MORE = """\
The demo makes two tables of its own, named reaperpool_demo_..., and drops
them at the end, also after Ctrl-C.  Nothing else in the database is read or
changed.

exit status:
  0    the ledger balances on both pools
  1    it does not
  2    wrong usage, or the database cannot be used
  130  ended by Ctrl-C

examples:
  python -m sa_reaperpool demo
  python -m sa_reaperpool demo --seconds 10 --threads 30
  python -m sa_reaperpool demo postgresql+psycopg2://me@localhost/test
"""

_WATCH = """\
The demo's work (see "demo") on ReaperPool alone, to be looked at while it is
done: a row for each connection, with its state, for how long it is held, by
which thread, under which label, and which line of the program took it; who
waits; and each connection that was taken back from a thread that had died.
It is made of what every program can ask of its pool, pool.snapshot() and the
event "reap".

The live view needs rich (pip install "sa-reaperpool[watch]") and a terminal;
else there are plain lines.  It has no colours where NO_COLOR is set.
"""

_WATCH_MORE = """\
The database is used, and left, as by "demo".

exit status:
  0    the ledger balances
  1    it does not
  2    wrong usage, or the database cannot be used
  130  ended by Ctrl-C

examples:
  python -m sa_reaperpool watch
  python -m sa_reaperpool watch --threads 50 --seconds 60
  python -m sa_reaperpool watch postgresql+psycopg2://me@localhost/test
"""


def _threads(text: str) -> int:
    try:
        threads = int(text)
    except ValueError:
        threads = 0
    if not 2 <= threads <= 200:
        raise argparse.ArgumentTypeError(
            f"{text!r} (allowed: a whole number from 2 to 200)"
        )
    return threads


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    # also refuses "nan", which is neither more nor less than anything
    if not 2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(
            f"{text!r} (allowed: a number from 2 to 3600)"
        )
    return seconds


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} (allowed: a whole number)"
        ) from None


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


class _Parser(argparse.ArgumentParser):
    """Quotes what it does not understand, but for URLs."""

    def error(self, message: str) -> NoReturn:
        super().error(redact.text(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m sa_reaperpool",
        description="A QueuePool for SQLAlchemy that looks after its "
        "connections.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"sa-reaperpool {__version__}",
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )

    demo = commands.add_parser(
        "demo",
        help="see the pool at work beside SQLAlchemy's QueuePool",
        description=textwrap.dedent(_DEMO),
        epilog=textwrap.dedent(_DEMO_MORE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_work(
        demo,
        connections=4,
        seconds=20,
        how_long="how long to work, half of it on each pool",
    )
    _add_watch(commands)
    return parser


def _add_watch(commands: _Commands) -> None:
    watch = commands.add_parser(
        "watch",
        help="see who holds a connection, who waits and what is taken back",
        description=textwrap.dedent(_WATCH),
        epilog=textwrap.dedent(_WATCH_MORE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_work(watch, connections=6, seconds=30, how_long="how long to work")


def _add_work(
    command: argparse.ArgumentParser,
    *,
    connections: int,
    seconds: float,
    how_long: str,
) -> None:
    """What can be said about the work: where, how much and for how long."""

    command.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        help="the database to use, as SQLAlchemy writes it; without one, "
        "an SQLite file in a temporary folder",
    )
    command.add_argument(
        "--seed",
        type=_seed,
        default=1,
        metavar="N",
        help="repeat the transfers and the accidents of this number "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--threads",
        type=_threads,
        default=16,
        metavar="N",
        help=f"how many threads share the {connections} connections "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--seconds",
        type=_seconds,
        default=seconds,
        metavar="S",
        help=f"{how_long} (default: %(default)s)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""

    options = _parser().parse_args(arguments)
    try:
        if options.command == "watch":
            from .watch import run
        else:
            from .demo_show import run

        return run(
            options.url,
            seed=options.seed,
            threads=options.threads,
            seconds=options.seconds,
        )
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
