"""Commits that were provisional, and are undone: what is told of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from typing import Any

from .callers import application_line
from .callers import here
from .callers import number_of
from .errors import ProvisionalCommitLost

if TYPE_CHECKING:
    from .level import Level

# what warnings has shown; it is not to show the same line's twice
_shown: dict[Any, Any] = {}


def provisional(levels: list[Level]) -> list[str]:
    """The lines whose commits are lost with these levels' work.

    Whose own work is lost with it has wanted that.
    """
    return [
        line
        for level in levels
        if not level.wrote
        for line in level.provisional
    ]


def warn_of_lost(lines: list[str]) -> None:
    """Warn of commits that were undone by an outer that only read."""
    if lines:
        line = application_line() or (warn_of_lost.__code__, 0)
        warnings.warn_explicit(
            f"The commit at {', '.join(lines)} is undone: it was provisional,"
            " since an outer use of the same connection had begun a "
            f"transaction, and that ended at {here()} without a commit",
            ProvisionalCommitLost,
            line[0].co_filename,
            number_of(line),
            registry=_shown,
        )
