"""The work that the demo gives both pools: a small bank.

What is in here is application code as anybody's, but for the threads that
misbehave on purpose.  It knows an engine, not which pool is under it.  The
pool takes this file for an application, too, and names its lines in reports
(``lease.py``).  ``demo_show.py`` runs it on both pools, ``watch.py`` on ours.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy.orm import Session

from .demo_database import ACCOUNTS
from .demo_database import Account
from .demo_database import Transfer
from .labels import label

#: What threads leave behind when they die.  Something still refers to their
#: connections, so that no garbage collector returns them.
LEFT_BEHIND: list[Connection | Session] = []

#: The methods of :class:`Bank` that a thread does not survive.
DEATHS = ("die_idle", "die_reading", "die_writing")

#: What each of its jobs is for: our pool shows that beside a connection.
LABELS = {
    "transfer": "transfer",
    "forget": "audit",
    "listen": "events",
    "die_idle": "import",
    "die_reading": "report",
    "die_writing": "payroll",
}


@dataclass(frozen=True, order=True)
class Accident:
    """What befalls the first teller who is free at that moment.

    :param when: in seconds from the start.

    :param what: the name of a method of :class:`Bank`.

    """

    when: float
    what: str


def accidents(
    seed: int, seconds: float, connections: int, backend: str
) -> list[Accident]:
    """Decide what will happen: one forgets, and enough of them die that a
    pool which never gets a connection back has none left."""

    random = Random(seed)
    deaths = max(connections - 1, round(0.6 * seconds))
    if backend == "sqlite":
        # A dead writer blocks all others there.  As the first it would end
        # the work on QueuePool at once, and hide what becomes of the pool.
        plan = random.choices(DEATHS[:2], k=connections - 1)
    else:
        plan = random.sample(DEATHS, k=3)
    plan += random.choices(DEATHS, k=deaths - len(plan))

    moments = [
        0.15 + 0.7 * (place + 0.8 * random.random()) / deaths
        for place in range(deaths)
    ]
    return [
        Accident(seconds * 0.08, "forget"),
        *(Accident(seconds * m, what) for m, what in zip(moments, plan)),
    ]


class Tally:
    """What is counted and measured while the tellers work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.transfers = 0
        self.failed_checkouts = 0
        #: those that had a connection
        self.failed_transfers = 0
        #: what either said, and how often
        self.reasons: Counter[str] = Counter()
        self.longest_wait = 0.0
        self.deaths = 0
        #: seconds from the start to the newest transfer
        self.last_transfer = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @contextmanager
    def checkout(self) -> Iterator[None]:
        """Measure the one statement inside, which checks out."""

        started = time.monotonic()
        try:
            yield
        except Exception as err:
            with self._lock:
                self.failed_checkouts += 1
                self.reasons[_reason(err)] += 1
            raise NoConnection from err
        finally:
            waited = time.monotonic() - started
            with self._lock:
                self.longest_wait = max(self.longest_wait, waited)

    def transferred(self) -> None:
        with self._lock:
            self.transfers += 1
            self.last_transfer = self.elapsed

    def failed(self, err: Exception) -> None:
        with self._lock:
            self.failed_transfers += 1
            self.reasons[_reason(err)] += 1

    def died(self) -> None:
        with self._lock:
            self.deaths += 1


def _reason(err: Exception) -> str:
    # the driver's words without the statement, and SQLAlchemy's without a
    # link to its documentation
    cause = getattr(err, "orig", None)
    words = str(cause or (err.args[0] if err.args else ""))
    lines = words.strip().splitlines()
    return lines[0] if lines else type(err).__name__


class NoConnection(Exception):
    """A checkout failed; counted already."""


class Bank:
    """Tellers, each a thread, who share an engine.

    :param seed: decides who gets how much from whom.

    :param accidents: what befalls them on the way.

    :param tell: is given a sentence about each accident.

    """

    def __init__(
        self,
        engine: Engine,
        seed: int,
        accidents: Sequence[Accident],
        tell: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._seed = seed
        self._accidents = sorted(accidents)
        self._tell = tell
        self._tellers: list[threading.Thread] = []
        # guards the four below, and tells of their changes
        self._lobby = threading.Condition()
        self._doors_open = True
        self._closed = False
        #: tellers at work, and those of them who are not between two jobs
        self._present = 0
        self._serving = 0
        # a connection in there has a thread that lives, and uses it no more
        self._forgotten: dict[threading.Thread, Connection] = {}
        self._may_leave = threading.Event()
        self.tally = Tally()

    def open(self, tellers: int) -> None:
        for _ in range(tellers):
            self._hire()

    def close(self, patience: float = 10) -> bool:
        """End the work; False if somebody does not end it.

        What was forgotten and left behind stays so until
        :meth:`give_back`.

        """
        with self._lobby:
            self._closed = self._doors_open = True
            self._lobby.notify_all()
            return self._lobby.wait_for(lambda: not self._present, patience)

    def give_back(self, patience: float = 10) -> None:
        """Return at last what was forgotten and left behind."""

        self._may_leave.set()
        deadline = time.monotonic() + patience
        for teller in self._tellers:
            teller.join(max(0, deadline - time.monotonic()))
        for held in LEFT_BEHIND:
            _close(held)
        LEFT_BEHIND.clear()

    @contextmanager
    def break_time(self, patience: float = 0.5) -> Iterator[None]:
        """Nobody starts a job inside."""

        with self._lobby:
            self._doors_open = False
            # who waits for a connection that never comes is not awaited
            self._lobby.wait_for(lambda: not self._serving, patience)
        try:
            yield
        finally:
            with self._lobby:
                self._doors_open = True
                self._lobby.notify_all()

    def _hire(self) -> None:
        with self._lobby:
            number = len(self._tellers) + 1
            # daemon: should a driver hang, the demo ends all the same
            teller = threading.Thread(
                target=self._work,
                args=(Random(f"{self._seed}/{number}"),),
                name=f"teller-{number}",
                daemon=True,
            )
            teller.start()
            self._tellers.append(teller)
            self._present += 1

    def _work(self, random: Random) -> None:
        alive = True
        while alive and not self._closed:
            with self._serve():
                alive = self._do_next_job(random)
        if not alive:
            self.tally.died()
            self._hire()
        self._leave()

    @contextmanager
    def _serve(self) -> Iterator[None]:
        with self._lobby:
            self._lobby.wait_for(lambda: self._doors_open)
            self._serving += 1
        try:
            yield
        finally:
            with self._lobby:
                self._serving -= 1
                self._lobby.notify_all()

    def _do_next_job(self, random: Random) -> bool:
        """Return whether the teller survived it."""

        accident = self._next_accident()
        job = accident.what if accident else "transfer"
        try:
            with label(LABELS[job]):
                getattr(self, job)(random)
            return job not in DEATHS
        except Exception as err:
            if not isinstance(err, NoConnection):
                self.tally.failed(err)
                # no tight loop about a database that is away
                time.sleep(0.05)
            if accident:
                # it will befall the next one
                with self._lobby:
                    self._accidents.insert(0, accident)
            return True

    def _next_accident(self) -> Accident | None:
        # who forgot a connection has to live, or it would be left behind
        if threading.current_thread() in self._forgotten:
            return None
        with self._lobby:
            due = self._accidents and not self._closed
            if due and self._accidents[0].when <= self.tally.elapsed:
                return self._accidents.pop(0)
        return None

    def _leave(self) -> None:
        with self._lobby:
            self._present -= 1
            self._lobby.notify_all()
        teller = threading.current_thread()
        if teller in self._forgotten:
            self._may_leave.wait()
            _close(self._forgotten.pop(teller))

    # Each of these checks out in its own line, so that the pool's reports
    # name the function that did it.

    def transfer(self, random: Random) -> None:
        source, target = random.sample(range(1, ACCOUNTS + 1), 2)
        amount = random.randint(1, 50)
        with Session(self._engine) as session:
            with self.tally.checkout():
                session.connection()
            payer = session.get_one(Account, source)
            payee = session.get_one(Account, target)
            # what else the application has to do meanwhile
            time.sleep(random.uniform(0.001, 0.005))
            # added up by the database, so that none is lost between two
            payer.balance = Account.balance - amount
            payee.balance = Account.balance + amount
            session.add(Transfer(source=source, target=target, amount=amount))
            session.commit()
        self.tally.transferred()

    def forget(self, random: Random) -> None:
        with self.tally.checkout():
            connection = self._engine.connect()
        with _closed_on_error(connection):
            connection.scalar(select(func.count()).select_from(Account))
        self._forgotten[threading.current_thread()] = connection
        self._say("forgets a connection in a list, and lives on")

    def listen(self, random: Random) -> None:
        """For our pool alone, as QueuePool cannot be told."""

        with self.tally.checkout():
            connection = self._engine.connect()
        self._forgotten[threading.current_thread()] = connection
        self._engine.pool.keep(connection)  # type: ignore[attr-defined]
        self._say("keeps a connection on purpose, and tells the pool so")

    def die_idle(self, random: Random) -> None:
        with self.tally.checkout():
            connection = self._engine.connect()
        LEFT_BEHIND.append(connection)
        self._say("dies, holding a connection it has not used")

    def die_reading(self, random: Random) -> None:
        session = Session(self._engine)
        with self.tally.checkout():
            session.connection()
        with _closed_on_error(session):
            session.get_one(Account, random.randint(1, ACCOUNTS))
        LEFT_BEHIND.append(session)
        self._say("dies, holding a connection it has read from")

    def die_writing(self, random: Random) -> None:
        session = Session(self._engine)
        with self.tally.checkout():
            session.connection()
        with _closed_on_error(session):
            payer = session.get_one(Account, random.randint(1, ACCOUNTS))
            payer.balance = Account.balance - 10
            session.flush()
        LEFT_BEHIND.append(session)
        self._say("dies in the middle of a transfer, holding a connection")

    def _say(self, what: str) -> None:
        self._tell(f"{threading.current_thread().name} {what}")


@contextmanager
def _closed_on_error(held: Connection | Session) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _close(held)
        raise


def _close(held: Connection | Session) -> None:
    # its server process may be gone
    with suppress(Exception):
        held.close()
