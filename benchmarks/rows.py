"""What a bench has found: a line of the table, and whether it is enough.

Each room of ``python -m benchmarks`` has a function ``run(settings)`` that
returns rows; ``table.py`` prints them.  A room that cannot run here raises
:class:`Skip`.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DIGITS = 3
"""Significant ones: what is beyond them is noise."""

QUEUE = "× QueuePool"
"""The unit of a ratio to QueuePool in the same round."""

_JUDGES = {
    "at most": operator.le,
    "at least": operator.ge,
    "below": operator.lt,
}


class Skip(Exception):
    """This cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Bar:
    """What a figure has to be.

    :param how: ``at most``, ``at least`` or ``below``.

    :param limit: in the unit of the row's figure.

    """

    how: str
    limit: float

    def allows(self, figure: float) -> bool:
        """Is it met, by the figure as it is printed."""
        judge = _JUDGES[self.how]
        return bool(judge(_rounded(figure), _rounded(self.limit)))

    def __str__(self) -> str:
        return f"{self.how} {number(self.limit)}"


@dataclass(frozen=True)
class Row:
    """One figure.

    :param what: what was measured; rows of one measure have the same.

    :param who: the pool, or other thing, that was measured.

    :param figure: the median, or what the room's docstring says; None if
     it could not be measured, and then ``note`` says why.

    :param unit: of the figure, its spread and its bar.

    :param spread: the smallest and the largest of the figures that the
     median is of, or their quantiles.

    :param bar: None for a peer that is only there to compare.

    :param note: a remark of a few words.

    """

    what: str
    who: str
    figure: float | None
    unit: str = QUEUE
    spread: tuple[float, float] | None = None
    bar: Bar | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """None if there is no bar, or nothing to judge by it."""
        if self.bar is None or self.figure is None:
            return None
        return self.bar.allows(self.figure)

    def cells(self) -> tuple[str, ...]:
        """As the table's columns have it, see :data:`COLUMNS`."""
        met = {True: "yes", False: "no", None: ""}[self.met]
        spread = ""
        if self.spread is not None:
            low, high = self.spread
            spread = f"{number(low)} to {number(high)}"
        if self.figure is None:
            figure = "not measured"
        else:
            figure = f"{number(self.figure)} {self.unit}".rstrip()
        bar = "" if self.bar is None else str(self.bar)
        return self.what, self.who, figure, spread, bar, met, self.note


COLUMNS = ("measured", "of", "median", "spread", "bar", "met", "note")


def row_of(
    what: str,
    who: str,
    figures: Sequence[float],
    unit: str = QUEUE,
    bar: Bar | None = None,
    note: str = "",
) -> Row:
    """The median of these, and their 10 % and 90 % quantiles as spread.

    Of less than ten, the spread is from the smallest to the largest.
    """
    ordered = sorted(figures)
    spread = quantile(ordered, 0.1), quantile(ordered, 0.9)
    return Row(
        what,
        who,
        statistics.median(ordered),
        unit,
        spread if len(ordered) > 1 else None,
        bar,
        note,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of these that at least this share is not above."""
    place = math.ceil(share * len(ordered)) - 1
    return ordered[min(max(place, 0), len(ordered) - 1)]


def number(value: float) -> str:
    """With three significant digits, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    value = _rounded(value)
    places = DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(places, 0), 6)}f}"


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
