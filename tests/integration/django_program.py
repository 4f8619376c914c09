"""What a program with Django does; run by test_django.py in a process of its own, for Django's settings are global."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

import pgstore


def database(url: str) -> dict[str, Any]:
    parts = conninfo_to_dict(url)
    names = {"dbname": "NAME", "user": "USER", "host": "HOST", "port": "PORT"}
    return {"ENGINE": "django.db.backends.postgresql"} | {key: parts[name] for name, key in names.items()}


settings.configure(
    DATABASES={
        "default": database(os.environ["PGSTORE_URL"]),
        "other": database(os.environ["PGSTORE_URL"]),
        "manual": database(os.environ["PGSTORE_URL"]) | {"AUTOCOMMIT": False},
        "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    },
    INSTALLED_APPS=["django.contrib.contenttypes"],
    USE_TZ=True,
)
django.setup()

from django.contrib.contenttypes.models import ContentType  # noqa: E402 - after the setup
from django.db import IntegrityError, connection, connections  # noqa: E402
from django.db.transaction import TransactionManagementError, atomic, on_commit  # noqa: E402

entries = pgstore.Dict.from_name("entries", create_if_missing=True)
rows = ContentType.objects
other_rows = ContentType.objects.using("other")


def names() -> set[str]:
    return set(rows.values_list("model", flat=True))


def message_of(kind: type[BaseException], body: Any) -> str:
    try:
        body()
    except kind as exc:
        return str(exc)
    raise AssertionError(f"no {kind.__name__}")


def join(using: Any = connection) -> pgstore.Transaction:
    return pgstore.transaction(connection=using)


# -------------------------------------------------------------------------------------------------------------- claims


def both_are_committed_by_the_outermost_atomic() -> None:
    with atomic():
        rows.create(app_label="a", model="m")
        with join():
            entries["k"] = 1
        other = pgstore.Client(os.environ["PGSTORE_URL"])
        seen = pgstore.Dict.from_name("entries", create_if_missing=True, client=other).get("k")
        other.close()

    assert (None, 1, {"m"}) == (seen, entries["k"], names())


def both_are_undone_where_atomic_is() -> None:
    message_of(ZeroDivisionError, _both_and_fail)

    assert ("k" in entries, names()) == (False, set())


@atomic()
def _both_and_fail() -> None:
    rows.create(app_label="a", model="m")
    with join():
        entries["k"] = 1
    _ = 1 / 0


def a_block_that_raises_undoes_itself_and_leaves_the_rest() -> None:
    def fails() -> None:
        with join():
            entries["k"] = 2
            rows.create(app_label="a", model="of the block")
            _ = 1 / 0

    with atomic():
        rows.create(app_label="a", model="m")
        message_of(ZeroDivisionError, fails)
        rows.create(app_label="a", model="after")

    assert ("k" in entries, names()) == (False, {"m", "after"})


def a_nested_atomic_that_is_undone_takes_the_block_in_it_along() -> None:
    def fails() -> None:
        with atomic():
            with join():
                entries["k"] = 1
            _ = 1 / 0

    with atomic():
        message_of(ZeroDivisionError, fails)
        with join():
            entries["other"] = 2

    assert dict(entries.items()) == {"other": 2}


def an_atomic_in_the_block_with_its_first_write_is_kept_in_order() -> None:
    with atomic():
        with join():
            with atomic():
                entries["k"] = 1
                rows.create(app_label="a", model="m")
            entries["l"] = 2
        rows.create(app_label="a", model="n")

    assert ({"k": 1, "l": 2}, names()) == (dict(entries.items()), {"m", "n"})


def an_atomic_in_the_block_that_is_undone_takes_stores_along() -> None:
    def fails() -> None:
        with atomic():
            entries["k"] = 1
            _ = 1 / 0

    with atomic(), join():
        entries["l"] = 2
        message_of(ZeroDivisionError, fails)

    assert dict(entries.items()) == {"l": 2}


def an_error_of_the_database_in_a_block_is_undone_by_the_block() -> None:
    def fails() -> None:
        with join():
            entries["k"] = 1
            rows.create(app_label="a", model="m")

    with atomic():
        rows.create(app_label="a", model="m")
        message_of(IntegrityError, fails)
        rows.create(app_label="a", model="n")

    assert ("k" in entries, names()) == (False, {"m", "n"})


def on_commit_is_called_after_the_commit_and_not_for_a_block_that_is_undone() -> None:
    called: list[str] = []

    def fails() -> None:
        with join():
            entries["k"] = 1
            on_commit(lambda: called.append("undone"))
            _ = 1 / 0

    with atomic():
        message_of(ZeroDivisionError, fails)
        with join():
            entries["k"] = 2
            on_commit(lambda: called.append(f"after the commit: {entries['k']}"))
        assert not called

    assert called == ["after the commit: 2"]


def outside_of_atomic_the_answer_says_what_to_do() -> None:
    def body() -> None:
        with join():
            entries["k"] = 1

    said = message_of(pgstore.InvalidError, body)

    assert "Django's connection 'default' is in no transaction" in said
    assert "with django.db.transaction.atomic(" in said
    assert "k" not in entries


def a_connection_of_another_alias_is_joined_by_itself() -> None:
    def body() -> None:
        with atomic(using="other"), join(connections["other"]):
            entries["k"] = 1
            rows.create(app_label="a", model="of default")
            other_rows.create(app_label="a", model="of other")
            _ = 1 / 0

    message_of(ZeroDivisionError, body)

    assert ("k" in entries, names()) == (False, {"of default"})


def a_connection_without_autocommit_is_joined_and_committed_by_the_program() -> None:
    manual = connections["manual"]
    with join(manual):
        entries["k"] = 1
    manual.rollback()
    assert "k" not in entries

    with join(manual):
        entries["k"] = 2
    manual.commit()
    assert entries["k"] == 2


def a_transaction_that_can_only_be_rolled_back_is_said_to_be_one() -> None:
    def fails() -> None:
        with atomic(savepoint=False):
            _ = 1 / 0

    said = ""
    try:
        with atomic():
            message_of(ZeroDivisionError, fails)
            said = message_of(pgstore.Error, lambda: join().__enter__())
    except TransactionManagementError:
        pass

    assert "can do nothing but be rolled back" in said


def sql_of_ones_own_goes_over_the_same_connection() -> None:
    with atomic(), join() as tx:
        entries["k"] = 1
        (mine,) = tx.connection.execute("SELECT pg_backend_pid()").fetchone()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            assert (mine,) == cursor.fetchone()


def an_asynchronous_view_joins_in_sync_to_async() -> None:
    def work() -> int:
        with atomic(), join():
            rows.create(app_label="a", model="m")
            entries["k"] = 1
        return threading.get_ident()

    async def view() -> int:
        thread = await sync_to_async(work)()
        assert await entries.get.aio("k") == 1
        return thread

    assert asyncio.run(view()) != threading.get_ident()
    assert {"m"} == names()


def async_with_is_refused() -> None:
    async def view() -> None:
        async with join():
            pass

    assert "use `with`" in message_of(pgstore.InvalidError, lambda: asyncio.run(view()))


def a_database_of_another_kind_is_refused() -> None:
    said = message_of(pgstore.InvalidError, lambda: join(connections["sqlite"]))

    assert "Django's connection 'sqlite' is of sqlite; to be joined it has to be of PostgreSQL" in said


CLAIMS = [
    each
    for name, each in list(globals().items())
    if callable(each) and getattr(each, "__module__", "") == __name__ and not name.startswith("_")
    if each not in (database, names, message_of, join)
]


def main() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(ContentType)
    for claim in CLAIMS:
        rows.all().delete()
        entries.clear()
        try:
            claim()
        except Exception:
            print("FAILED", claim.__name__)
            traceback.print_exc()
        else:
            print("HOLDS", claim.__name__)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
