"""The command line: ``python -m sa_reaperpool``."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import textwrap
from collections.abc import Callable
from collections.abc import Sequence
from typing import ClassVar
from typing import NoReturn
from typing import TypeAlias

from . import __version__
from . import redact

_PROGRAM = "python -m sa_reaperpool"

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
them at the end, also after Ctrl-C; that takes about a second, in which more
of those change nothing.  Nothing else in the database is read or changed.

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

_COMPARE = """\
Threads run a mix of transactions, short and long, on your own database,
through SQLAlchemy's QueuePool and through ReaperPool, in turns and with the
same seed; then they fight for connections that each holds for no time.  A
table says how much came through and how long threads waited.  A picture shows
it thread by thread, with who held which connection when.
"""

_COMPARE_MORE = """\
Nothing in the database is read or changed but a temporary table, which each
connection makes for itself and which the database drops with the connection,
whatever way that ends.  On PostgreSQL this needs the right TEMPORARY on the
database, on MySQL CREATE TEMPORARY TABLES, on SQLite none.  There are never
more connections than --connections, by either pool.  An address behind
PgBouncer in transaction mode cannot be used: there a table would not stay
with its connection.

The picture is one HTML file that needs nothing else and loads nothing.  It
shows the name of the driver, and nothing else of the URL.  A file of that
name is written anew, but for one that is a database of SQLite's.

exit status:
  0    compared, for better or worse
  2    wrong usage, or the database or the file cannot be used
  130  ended by Ctrl-C

examples:
  python -m sa_reaperpool compare sqlite:///app.db
  python -m sa_reaperpool compare postgresql+psycopg2://me@localhost/test
  python -m sa_reaperpool compare URL --threads 40 --connections 10
"""


def _number(
    kind: Callable[[str], float], least: float, most: float
) -> Callable[[str], float]:
    """Make a type of argument: a number within these."""

    what = "a whole number" if kind is int else "a number"

    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} (allowed: {what} from {least} to {most})"
            )
        return number

    return parse


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

    given: ClassVar[Sequence[str]] = ()
    """The command line; one for all commands."""

    def error(self, message: str) -> NoReturn:
        super().error(redact.arguments(message, self.given))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
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
    _add_compare(commands)
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
        type=_number(int, 2, 200),
        default=16,
        metavar="N",
        help=f"how many threads share the {connections} connections "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--seconds",
        type=_number(float, 2, 3600),
        default=seconds,
        metavar="S",
        help=f"{how_long} (default: %(default)s)",
    )


def _add_compare(commands: _Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="see both pools at work on your own database, and a picture",
        description=textwrap.dedent(_COMPARE),
        epilog=textwrap.dedent(_COMPARE_MORE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument(
        "url", metavar="URL", help="your database, as SQLAlchemy writes it"
    )
    compare.add_argument(
        "--seconds",
        type=_number(float, 2, 600),
        default=20,
        metavar="S",
        help="how long to work, half of it on each pool "
        "(default: %(default)s)",
    )
    compare.add_argument(
        "--threads",
        type=_number(int, 2, 200),
        default=16,
        metavar="N",
        help="how many threads share the connections (default: %(default)s)",
    )
    compare.add_argument(
        "--connections",
        type=_number(int, 1, 50),
        default=4,
        metavar="N",
        help="how many connections there are at any time "
        "(default: %(default)s)",
    )
    compare.add_argument(
        "--seed",
        type=_seed,
        default=1,
        metavar="N",
        help="repeat the transactions of this number (default: %(default)s)",
    )
    compare.add_argument(
        "--out",
        default="reaperpool-compare.html",
        metavar="FILE",
        help="the picture (default: %(default)s)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""

    _Parser.given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(_Parser.given)
    if sys.stdout is None:
        words = f"{_PROGRAM} {options.command}: error: no standard output"
        print(words, file=sys.stderr)
        return 2
    try:
        if options.command == "compare":
            from .compare import run as compare

            return compare(
                options.url,
                seconds=options.seconds,
                threads=options.threads,
                connections=options.connections,
                seed=options.seed,
                out=options.out,
            )

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
    except KeyboardInterrupt as err:
        if err.args:
            words = f"{_PROGRAM} {options.command}: error: {err}"
            print(words, file=sys.stderr)
        return 130


if __name__ == "__main__":
    status = main()
    # all is done, and one more would be a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)
