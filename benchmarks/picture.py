"""Two pictures, as SVG documents that need nothing else.

Transparent, in colours that are seen on a white page and on a dark one; of
the same size whatever is in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from xml.sax.saxutils import escape

TEXT = "#74808c"
COLOURS = {"ReaperPool": "#2f81f7", "QueuePool": "#e0662f"}
OTHER = "#8b84a8"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"

WIDTH = 760
LEFT, RIGHT = 150, 122
PLOT = WIDTH - LEFT - RIGHT
HEAD, FOOT = 54, 44
STRIP, GAP = 64, 16
"""The height of a pool's strip, and what is between two."""

SHORTEST, DECADES, BINS = 1e-6, 8, 10
"""The axis of waits: seconds where it begins; bins to the decade."""

TICKS = ("1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s")


def waits(
    title: str,
    seconds: Mapping[str, Sequence[float]],
    whole: float | None = None,
) -> str:
    """How the waits of each pool are distributed, both axes logarithmic.

    :param seconds: of each checkout, by pool.

    :param whole: seconds that were measured, to be marked: who waited as
     long was not served at all.

    """
    counts = {name: _bins(some) for name, some in seconds.items()}
    most = max(max(some) for some in counts.values())
    top = math.log10(1 + most)
    parts = []
    base = HEAD + len(seconds) * (STRIP + GAP) - GAP
    for place, tick in enumerate(TICKS):
        x = LEFT + PLOT * place / DECADES
        parts.append(_line(x, HEAD - 6, x, base, dash=True))
        parts.append(_text(x, base + 18, tick, "middle", 12))
    if whole is not None:
        x = LEFT + PLOT * math.log10(whole / SHORTEST) / DECADES
        parts.append(_line(x, HEAD - 6, x, base))
        parts.append(_text(x, HEAD - 9, "the whole run", "middle", 12))
    parts.append(
        _text(
            LEFT + PLOT / 2,
            base + 38,
            "wait for a connection; a bar's height is the logarithm of how "
            "many waited so long",
            "middle",
            12,
        )
    )
    width = PLOT / DECADES / BINS
    for row, (name, some) in enumerate(counts.items()):
        floor = HEAD + row * (STRIP + GAP) + STRIP
        bars = []
        for place, count in enumerate(some):
            if count:
                # one is to be seen as well
                height = 3 + (STRIP - 3) * math.log10(count) / top
                x = LEFT + place * width
                bars.append(_bar(x, floor, width - 1, height))
        longest = max(seconds[name])
        parts += _strip(name, floor, bars, "longest", _time(longest))
    return _document(title, base + FOOT + 4, parts)


def served(title: str, checkouts: Mapping[str, Sequence[int]]) -> str:
    """How often each pool has served each thread, the most served first.

    :param checkouts: of each thread, by pool.

    """
    most = max(max(some) for some in checkouts.values())
    base = HEAD + len(checkouts) * (STRIP + GAP) - GAP
    parts = [
        _text(
            LEFT + PLOT / 2,
            base + 22,
            "a bar is a thread; its height is how many checkouts it got",
            "middle",
            12,
        )
    ]
    for row, (name, some) in enumerate(checkouts.items()):
        floor = HEAD + row * (STRIP + GAP) + STRIP
        width = PLOT / len(some)
        bars = []
        for place, count in enumerate(sorted(some, reverse=True)):
            height = max(STRIP * count / most, 1.5)
            x = LEFT + place * width
            space = min(width / 4, 4)
            bars.append(_bar(x + space / 2, floor, width - space, height))
        between = f"{min(some):,} to {max(some):,}"
        parts += _strip(name, floor, bars, "each thread", between)
    return _document(title, base + 36, parts)


def _strip(
    name: str, floor: float, bars: list[str], what: str, value: str
) -> list[str]:
    colour = COLOURS.get(name, OTHER)
    weight = "bold" if name in COLOURS else "normal"
    right = LEFT + PLOT + 12
    return [
        _text(LEFT - 12, floor - STRIP / 2 + 5, name, "end", 14, weight),
        _line(LEFT, floor + 0.5, LEFT + PLOT, floor + 0.5),
        f'<path fill="{colour}" d="{"".join(bars)}"/>',
        _text(right, floor - STRIP / 2 - 3, what, "start", 12),
        _text(right, floor - STRIP / 2 + 15, value, "start", 14, weight),
    ]


def _bins(seconds: Iterable[float]) -> list[int]:
    counts = [0] * (DECADES * BINS)
    for each in seconds:
        place = int(math.log10(max(each, SHORTEST) / SHORTEST) * BINS)
        counts[min(place, len(counts) - 1)] += 1
    return counts


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            value = seconds / size
            digits = 0 if value >= 10 else 1
            return f"{value:.{digits}f} {unit}"
    return "under 1 µs"


def _bar(x: float, floor: float, width: float, height: float) -> str:
    top = floor - height
    return f"M{x:.1f} {floor:.1f}V{top:.1f}h{width:.1f}V{floor:.1f}z"


def _line(
    x: float, y: float, to_x: float, to_y: float, dash: bool = False
) -> str:
    style = ' stroke-dasharray="2 4"' if dash else ""
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" '
        f'stroke="{TEXT}" stroke-opacity="{0.45 if dash else 0.8}"{style}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str,
    size: int,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'font-size="{size}" font-weight="{weight}">{escape(text)}</text>'
    )


def _document(title: str, height: float, parts: list[str]) -> str:
    head = _text(LEFT, 22, title, "start", 15, "bold")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
        f'height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'role="img" font-family="{FONT}" fill="{TEXT}">',
        f"<title>{escape(title)}</title>",
        head,
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
