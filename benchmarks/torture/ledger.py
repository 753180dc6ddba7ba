"""The accounts, and the transfers between them: the database's side."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from sqlalchemy import Engine
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column

ACCOUNTS = 100


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "reaperpool_torture_account"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int] = mapped_column(default=0)


class Transfer(Base):
    __tablename__ = "reaperpool_torture_transfer"

    row: Mapped[int] = mapped_column(primary_key=True)
    # not unique: one that is committed twice is to be found here twice
    number: Mapped[str]
    source: Mapped[int]
    target: Mapped[int]
    amount: Mapped[int]


class Books(NamedTuple):
    """What the ledger holds."""

    transfers: list[str]
    """The numbers of all transfers, as often as they are there."""
    torn: int
    """Accounts whose balance is not what their transfers add up to."""


def create(engine: Engine) -> None:
    drop(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Account(id=number) for number in range(ACCOUNTS))


def drop(engine: Engine) -> None:
    Base.metadata.drop_all(engine)


def read(engine: Engine) -> Books:
    with Session(engine) as session:
        transfers = session.execute(
            select(
                Transfer.number,
                Transfer.source,
                Transfer.target,
                Transfer.amount,
            )
        ).all()
        accounts = session.execute(select(Account.id, Account.balance)).all()
    due: Counter[int] = Counter()
    for _, source, target, amount in transfers:
        due[source] -= amount
        due[target] += amount
    return Books(
        [number for number, *_ in transfers],
        sum(balance != due[number] for number, balance in accounts),
    )
