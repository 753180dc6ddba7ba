"""Can nobody go on: are all connections held by threads that wait for one?

Plain functions of leases and of who waits.  They accuse only where each
connection is in somebody's hands, and each hand that could give it back is
that of a thread in line for another.  Whoever has one of them otherwise, by
a line of code that the pool has not seen (it was handed on unused, say),
can still go on; that is what makes it a suspicion.
"""

from __future__ import annotations

from typing import Collection
from typing import Iterable
from typing import Protocol
from typing import Sequence

from .holder import Holder


class Leased(Protocol):
    """What is to be known of a lease."""

    kept: bool

    @property
    def holders(self) -> Sequence[Holder]: ...


def stuck(lease: Leased, waiting: Collection[Holder]) -> bool:
    """Will this not be given back before one of those who wait goes on?

    A lease that is kept belongs to a plan that the pool knows nothing of.
    One whose holders have all ended comes free by the reaper, and one with
    a single holder that is not in line by that.
    """
    if lease.kept:
        return False
    living = [holder for holder in list(lease.holders) if holder.alive]
    return bool(living) and all(holder in waiting for holder in living)


def circle(
    leases: Iterable[Leased], live: int, waiting: Collection[Holder]
) -> set[Holder] | None:
    """Who waits for each other, or None where someone can go on.

    :param leases: those of connections that count.

    :param live: how many connections count, those included that are being
     opened, closed, checked or handed over, each of which will be somebody's.

    :param waiting: who waits for a connection of this pool, and for nothing
     else.

    """
    leases = list(leases)
    if not leases or len(leases) != live:
        return None
    if not all(stuck(lease, waiting) for lease in leases):
        return None
    return {
        holder
        for lease in leases
        for holder in list(lease.holders)
        if holder in waiting
    }
