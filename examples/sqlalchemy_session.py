"""Stores in the transaction of an SQLAlchemy Session: its commit is theirs, and so is its rollback."""

from sqlalchemy import create_engine, make_url, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import pgstore


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "example_user"
    __table_args__ = {"prefixes": ["TEMPORARY"]}  # noqa: RUF012 - so that the example leaves nothing behind
    name: Mapped[str] = mapped_column(primary_key=True)


url = make_url(pgstore.default_client().connection_url())
engine = create_engine(url.set(drivername="postgresql+psycopg"))

with pgstore.Queue.ephemeral() as welcome, Session(engine) as session:
    User.metadata.create_all(session.connection())
    session.commit()

    with pgstore.transaction(connection=session):
        session.add(User(name="ann"))
        welcome.put("ann")
    session.commit()

    with pgstore.transaction(connection=session):
        session.add(User(name="bob"))
        welcome.put("bob")
    session.rollback()  # no user bob, and no welcome for him

    print(session.scalars(select(User.name)).all(), welcome.get_many(10))
engine.dispose()
