"""The live view, by ``rich``: ``pip install sa-reaperpool[watch]``.

:func:`.lines` is a plain function of a frame and a size, and never gives
more lines than there is room for.  Whatever others have named becomes text
with a style beside it, and is never read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from rich.cells import cell_len
from rich.cells import set_cell_size
from rich.console import Console
from rich.console import Group
from rich.live import Live
from rich.text import Text

from . import tables
from .demo_screen import Screen
from .snapshot import ConnectionInfo
from .snapshot import LineInfo
from .snapshot import WaitingInfo
from .watch_parts import Event
from .watch_parts import Frame
from .watch_parts import shortened
from .words import duration
from .words import one_line

_STYLES = {
    "in use": "yellow",
    "reserved": "magenta",
    "kept": "bright_blue",
    "idle": "green",
    "waits": "red",
}
_SHORT = {"in transit": "transit"}
_QUIET = "dim"
_ALARM = "bold red"
_HEAD = "bold reverse"

_LONGEST_NAME = 24
_LONGEST_LABEL = 16
_LONGEST_REASON = 12
_SHORTEST_LINE = 18
"""With less room for the line, other columns go."""


class Cell(NamedTuple):
    words: str
    style: str = ""


Row = tuple[Cell, ...]
"""A cell for each of these; what stands in the last one is the
application's line."""

_CONNECTIONS = ("state", "for", "unused", "held by", "label", "line")
_WAITING = ("waiting", "for", "", "thread", "label", "line")
_STATE, _FOR, _UNUSED, _BY, _LABEL, _LINE = range(6)


class LiveView:
    """Shows frames in the terminal's other screen, and gives it back.

    :param screen: told when nobody is there to see it.

    """

    def __init__(self, console: Console, screen: Screen) -> None:
        self._console = console
        self._screen = screen
        # refreshed by the thread that shows, so that none of it comes after
        # the end, and an error where somebody sees it
        self._live = Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # the terminal may have gone
        with suppress(OSError):
            self._live.stop()

    def show(self, frame: Frame) -> None:
        width, height = self._console.size
        try:
            self._live.update(
                Group(*lines(frame, width, height)), refresh=True
            )
        except OSError:
            self._screen.gone = True


def live(screen: Screen) -> LiveView | None:
    """The live view, if the standard output is a terminal that can do it."""

    console = Console(highlight=False, markup=False, emoji=False)
    able = (
        screen.is_terminal
        and console.is_terminal
        and not console.is_dumb_terminal
        and not console.legacy_windows
        and console.encoding.startswith("utf")
    )
    return LiveView(console, screen) if able else None


def lines(frame: Frame, width: int, height: int) -> list[Text]:
    """What there is to see, in at most so many lines.

    Each part has its place, whatever is in it, so that nothing jumps: first
    the connections, then who waits, then the reaps, the newest at the end.

    """
    snapshot = frame.snapshot
    head = list(_head(frame, width))
    # but for a line between two parts
    room = max(0, height - len(head) - 2)
    limit = snapshot.stats.limit
    most = max(room // 2, min(room, 4))
    first = most if limit is None else min(most, limit + 1)
    second = min(12, (room - first) // 2)

    held = [_connection(each, frame.long) for each in snapshot.connections]
    waiting = [_waits(each) for each in snapshot.waiting]
    widths = _widths([*held, *waiting], width)

    shown = _fitting(len(held), _all_connections(frame), first)
    found = [*head, _header(_CONNECTIONS, widths, width)]
    found += (_row(each, widths) for each in held[:shown])
    if shown < _all_connections(frame):
        found.append(_more_connections(frame, shown, width))
    _fill(found, len(head) + first + 1)

    # how many wait is in the head, too
    if second > 2:
        place = len(found)
        shown = _fitting(len(waiting), snapshot.stats.waiting, second)
        found.append(_header(_WAITING, widths, width))
        found += (_row(each, widths) for each in waiting[:shown])
        if shown < snapshot.stats.waiting:
            more = f"and {snapshot.stats.waiting - shown} more wait"
            found.append(_more(more, snapshot.waiting_lines, width))
        _fill(found, place + second + 1)

    found += _events(frame, width, height - len(found))
    for each in found:
        each.no_wrap = True
        each.overflow = "crop"
    return found[:height]


def _fitting(given: int, there: int, room: int) -> int:
    """So many rows fit below their header, with a line for the rest."""

    if there <= min(given, room - 1):
        return there
    return max(0, min(given, room - 2))


def _fill(found: list[Text], size: int) -> None:
    found += (Text() for _ in range(size - len(found)))


def _head(frame: Frame, width: int) -> Iterator[Text]:
    snapshot = frame.snapshot
    times = f" {frame.elapsed:.1f} of {frame.seconds:g} s, Ctrl-C ends it "
    title = f" {one_line(snapshot.name)} on {one_line(frame.database, 200)} "
    title = _cut(title, width - len(times) - 5)
    between = width - cell_len(title) - len(times) - 4
    yield Text.assemble(
        ("\u2500\u2500", _QUIET),
        (title, "bold"),
        ("\u2500" * between, _QUIET),
        times,
        ("\u2500\u2500", _QUIET),
    )
    counts = Text(_cut(tables.now(snapshot), width), "bold")
    counts.highlight_regex(r"\d+ threads? waits?, .*$", _STYLES["waits"])
    yield counts
    so_far = tables.counters(snapshot)
    error = tables.connect_error(snapshot)
    if error is not None:
        yield Text(_cut(so_far, width), _QUIET)
        yield Text(_cut(error, width), _ALARM)
        return
    # in the error's place there is room for the rest, or nothing
    first, rest = so_far, ""
    while cell_len(first) > width and ";" in first:
        first, _, last = first.rpartition("; ")
        rest = f"{last}; {rest}" if rest else last
    yield Text(_cut(first, width), _QUIET)
    yield Text(_cut(rest, width), _QUIET)


# connections, and who waits


def _connection(each: ConnectionInfo, long: float) -> Row:
    state, lease = tables.state(each), each.lease
    style = _STYLES.get(state, _QUIET)
    state = _SHORT.get(state, state)
    if lease is None:
        return (
            Cell(state, style),
            Cell(_brief(each.seconds), style),
            *[Cell("")] * 4,
        )
    ended = not any(holder.alive for holder in lease.holders)
    if ended:
        style = _ALARM
    looked_at = not lease.kept and lease.held_for >= long
    return (
        Cell(state, style),
        Cell(_brief(lease.held_for), _ALARM if looked_at else style),
        Cell(_brief(lease.unused_for)),
        Cell(tables.holders(lease), _ALARM if ended else ""),
        Cell(_label(lease.label)),
        Cell(lease.where, "bold" if looked_at or ended else ""),
    )


def _waits(each: WaitingInfo) -> Row:
    return (
        Cell("connects" if each.connects else "waits", _STYLES["waits"]),
        Cell(_brief(each.seconds), _STYLES["waits"]),
        Cell(""),
        Cell("?" if each.thread is None else one_line(each.thread)),
        Cell(_label(each.label)),
        Cell(each.where or ""),
    )


def _all_connections(frame: Frame) -> int:
    stats = frame.snapshot.stats
    return stats.in_use + frame.snapshot.disposed + stats.opening + stats.idle


def _more_connections(frame: Frame, shown: int, width: int) -> Text:
    snapshot = frame.snapshot
    words = f"and {_all_connections(frame) - shown} more"
    if all(each.lease for each in snapshot.connections[:shown]):
        return _more(words, snapshot.holding_lines, width)
    return _more(words, (), width)


def _more(words: str, lines: Iterable[LineInfo], width: int) -> Text:
    """What has no row of its own; most of it has one line anyway."""

    by_line = ", ".join(
        f"{each.count} at {shortened(each.where, 0, cell_len)}"
        for each in lines
    )
    if by_line:
        words = f"{words}; of all: {by_line}"
    return Text(_cut(words, width), _QUIET)


# columns


def _widths(rows: Sequence[Row], width: int) -> list[int]:
    """How wide each column is; 0 for one that there is no room for."""

    by = max([cell_len(row[_BY].words) for row in rows], default=0)
    label = max([cell_len(row[_LABEL].words) for row in rows], default=0)
    widths = [
        8,
        6,
        6,
        min(max(by, 9), _LONGEST_NAME),
        min(max(label, 5), _LONGEST_LABEL) if label else 0,
        0,
    ]
    for column in (_LINE, _UNUSED, _LABEL, _FOR):
        widths[column] = 0
        taken = sum(each + 2 for each in widths if each) - 1
        if width - taken >= _SHORTEST_LINE:
            break
    widths[_LINE] = max(0, width - taken)
    return widths


def _header(titles: Sequence[str], widths: list[int], width: int) -> Text:
    row = _row([Cell(title) for title in titles], widths)
    row.truncate(width, pad=True)
    row.stylize(_HEAD)
    return row


def _row(cells: Sequence[Cell], widths: Sequence[int]) -> Text:
    row = Text()
    for column, (cell, width) in enumerate(zip(cells, widths)):
        if not width:
            continue
        words = cell.words
        if column == _LINE:
            words = shortened(words, width, cell_len)
        words = _cut(words, width)
        padding = " " * (width - cell_len(words))
        if column in (_FOR, _UNUSED):
            row.append(padding)
            row.append(words, cell.style)
        else:
            row.append(words, cell.style)
            row.append(padding)
        if column != _LINE:
            row.append(" " if column == _STATE else "  ")
    return row


def _cut(words: str, width: int) -> str:
    """The beginning, if there is no room for all of it."""

    if cell_len(words) <= width:
        return words
    if width <= 0:
        return ""
    return f"{set_cell_size(words, width - 1).rstrip()}\u2026"


def _label(label: str | None) -> str:
    return "" if label is None else one_line(label)


def _brief(seconds: float | None) -> str:
    """In six characters, as it is looked at while it changes."""

    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else duration(max(120, seconds))


# what happened


def _events(frame: Frame, width: int, room: int) -> Iterator[Text]:
    if room < 2:
        return
    shown = frame.events[-(room - 1) :]
    leases = [event.lease for event in shown if event.lease is not None]
    by = max([cell_len(tables.holders(lease)) for lease in leases], default=0)
    by = min(max(by, 9), _LONGEST_NAME)
    head = f"{'at':>8}  {'taken back':12}  {'from':{by}}  {'held':>6}  line"
    count = f"{frame.reaped} so far "
    space = width - cell_len(head) - len(count)
    if space > 0:
        head += " " * space + count
    header = Text(head, _HEAD)
    header.truncate(width, pad=True)
    header.stylize(_HEAD)
    yield header
    for event in shown:
        yield _event(event, by, width)


def _event(event: Event, by: int, width: int) -> Text:
    row = Text(f"{event.at:6.1f} s  ")
    if event.lease is None:
        words = one_line(event.words, 400)
        row.append(_cut(words, max(0, width - 10)), _QUIET)
        return row
    for words, size, style in (
        (one_line(event.words), _LONGEST_REASON, _STYLES["in use"]),
        (tables.holders(event.lease), by, ""),
    ):
        words = _cut(words, size)
        row.append(words, style)
        row.append(" " * (size - cell_len(words) + 2))
    row.append(f"{_brief(event.lease.held_for):>6}  ")
    room = max(0, width - cell_len(row.plain))
    line = shortened(event.lease.where, room, cell_len)
    row.append(_cut(line, room), "bold")
    return row
