"""What blocks a running event loop is warned of, once for each line; what a person types at a prompt with a loop is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import warnings
from typing import Any

import fsspec
import psycopg
import pytest
from fsspec.generic import GenericFileSystem, set_generic_fs

import pgstore
from pgstore.core import async_usage
from pgstore.errors import ConfigurationError
from pgstore.exception import AsyncUsageWarning


@pytest.fixture(autouse=True)
def _as_at_the_start(monkeypatch):
    monkeypatch.setattr(async_usage, "_said", set())
    monkeypatch.setattr(async_usage, "_is_on", None)
    monkeypatch.delenv("PGSTORE_ASYNC_WARNINGS", raising=False)


@pytest.fixture
def entries(client, store_name) -> Any:
    return pgstore.Dict.from_name(store_name, create_if_missing=True, client=client).hydrate()


def warned(body: Any) -> list[warnings.WarningMessage]:
    """What *body*, a function, is warned of where it is called by a coroutine."""

    async def main() -> None:
        body()

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        asyncio.run(main())
    return [warning for warning in found if warning.category is AsyncUsageWarning]


def text_of(body: Any) -> str:
    (found,) = warned(body)
    return str(found.message)


def test_the_warning_names_the_call_the_line_and_the_form_to_await(entries):
    line = sys._getframe().f_lineno + 1
    found = warned(lambda: entries.put("k", 1))

    assert [(__file__, line)] == [(warning.filename, warning.lineno) for warning in found]
    assert "Dict.put(…) blocks the event loop" in str(found[0].message)
    assert "use `await ….put.aio(…)`" in str(found[0].message)
    assert "PGSTORE_ASYNC_WARNINGS=0" in str(found[0].message)


def test_each_line_is_warned_of_once(entries):
    def work() -> None:
        for _ in range(3):
            entries.get("k")
        entries.get("k")

    assert len(warned(work)) == 2
    assert not warned(work)


def test_where_the_warning_is_an_error_each_call_is_one_and_does_nothing(entries):
    async def main() -> None:
        for _ in range(2):
            with pytest.raises(AsyncUsageWarning):
                entries["k"] = 1

    asyncio.run(main())

    assert "k" not in entries


def test_nothing_is_said_without_a_running_loop_nor_of_what_is_awaited(entries):
    async def main() -> None:
        await entries.put.aio("k", 1)
        await asyncio.to_thread(entries.get, "k")
        async for _ in entries.iterate_keys():
            pass

    entries.put("k", 1)  # warnings are errors here
    asyncio.run(main())


@pytest.mark.parametrize(
    ("operator", "form"),
    [
        (lambda store: store.get("k"), "`await ….get.aio(…)`"),
        (lambda store: store["k"], "`await ….get.aio(…)`"),
        (lambda store: store.__setitem__("k", 2), "`await ….put.aio(…)`"),
        (lambda store: store.setdefault("k", 2), "`await ….setdefault.aio(…)`"),
        (lambda store: store.__delitem__("k"), "`await ….pop.aio(…)`"),
        (lambda store: "k" in store, "`await ….contains.aio(…)`"),
        (len, "`await ….len.aio()`"),
        (lambda store: list(store.iterate_keys()), "`async for`"),
        (lambda store: next(store.iterate_keys()), "`async for`"),
        (lambda store: store.lock("l").__enter__().__exit__(None, None, None), "`async with`"),
    ],
    ids=["get", "getitem", "setitem", "setdefault", "delitem", "in", "len", "for", "next", "lock"],
)
def test_operators_and_iterators_are_warned_of_by_the_form_that_does_the_same(entries, operator, form):
    entries.put("k", 1)

    found = warned(lambda: operator(entries))

    assert form in str(found[0].message)


def test_every_form_that_a_warning_names_exists(entries):
    for operator, form in async_usage._OPERATORS.items():
        if form.startswith("`await …."):
            name = form.removeprefix("`await ….").partition(".")[0]
            assert hasattr(getattr(pgstore.Dict, name), "aio"), operator


def test_a_transaction_is_warned_of_at_its_beginning_and_not_for_what_is_done_in_it(client, entries):
    def work() -> None:
        with client.transaction():
            entries.put("k", 1)

    assert "Transaction.__enter__() blocks the event loop" in (text := text_of(work))
    assert "use `async with`" in text


def test_within_an_asynchronous_transaction_a_blocking_call_is_an_error_as_it_was(client, entries):
    async def main() -> None:
        async with client.transaction():
            with pytest.raises(pgstore.TransactionScopeError):
                entries.get("k")

    asyncio.run(main())


def test_run_transaction_names_its_own_asynchronous_form(client):
    assert "`await run_transaction_async(…)`" in text_of(lambda: client.run_transaction(lambda: None))


def test_open_and_reads_of_its_file_are_warned_of(client, store_name):
    files = pgstore.NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client)
    files.write_bytes("a", b"x" * 300_000)

    assert "NetworkFileSystem.open(…)" in (text := text_of(lambda: files.open("a", "rb")))
    assert "`async with ….open.aio(…)`" in text
    with files.open("a", "rb") as file:
        assert "`async with ….open.aio(…) as file`" in text_of(file.read)


def test_a_bucket_is_warned_of_as_well():
    bucket = pgstore.CloudBucketMount("b", bucket_endpoint_url="http://127.0.0.1:9", secret=None)

    def listed() -> None:
        with contextlib.suppress(pgstore.Error):  # nobody listens there
            bucket.exists("a")

    assert "CloudBucketMount.exists(…)" in text_of(listed)


def test_a_class_method_is_warned_of(client):
    assert "`await ….list.aio(…)`" in text_of(lambda: pgstore.Dict.objects.list(client=client))


@pytest.mark.parametrize("value", ["0", "false", "no", "off"])
def test_the_environment_turns_the_warnings_off(entries, monkeypatch, value):
    monkeypatch.setenv("PGSTORE_ASYNC_WARNINGS", value)

    assert not warned(lambda: entries.get("k"))


def test_configure_turns_the_warnings_off_and_on(entries, monkeypatch):
    monkeypatch.setattr("pgstore.client.default._default", None)
    pgstore.configure(async_warnings=False)
    assert not warned(lambda: entries.get("k"))

    pgstore.configure()
    assert warned(lambda: entries.get("k"))


def test_a_switch_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="async_warnings must be True, False or None, not 'off'"):
        pgstore.configure(async_warnings="off")  # type: ignore[arg-type]


def test_a_call_that_a_loop_makes_itself_is_warned_of(entries):
    async def main() -> None:
        asyncio.get_running_loop().call_soon(entries.get, "k")
        await asyncio.sleep(0.01)

    with pytest.warns(AsyncUsageWarning, match="Dict.get"):
        asyncio.run(main())


SETTING_UP = "import pgstore; d = pgstore.Dict.from_name('typed', create_if_missing=True)"


def test_lines_typed_at_the_prompt_of_asyncio_are_not_warned_of(own_database):
    """
    `python -m asyncio` has a loop that runs, and nobody else on it.
    """
    lines = [SETTING_UP, "d.put('k', 'the value')", "def f(): return d.get('k')", "", "f()"]
    # In a coroutine of the person's, others may wait.
    lines += ["async def g(): return d.get('k')", "", "await g()"]

    ran = subprocess.run(
        [sys.executable, "-m", "asyncio"],
        input="\n".join(lines) + "\n",
        env=os.environ | {"PGSTORE_URL": own_database, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert ran.stdout.count("'the value'") == 2, ran.stderr
    assert ran.stderr.count("AsyncUsageWarning:") == 1


def test_an_import_by_a_server_that_starts_is_not_warned_of(own_database, tmp_path, monkeypatch):
    """
    Servers import the program they serve on their loop, before they serve anybody.
    """
    (tmp_path / "served_program.py").write_text(f"{SETTING_UP}; d.put('k', 1)\n")
    monkeypatch.setenv("PGSTORE_URL", own_database)
    monkeypatch.setattr("pgstore.client.default._default", None)
    monkeypatch.syspath_prepend(tmp_path)

    async def serve() -> Any:
        import served_program  # type: ignore[import-not-found]

        return await served_program.d.get.aio("k")

    assert asyncio.run(serve()) == 1
    pgstore.default_client().close()


def test_a_session_of_the_caller_on_a_loop_is_joined_with_a_warning(client, database):
    with psycopg.connect(database) as connection:
        assert "`async with`" in text_of(lambda: client.transaction(connection).__enter__().__exit__(None, None, None))


def test_the_loop_of_fsspec_may_block(client, store_name):
    """
    `rsync` calls file systems that block from coroutines of its own, on a thread that is there for it.
    """
    files = pgstore.Volume.from_name(store_name, create_if_missing=True, client=client)
    fsspec.filesystem("memory").pipe(f"/{store_name}/f", b"bytes")
    set_generic_fs("memory")
    set_generic_fs("pgstore", client=client)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        synchronise = GenericFileSystem(default_method="generic").rsync
        synchronise(f"memory://{store_name}", f"pgstore://{store_name}/mirror", on_error="raise")

    assert files.read_bytes("mirror/f") == b"bytes"
    assert not [warning for warning in found if warning.category is AsyncUsageWarning]


def test_a_loop_of_ones_own_may_not_block_by_fsspec(client, store_name):
    files = fsspec.filesystem("pgstore", client=client, create_if_missing=True)

    assert len(warned(lambda: files.ls(store_name))) == 1
