"""The rows as a table: on the screen in full, in reST with a line a measure.

In the file the pool of this package has a column of its own and its peers
share one, since there are more of them than a page is wide.
"""

from __future__ import annotations

import os
import platform
import re
import textwrap
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from .rows import COLUMNS
from .rows import Row
from .rows import number

OURS = "ReaperPool"

BEGIN = ".. begin of what python -m benchmarks has written"
END = ".. end of what python -m benchmarks has written"


def on_screen(rows: list[Row]) -> str:
    """All there is, in columns."""
    lines: list[tuple[str, ...]] = [COLUMNS[1:]]
    lines += [row.cells()[1:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]

    def line(cells: Iterable[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths))
        return "  ".join(padded).rstrip()

    text = ["  " + line(lines[0])]
    for what, group in by_measure(rows).items():
        text += ["", what]
        text += ["  " + line(row.cells()[1:]) for row in group]
    return "\n".join(text)


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
        others = "; ".join(_peer(row) for row in group if row.who != OURS)
        if not ours:
            _add(lines, [what, "", *group[0].cells()[4:6], others])
        for row in ours:
            _, _, figure, spread, bar, met, note = row.cells()
            if spread:
                figure += f" ({spread})"
            if note:
                figure += f"; {note}"
            _add(lines, [what, figure, bar, met, others])
            others = ""
    return "\n".join(lines) + "\n"


def write(path: Path, rows: list[Row]) -> None:
    """Write the table to a file of its own, or between the two marks.

    The marks are comments, :data:`BEGIN` and :data:`END`, as README has
    them.
    """
    table = f"{textwrap.fill(surroundings(), 78)}\n\n{in_rest(rows)}"
    if path.exists():
        before, begin, rest = path.read_text("utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if begin and end:
            table = f"{before}{begin}\n\n{table}\n{end}{after}"
    path.write_text(table, encoding="utf-8")


def surroundings() -> str:
    """What it was measured with, which the reader has to know."""
    of = ["SQLAlchemy", "psycopg2-binary", "psycopg", "psycopg_pool"]
    of.append("DBUtils")
    parts = [f"Python {platform.python_version()}"]
    for name in of:
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            pass
    cores = os.cpu_count()
    return (
        f"{', '.join(parts)}; {platform.system()}, {cores} cores. "
        "Medians, with the spread in brackets; times × are QueuePool's."
    )


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
    parts = [row.who, number(row.figure)]
    if row.unit and not row.unit.startswith("×"):
        parts.append(row.unit)
    if row.note:
        parts.append(f"({row.note})")
    return " ".join(parts)


def _add(lines: list[str], cells: list[str]) -> None:
    """One row: the first cell has a mark of its own before it."""
    for place, cell in enumerate(cells):
        mark = "   * - " if place == 0 else "     - "
        wrapped = textwrap.wrap(
            _escaped(cell),
            78,
            initial_indent=mark,
            subsequent_indent=" " * len(mark),
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += wrapped or [mark.rstrip()]


def _escaped(text: str) -> str:
    """For reST to take it as it is."""
    return re.sub(r"([\\*`|]|_(?!\w))", r"\\\1", text)
