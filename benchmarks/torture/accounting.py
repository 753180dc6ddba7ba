"""Journal and ledger, compared: what was lost, doubled, held by two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field

from . import journal
from .journal import Line
from .ledger import Books


@dataclass
class Transfers:
    """What became of them."""

    committed: int = 0
    """Confirmed, and in the ledger."""
    failed: int = 0
    """Errors before the COMMIT; most were tried again."""
    unknown_kept: int = 0
    """Broken during COMMIT, and in the ledger."""
    unknown_gone: int = 0
    """Broken during COMMIT, and not in the ledger."""
    lost: int = 0
    """Confirmed, and not in the ledger."""
    twice: int = 0
    """More than once in the ledger."""
    unasked: int = 0
    """In the ledger, with no COMMIT of theirs ever sent."""


def settle(lines: Iterable[Line], ledger: Iterable[str]) -> Transfers:
    """Compare what the journal says with what the ledger holds."""
    found = Counter(ledger)
    result = Transfers()
    asked: set[str] = set()
    done: set[str] = set()
    for line in lines:
        if line.event == journal.ASKED:
            asked.add(line.name)
        elif line.event == journal.DONE:
            done.add(line.name)
        elif line.event == journal.FAILED:
            result.failed += 1
    for number in asked:
        if number in done:
            result.committed += number in found
            result.lost += number not in found
        else:
            result.unknown_kept += number in found
            result.unknown_gone += number not in found
    result.twice = sum(count > 1 for count in found.values())
    result.unasked = len(found.keys() - asked)
    return result


def connection_name(process: int, number: int) -> str:
    """Of one that this process opened; :func:`double_holders` reads it."""
    return f"{process}-{number}"


def double_holders(lines: Iterable[Line]) -> int:
    """How often a connection was taken that somebody else had.

    Or by another process than the one that opened it, which has it for as
    long as it lives.
    """
    held: set[str] = set()
    doubles = 0
    for line in lines:
        if line.event == journal.TAKE:
            opener = line.name.partition("-")[0]
            doubles += line.name in held or opener != str(line.process)
            held.add(line.name)
        elif line.event == journal.LEAVE:
            held.discard(line.name)
    return doubles


@dataclass
class Progress:
    recoveries: list[float] = field(default_factory=list)
    """Seconds from a killed server's return to the next commit, each."""
    longest_pause: float = 0.0
    """Seconds without a commit while the database was there."""
    faults: Counter[str] = field(default_factory=Counter)
    children: int = 0
    """Transfers that forked children committed."""


def progress(lines: Iterable[Line], process: int) -> Progress:
    """When this process committed, and when it should have.

    :param lines: of which the last ends the run; what is open by then
     counts as if it had ended there.

    """
    result = Progress()
    back: float | None = None
    calm: float | None = None
    end = 0.0
    for line in lines:
        end = line.at
        if line.event == journal.FAULT:
            result.faults[line.name] += 1
            _pause(result, calm, line.at)
            calm = None
        elif line.event == journal.UP:
            back = line.at
        elif line.event == journal.CALM:
            calm = line.at
        elif line.event == journal.DONE and line.process != process:
            result.children += 1
        elif line.event == journal.DONE:
            if back is not None:
                result.recoveries.append(line.at - back)
                back = None
            if calm is not None:
                _pause(result, calm, line.at)
                calm = line.at
    if back is not None:
        result.recoveries.append(end - back)
    _pause(result, calm, end)
    return result


def _pause(result: Progress, since: float | None, until: float) -> None:
    if since is not None:
        result.longest_pause = max(result.longest_pause, until - since)


@dataclass
class Capacity:
    """What the pool had to give, seen from outside of it."""

    most: int = 0
    """Connections at once, those being opened included."""
    over: int = 0
    """Connections that were opened beyond the limit."""
    missing: int = 0
    """Slots that could not be had once all was over."""


@dataclass
class Findings:
    transfers: Transfers
    torn: int
    doubles: int
    progress: Progress
    capacity: Capacity
    hung: int
    """Threads and children that did not come to their end."""

    def must_be_zero(self) -> dict[str, int]:
        return {
            "committed and lost": self.transfers.lost,
            "committed twice": self.transfers.twice,
            "committed unasked": self.transfers.unasked,
            "accounts torn": self.torn,
            "connections over the limit": self.capacity.over,
            "slots missing": self.capacity.missing,
            "double holders": self.doubles,
            "threads and children hung": self.hung,
        }


def findings(
    read: Callable[[], Iterable[Line]],
    books: Books,
    capacity: Capacity,
    process: int,
    hung: int,
) -> Findings:
    """All of it, for a process that was observed.

    :param read: gives the journal's lines, which are many, anew each time.

    """
    return Findings(
        transfers=settle(read(), books.transfers),
        torn=books.torn,
        doubles=double_holders(read()),
        progress=progress(read(), process),
        capacity=capacity,
        hung=hung,
    )
