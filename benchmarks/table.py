"""The rows as a table: on the screen in full, in reST with a line a measure.

In the file the pool of this package has a column of its own and its peers
share one, since there are more of them than a page is wide.
"""

from __future__ import annotations

from collections.abc import Iterable

from .rows import COLUMNS
from .rows import Row
from .rows import number

OURS = "ReaperPool"


def on_screen(rows: list[Row]) -> str:
    """All there is, in columns."""
    lines = [COLUMNS[1:]]
    lines += [row.cells()[1:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]

    def line(cells: Iterable[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths))
        return "  ".join(padded).rstrip()

    text = ["  " + line(lines[0])]
    for what, group in by_measure(rows).items():
        text += ["", what]
        text += ["  " + line(row.cells()[1:]) for row in group]
    return "\n".join(text).replace("**no**", "no")


def in_rest(rows: list[Row]) -> str:
    """As README has it."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: auto",
        "",
    ]
    _add(lines, ["measured", OURS, "bar", "met", "others"])
    for what, group in by_measure(rows).items():
        ours = [row for row in group if row.who == OURS]
        others = [_peer(row) for row in group if row.who != OURS]
        for row in ours or [Row(what, OURS, None)]:
            _, _, figure, spread, bar, met, note = row.cells()
            if spread:
                figure += f" ({spread})"
            if note:
                figure += f"; {note}"
            _add(lines, [what, figure, bar, met, "; ".join(others)])
            others = []
    return "\n".join(lines) + "\n"


def by_measure(rows: list[Row]) -> dict[str, list[Row]]:
    measures: dict[str, list[Row]] = {}
    for row in rows:
        measures.setdefault(row.what, []).append(row)
    return measures


def summary(rows: list[Row]) -> str:
    judged = [row for row in rows if row.met is not None]
    met = sum(bool(row.met) for row in judged)
    return f"{met} of {len(judged)} bars met"


def _peer(row: Row) -> str:
    if row.figure is None:
        return f"{row.who}: {row.note or 'not measured'}"
    unit = "" if row.unit.startswith("×") else f" {row.unit}"
    note = f" ({row.note})" if row.note else ""
    return f"{row.who} {number(row.figure)}{unit}{note}"


def _add(lines: list[str], cells: list[str]) -> None:
    for place, cell in enumerate(cells):
        mark = "*" if place == 0 else " "
        lines.append(f"   {mark} - {cell}".rstrip())
