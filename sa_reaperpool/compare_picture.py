"""The comparison's picture: one HTML document, with drawings in SVG in it.

It has no script and loads nothing.  Places along an axis are percentages, so
that a drawing is as wide as its page, and its letters are of one size.  A
plain function of the record; it is well-formed XML, too.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

from . import compare_figures as figures
from . import compare_style as style
from .compare_figures import POOLS
from .compare_figures import Hold
from .compare_figures import Section
from .compare_figures import Window
from .compare_figures import quantile
from .compare_figures import short
from .compare_work import BARE
from .compare_work import MIXED
from .compare_work import Log
from .words import one_line

MOST_HOLDS = 900
"""In each timeline: more would be no picture, and a large file."""

MOST_THREADS = 32
"""Whose waits are shown."""

WINDOWS = {MIXED: 0.4, BARE: 0.01}
"""Seconds of a timeline, at most."""

_FIRST, _DECADES = 1e-6, 7
"""The axis of waits: seconds where it begins, and tenfolds."""

_TICKS = [
    *("1 \u00b5s", "10 \u00b5s", "100 \u00b5s"),
    *("1 ms", "10 ms", "100 ms", "1 s", "10 s"),
]

_LANE = 22
_GAP = 17
"""The height of a lane, and of what is above it."""


def page(
    facts: Iterable[tuple[str, str]],
    sections: Sequence[Section],
    verdict: Iterable[str],
    logs: Sequence[Log],
) -> str:
    """Draw it.

    :param facts: what was compared where, by names.

    :param verdict: sentences.

    """
    parts = [
        "<h1>QueuePool and ReaperPool at the same work</h1>",
        "<dl>",
        *(
            f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
            for name, value in facts
        ),
        "</dl>",
        '<div class="sum"><div>',
        *_figures(sections),
        "</div><ul>",
        *(f"<li>{_text(sentence)}</li>" for sentence in verdict),
        "</ul></div>",
        *_part(logs, MIXED, _MIXED),
        *_part(logs, BARE, _BARE),
        "<h2>How it was measured</h2>",
        *(f"<p>{_text(_flat(words))}</p>" for words in _NOTES),
    ]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en" '
        'xmlns="http://www.w3.org/1999/xhtml">\n<head>'
        '<meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width"/>'
        '<meta name="referrer" content="no-referrer"/>'
        "<title>QueuePool and ReaperPool at the same work</title>"
        f"<style>{style.sheet()}</style></head>\n<body>\n"
        f"{style.patterns()}{body}\n</body>\n</html>\n"
    )


_MIXED = """Reads, writes, ORM sessions, transactions that pause for some
milliseconds, and a few for longer; between them each thread does something
else, without a connection."""

_BARE = """Each thread takes a connection, gives it back at once, and asks
for the next.  No program does only that; it shows whom a pool serves when
many ask at the same time."""

_NOTES = (
    """Both pools were at work in turns, QueuePool first and last, each time
    with connections that were opened before.  All options were as they come,
    but for the size, no overflow, and the time limit of a checkout.""",
    """Each thread noted by itself, outside of the pool, when it asked for a
    connection, when it had it, which one it was, and when it was about to
    give it back.  The reset on return is not part of a hold: it is in the
    gaps between two.""",
    """Waits that ended with an error are among the waits.  A thread's first
    use of a pool, which may take longer, is as well.""",
)


def _part(logs: Sequence[Log], part: str, words: str) -> Iterator[str]:
    title = figures.TITLES[part]
    yield f"<section><h2>{_text(title)}</h2><p>{_text(_flat(words))}</p>"
    yield from _waits(logs, part)
    yield from _timelines(logs, part)
    yield "</section>"


# the table


def _figures(sections: Sequence[Section]) -> Iterator[str]:
    heads = "".join(
        f'<th scope="col" class="{pool}">{pool}</th>' for pool in POOLS
    )
    yield '<table class="figures"><thead><tr><td></td>'
    yield f"{heads}</tr></thead>"
    for section in sections:
        yield (
            '<tbody><tr><th class="part" scope="rowgroup" colspan="3">'
            f"{_text(section.title)}</th></tr>"
        )
        for name, *cells in section.rows:
            row = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
            yield f'<tr><th scope="row">{_text(name)}</th>{row}</tr>'
        yield "</tbody>"
    yield "</table>"


# waits per thread


def _waits(logs: Sequence[Log], part: str) -> Iterator[str]:
    by_pool = {
        pool: _joined(figures.logs_of(logs, pool, part)) for pool in POOLS
    }
    threads = max(map(len, by_pool.values()), default=0)
    step = math.ceil(threads / MOST_THREADS) or 1
    shown = range(0, threads, step)
    every = "" if step == 1 else f" Every {_ordinal(step)} thread is shown."
    yield (
        "<h3>How long each thread waited for a connection</h3>"
        f"{_waits_key()}"
        '<figure><table class="waits"><thead><tr>'
        '<th class="name" scope="col">thread</th>'
        f'<td><svg class="plot" height="18" aria-hidden="true">{_ticks()}'
        '</svg></td><th class="last" scope="col">waits</th></tr></thead>'
        "<tbody>"
    )
    for number in shown:
        own = {pool: sorted(by_pool[pool][number]) for pool in POOLS}
        counts = "<br/>".join(
            f'<span class="{pool}" style="stroke:none">{len(own[pool]):,}'
            "</span>"
            for pool in POOLS
        )
        yield (
            f'<tr><th scope="row">thread-{number + 1}</th><td>'
            f"{_thread(number + 1, own)}</td>"
            f'<td class="last">{counts}</td></tr>'
        )
    yield (
        "</tbody></table><figcaption>Waiting time, on a logarithmic axis: a "
        "step to the right is ten times as long. Over all rounds."
        f"{every}</figcaption></figure>"
    )


def _joined(logs: Sequence[Log]) -> list[list[float]]:
    by_thread: list[list[float]] = []
    for log in logs:
        for number, waits in enumerate(figures.waits_by_thread(log)):
            if number == len(by_thread):
                by_thread.append([])
            by_thread[number] += waits
    return by_thread


def _thread(number: int, own: dict[str, list[float]]) -> str:
    words = "; ".join(
        f"{pool}: median {short(quantile(waits, 0.5))}, longest "
        f"{short(quantile(waits, 1))}"
        for pool, waits in own.items()
    )
    marks = "".join(
        _marks(pool, waits, 8 + 10 * row)
        for row, (pool, waits) in enumerate(own.items())
    )
    return (
        f'<svg class="plot" height="26" role="img" '
        f'aria-label="thread-{number}: {_text(words)}">'
        f"<title>thread-{number}: {_text(words)}</title>"
        f"{_grid(26)}{marks}</svg>"
    )


def _marks(pool: str, waits: Sequence[float], y: float) -> str:
    if not waits:
        return ""
    least, low, middle, high, most = (
        _place(quantile(waits, part)) for part in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<g class="{pool}">'
        f'<line class="range" x1="{least}%" x2="{most}%" y1="{y}" y2="{y}"/>'
        f'<rect class="quart" x="{low}%" width="{high - low:.2f}%" '
        f'y="{y - 3.5}" height="7"/>'
        f'<line class="middle" x1="{middle}%" x2="{middle}%" y1="{y - 4.5}" '
        f'y2="{y + 4.5}"/>'
        f'<circle class="most" cx="{most}%" cy="{y}" r="3"/></g>'
    )


def _place(seconds: float) -> float:
    place = math.log10(max(seconds, _FIRST) / _FIRST) / _DECADES
    return round(100 * min(place, 1), 2)


def _grid(height: float) -> str:
    return "".join(
        f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="{height}"/>'
        for x in _decades()
    )


def _ticks() -> str:
    return "".join(
        f'<text x="{x}%" y="13" text-anchor="{_anchor(x)}"'
        f"{_odd(number)}>{tick}</text>"
        for number, (x, tick) in enumerate(zip(_decades(), _TICKS))
    )


def _decades() -> list[float]:
    return [
        round(100 * number / _DECADES, 2) for number in range(_DECADES + 1)
    ]


def _anchor(x: float) -> str:
    return "start" if x == 0 else "end" if x == 100 else "middle"


def _odd(number: int) -> str:
    # a narrow page has no room for each
    return ' class="odd"' if number % 2 else ""


def _waits_key() -> str:
    pools = "".join(
        f'<span class="{pool}"><svg viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect width="10" height="10" class="{pool}"/></svg>{pool}</span>'
        for pool in POOLS
    )
    marks = {
        "half of the waits": '<rect class="quart" y="2" width="10" '
        'height="6"/>',
        "median": '<line class="middle" x1="5" x2="5" y1="0" y2="10"/>',
        "shortest to longest": '<line class="range" x1="0" x2="10" y1="5" '
        'y2="5"/>',
        "longest": '<circle class="most" cx="5" cy="5" r="3"/>',
    }
    signs = "".join(
        '<span><svg viewBox="0 0 10 10" fill="currentColor" '
        f'stroke="currentColor" aria-hidden="true">{mark}</svg>{name}</span>'
        for name, mark in marks.items()
    )
    return f'<div class="key">{pools}{signs}</div>'


# timelines


def _timelines(logs: Sequence[Log], part: str) -> Iterator[str]:
    found = figures.windows(logs, part, WINDOWS[part], MOST_HOLDS)
    if not found:
        return
    yield "<h3>Which thread held which connection</h3>"
    yield _threads_key({hold.thread for each in found for hold in each.holds})
    for each in found:
        yield from _timeline(each)
    yield (
        f'<p class="soft">{short(found[0].seconds)} from the midst of a '
        "round of each pool. A bar is one hold; its number and colour are "
        "those of the thread, and pointing at it shows them. What is grey "
        "was free, or on its way from one thread to the next.</p>"
    )


def _timeline(window: Window) -> Iterator[str]:
    threads = len({hold.thread for hold in window.holds})
    words = (
        f"{window.pool}: {len(window.lanes)} connections, "
        f"{len(window.holds)} holds of {threads} threads in "
        f"{short(window.seconds)}"
    )
    height = len(window.lanes) * (_LANE + _GAP) + 22
    yield (
        f'<figure><div><span class="pool {window.pool}">{window.pool}</span>'
        f' <span class="soft">{len(window.holds)} holds of {threads} '
        "threads</span></div>"
        f'<svg class="plot timeline" height="{height}" role="img" '
        f'aria-label="{_text(words)}">'
    )
    for row, lane in enumerate(window.lanes):
        y = row * (_LANE + _GAP) + _GAP
        holds = [hold for hold in window.holds if hold.lane == lane]
        yield (
            f'<g class="connection"><text x="0" y="{y - 4}">connection '
            f'{lane}</text><rect class="lane" x="0" width="100%" y="{y}" '
            f'height="{_LANE}"/>'
        )
        yield from (_hold(hold, y, window.seconds) for hold in holds)
        yield "</g>"
    yield from _time_axis(window.seconds, height)
    yield "</svg></figure>"


def _hold(hold: Hold, y: float, whole: float) -> str:
    x = 100 * hold.begin / whole
    width = 100 * (hold.end - hold.begin) / whole
    name = f"thread-{hold.thread}"
    words = f"{name}: {short(hold.end - hold.begin)}"
    bar = (
        f'<rect class="hold {style.kind(hold.thread)}" x="{x:.3f}%" '
        f'width="{width:.3f}%" y="{y}" height="{_LANE}">'
        f"<title>{_text(words)}</title></rect>"
    )
    if width < 2:
        return bar
    small = "" if width > 6 else " small"
    middle = f'x="{x + width / 2:.3f}%" y="{y + _LANE / 2 + 4}"'
    return (
        f'{bar}<text class="label{small}" {middle} text-anchor="middle" '
        f'style="{style.read_on(hold.thread)}">{hold.thread}</text>'
    )


def _time_axis(seconds: float, height: float) -> Iterator[str]:
    for number in range(5):
        x = 25.0 * number
        yield (
            f'<line class="grid" x1="{x}%" x2="{x}%" y1="{height - 20}" '
            f'y2="{height - 15}"/>'
            f'<text x="{x}%" y="{height - 3}" text-anchor="{_anchor(x)}"'
            f"{_odd(number)}>{_moment(seconds * number / 4)}</text>"
        )


def _moment(seconds: float) -> str:
    return f"{seconds * 1000:.4g} ms"


def _threads_key(threads: set[int]) -> str:
    chips = "".join(
        '<span><svg viewBox="0 0 14 14" aria-hidden="true">'
        f'<rect class="{style.kind(number)}" width="14" height="14"/></svg>'
        f"{number}</span>"
        for number in sorted(threads)
        if number <= style.OWN
    )
    more = ""
    if any(number > style.OWN for number in threads):
        more = f"<span>and again from {style.OWN + 1} on</span>"
    return f'<div class="key"><span>thread</span>{chips}{more}</div>'


def _ordinal(number: int) -> str:
    words = {2: "second", 3: "third"}
    return words.get(number, f"{number}th")


def _flat(words: str) -> str:
    return " ".join(textwrap.dedent(words).split())


def _text(words: str) -> str:
    return html.escape(one_line(words, 1000), quote=True)
