"""`pgstore dict …`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import pgstore
from tests.fixtures.foreign import without_its_class


@pytest.fixture
def store(client, commands):
    """The Dict `it` in the environment of the commands."""
    handle = pgstore.Dict.from_name("it", environment_name=commands.environment, create_if_missing=True, client=client)
    return handle.hydrate()


# --- what is there ----------------------------------------------------------------------------------------------------


def test_create_makes_a_dict_once_and_for_good(commands):
    """
    A script that runs again creates nothing new, and is told if it wants something else.
    """
    assert commands("dict", "create", "it", "--ttl", "60") == (0, "", "")
    assert commands("dict", "create", "it") == (0, "", "")

    assert "ttl=60.0, not 7.0" in commands.fails("dict", "create", "it", "--ttl", "7", code=2)
    assert [each["name"] for each in json.loads(commands("dict", "list", "--json").out)] == ["it"]


def test_info_tells_what_a_dict_is_and_holds(commands):
    """
    The options are for good, so one has to be able to look them up.
    """
    commands("dict", "create", "it", "--serializer", "json", "--watch")
    commands("dict", "put", "it", "a", "7", "--json")

    found = json.loads(commands("dict", "info", "it", "--json").out)

    assert (found["environment"], found["entries"]) == (commands.environment, 1)
    assert found["options"] == {"serializer": "json", "watch": True}
    assert "entries      1\n" in commands("dict", "info", "it").out


@pytest.mark.parametrize("verb", ["info", "len", "keys", "items", "get", "put", "pop", "rm", "watch", "increment"])
def test_a_dict_that_does_not_exist_is_one_line_and_is_not_made(commands, verb):
    """
    A typing error in a name must not leave a store behind.
    """
    arguments = {"get": ["a"], "pop": ["a"], "rm": ["a"], "increment": ["a"], "put": ["a", "b"]}.get(verb, [])

    line = commands.fails("dict", verb, "absent", *arguments)

    assert line.startswith(f"there is no Dict named 'absent' in environment '{commands.environment}'")
    assert commands("dict", "list", "--json").out == "[]\n"


def test_the_environment_is_that_after_the_verb(commands, store):
    """
    It is where one looks for it, and where Modal has it.
    """
    store["a"] = 1

    assert commands("dict", "len", "it").out == "1\n"
    assert "environment 'other'" in commands.fails("dict", "len", "it", "-e", "other")
    assert commands("dict", "len", "it", "--env", commands.environment).out == "1\n"


# --- values in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "argument", "value"),
    [
        ([], "7", "7"),
        ([], "", ""),
        ([], "grün", "grün"),
        (["--json"], '{"a": [1, null]}', {"a": [1, None]}),
        (["--json"], "7", 7),
        (["--bytes"], "grün", "grün".encode()),
        (["--bytes"], os.fsdecode(b"\xff"), b"\xff"),
        (["--json"], "-5", -5),
    ],
    ids=range(8),
)
def test_a_value_is_text_unless_it_is_said_to_be_json_or_bytes(commands, store, options, argument, value):
    """
    `7` is not a number by its looks: a script must not store another type when the text happens to be one.
    """
    assert commands("dict", "put", "it", "key", *options, "--", argument) == (0, "", "")

    assert store["key"] == value
    assert type(store["key"]) is type(value)


def test_a_dash_is_what_comes_on_stdin(commands, store):
    """
    With nothing taken away: bytes come out as they went in.
    """
    picture = bytes(range(256))

    commands("dict", "put", "it", "picture", "-", "--bytes", stdin=picture)
    commands("dict", "put", "it", "text", "-", stdin="grün\n".encode())

    assert store["picture"] == picture
    assert store["text"] == "grün\n"
    assert commands.in_bytes("dict", "get", "it", "picture") == (0, picture, "")
    assert commands.in_bytes("dict", "get", "it", "text", "--raw") == (0, "grün\n".encode(), "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "hint"),
    [
        (["{]", "--json"], b"", "VALUE '{]' is not JSON"),
        (["NaN", "--json"], b"", "NaN is no number in JSON"),
        (["[" * 100_000, "--json"], b"", "nested too deeply"),
        (["x", "--json", "--bytes"], b"", "--json or --bytes, not both"),
        (["-"], b"\xff", "VALUE is not UTF-8 at byte 0: give --bytes"),
        (["-"], None, "stdin, which is closed"),
        ([os.fsdecode(b"a\xff")], b"", "not UTF-8 at byte 1"),
        (["x", "--ttl", "-1"], b"", "--ttl"),
        (["x", "--ttl", "nan"], b"", "'--ttl'"),
        (["-x"], b"", "before a value that starts with a dash stands `--`"),
        (["x", "--json-key"], b"", "KEY 'key' is not JSON"),
    ],
    ids=range(11),
)
def test_a_value_that_cannot_be_one_is_one_line_and_stores_nothing(commands, store, arguments, stdin, hint):
    assert hint in commands.fails("dict", "put", "it", "key", *arguments, code=2, stdin=stdin)

    assert store.len() == 0


@pytest.mark.parametrize(
    ("text", "key"), [("7", 7), ("null", None), ('["a", [1, 2]]', ("a", (1, 2))), ('"a"', "a")], ids=range(4)
)
def test_keys_that_are_no_str_are_written_as_json(commands, store, text, key):
    """
    Programs put tuples, and whoever looks after them must be able to name these.
    """
    store[key] = "found"

    assert commands("dict", "get", "it", text, "--json-key").out == "found\n"
    assert commands("dict", "rm", "it", text, "--json-key").code == 0
    assert store.len() == 0


def test_json_that_is_no_key_is_told_of(commands, store):
    assert "'dict' cannot be a key" in commands.fails("dict", "get", "it", '{"a": 1}', "--json-key", code=2)


def test_skip_if_exists_is_a_lock_of_shells(commands, store):
    """
    One of several has the exit code 0.
    """
    assert commands("dict", "put", "it", "lock", "mine", "--skip-if-exists").code == 0

    assert "left as it is" in commands.fails("dict", "put", "it", "lock", "theirs", "--skip-if-exists").replace(
        "was", "is"
    )
    assert store["lock"] == "mine"


def test_an_entry_expires_by_its_ttl(commands, store):
    commands("dict", "put", "it", "key", "value", "--ttl", "1000")

    entry = store.get_entry("key")

    assert 999 < (entry.expires_at - entry.updated_at).total_seconds() < 1001


def test_increment_prints_the_sum(commands, store):
    assert commands("dict", "increment", "it", "visits").out == "1\n"
    assert commands("dict", "increment", "it", "visits", "41").out == "42\n"
    assert commands("dict", "increment", "it", "visits", "--", "-0.5").out == "41.5\n"

    store["text"] = "x"
    assert "is not an int or float" in commands.fails("dict", "increment", "it", "text", code=2)
    assert "BY 'x' is not a number" in commands.fails("dict", "increment", "it", "visits", "x", code=2)
    assert "64 bits" in commands.fails("dict", "increment", "it", "whole", str(1 << 63))


# --- values out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "options", "shown"),
    [
        ("text", [], "text\n"),
        ("text", ["--repr"], "'text'\n"),
        ("text", ["--json"], '"text"\n'),
        ("text", ["--raw"], "text"),
        (None, ["--json"], "null\n"),
        ({"a": (1, b"x")}, [], "{'a': (1, b'x')}\n"),
        ({"a": (1, b"x")}, ["--json"], '{"a": [1, "b\'x\'"]}\n'),
        (float("nan"), ["--json"], '"nan"\n'),
        (10**5000, ["--json"], None),
        ("\ud800", ["--json"], '"\\ud800"\n'),
    ],
    ids=range(10),
)
def test_a_value_is_shown_as_text_repr_or_json(commands, store, value, options, shown):
    """
    JSON is for other programs: whatever the value is, they can read it.
    """
    store["key"] = value

    code, out, err = commands("dict", "get", "it", "key", *options)

    assert (code, err) == (0, "")
    assert out == shown if shown else json.loads(out)


def test_the_value_of_a_missing_key_is_none(commands, store):
    """
    As Modal prints it; `contains` tells the two apart.
    """
    store["none"] = None

    assert commands("dict", "get", "it", "absent") == (0, "None\n", "")
    assert commands("dict", "get", "it", "absent", "--json") == (0, "null\n", "")
    assert commands("dict", "contains", "it", "absent")[:2] == (1, "false\n")
    assert commands("dict", "contains", "it", "none")[:2] == (0, "true\n")
    assert "absent" in commands.fails("dict", "get", "it", "absent", "--raw")


def test_items_are_the_first_twenty_and_a_row_of_dots(commands, store):
    """
    Looking into a Dict of millions does not read it all.
    """
    store.update({f"{number:02}": number for number in range(25)})

    def keys(*arguments):
        return [line.split()[0] for line in commands("dict", "items", "it", *arguments).out.splitlines()[2:]]

    assert keys() == [*(f"{number:02}" for number in range(20)), "..."]
    assert keys("2") == ["00", "01", "..."]
    assert keys("25") == keys("--all") == sorted(store.keys())
    assert keys("--prefix", "2") == ["20", "21", "22", "23", "24"]
    assert len(json.loads(commands("dict", "items", "it", "--json").out)) == 25
    assert len(json.loads(commands("dict", "items", "it", "3", "--json").out)) == 3
    assert "not both" in commands.fails("dict", "items", "it", "3", "--all", code=2)


def test_keys_are_a_line_each(commands, store):
    store.update({"b": 1, "a\nb": 2, 7: 3})

    assert commands("dict", "keys", "it").out == "7\na\\nb\nb\n"
    assert json.loads(commands("dict", "keys", "it", "--json").out) == [7, "a\nb", "b"]


def test_what_cannot_be_loaded_hides_nothing_else(commands, store):
    """
    Values are pickles of other programs, whose classes are not here.
    """
    with without_its_class() as thing:
        store.update({"a": 1, "b": thing, "c": 3})

    code, out, err = commands("dict", "items", "it")
    records = json.loads(commands("dict", "items", "it", "--json").out)

    assert (code, err) == (0, "")
    assert "<cannot be loaded: ModuleNotFoundError: No module named 'gone_shop'; " in out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["a", "b", "c"]
    assert [each["value"] for each in records] == [1, None, 3]
    assert "gone_shop" in records[1]["error"]
    assert "gone_shop" in commands.fails("dict", "get", "it", "b")


def test_control_characters_do_not_reach_a_terminal(commands, store):
    """
    Whoever may write a value must not be able to rewrite what stands above it on an operator's screen.
    """
    store["\x1b[2Jkey"] = "a\x1b]0;title\x07\r\u202eb\nc"

    items = commands("dict", "items", "it", terminal=True).out
    value = commands("dict", "get", "it", "\x1b[2Jkey", terminal=True).out
    keys = commands("dict", "keys", "it", terminal=True).out
    missing = commands("dict", "pop", "it", "\x1b[3J")

    assert "\\x1b[2Jkey" in items
    assert "a\\x1b]0;title\\x07\\r\\u202eb\\nc" in items
    assert value == "a\\x1b]0;title\\x07\\r\\u202eb\nc\n"
    assert keys == "\\x1b[2Jkey\n"
    assert "\x1b[3J" not in missing.err


def test_a_value_goes_to_a_file_as_it_is(commands, store):
    store["key"] = "a\x1b[1mb\r"

    assert commands("dict", "get", "it", "key").out == "a\x1b[1mb\r\n"


def test_cells_are_cut_on_a_terminal_alone(commands, store):
    """
    A table of values of a megabyte shows nothing, and a script wants all of it.
    """
    store["text"] = "x" * 100_000
    store["list"] = [["y" * 50] * 1000] * 100
    store["markup"] = "[bold]b[/bold] :smile:"

    shown = commands("dict", "items", "it", terminal=True).out
    del store["list"]
    whole = commands("dict", "items", "it", "--all").out

    assert len(shown) < 2000
    assert "[['yyy" in shown
    assert "[bold]b[/bold] :smile:" in shown
    assert "x" * 100_000 in whole


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no text")


def test_a_value_without_a_text_is_told_of(commands, store):
    """
    It is the class of another's that fails; the rows after it are none of its business.
    """
    store.update({"a": Unshowable(), "b": 2})

    code, out, err = commands("dict", "items", "it")

    assert (code, err) == (0, "")
    assert "<Unshowable that cannot be shown: RuntimeError: no text>" in out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["a", "b"]


# --- taking away ------------------------------------------------------------------------------------------------------


def test_pop_removes_what_it_has_printed(commands, store):
    store.update({"a": "x", "b": b"\xff"})

    assert commands("dict", "pop", "it", "a").out == "x\n"
    assert commands.in_bytes("dict", "pop", "it", "b")[1] == b"\xff"
    assert "'a' is not in the Dict it" in commands.fails("dict", "pop", "it", "a")
    assert store.len() == 0


def test_pop_leaves_what_it_could_not_print(commands, store, monkeypatch):
    """
    A full disk must not cost the value.
    """
    store["a"] = {"not": "raw"}

    assert "--raw" in commands.fails("dict", "pop", "it", "a", "--raw", code=2)
    assert store["a"] == {"not": "raw"}


def test_rm_removes_all_keys_or_none(commands, store):
    """
    A list with a typing error is corrected and given again.
    """
    store.update({"a": 1, "b": 2, "c": 3})

    assert "'x' is not in the Dict it" in commands.fails("dict", "rm", "it", "a", "x", "b")
    assert store.len() == 3
    assert commands("dict", "rm", "it", "a", "x", "b", "--allow-missing").code == 0
    assert store.keys() == ["c"]


def test_clear_and_delete_ask_and_do_nothing_where_nobody_answers(commands, store):
    store["a"] = 1

    for verb in ("clear", "delete"):
        assert "--yes" in commands.fails("dict", verb, "it")
        assert "--yes" in commands.fails("dict", verb, "it", stdin=None)
    assert store.len() == 1
    assert commands("dict", "clear", "it", "-y").code == 0
    assert store.len() == 0
    assert commands("dict", "delete", "it", "-y").code == 0
    assert "there is no Dict named 'it'" in commands.fails("dict", "delete", "it", "-y")
    assert commands("dict", "delete", "it", "-y", "--allow-missing").code == 0


# --- watching ---------------------------------------------------------------------------------------------------------


def test_watch_goes_on_after_a_cursor(commands, client):
    """
    A script that was stopped misses nothing.
    """
    watched = pgstore.Dict.from_name(
        "watched", environment_name=commands.environment, create_if_missing=True, watch=True, client=client
    )
    with watched.watch(timeout=0) as changes:
        list(changes)
        watched["a\n"] = 1
        cursor = next(changes).cursor
    watched["b"] = 2
    del watched["b"]
    watched.clear()

    lines = commands("dict", "watch", "watched", "--since", cursor, "--timeout", "0").out.splitlines()
    records = commands("dict", "watch", "watched", "--since", cursor, "--timeout", "0", "--json").out.splitlines()

    assert lines == ["put b", "delete b", "clear"]
    assert [json.loads(each)["kind"] for each in records] == ["put", "delete", "clear"]
    assert "cursor" in commands.fails("dict", "watch", "watched", "--since", "x", code=2)


def test_only_a_dict_that_was_made_for_it_is_watched(commands, store):
    assert "watch" in commands.fails("dict", "watch", "it", "--timeout", "0", code=2)


# --- real processes ---------------------------------------------------------------------------------------------------


def pgstore_process(commands, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "pgstore", "--url", commands.url, "-e", commands.environment, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_a_closed_pipe_costs_pop_nothing(commands, store):
    """
    `pgstore dict pop … | head -c0`: what nobody has read is still there.
    """
    store["a"] = "x" * 1_000_000
    process = pgstore_process(commands, "dict", "pop", "it", "a")
    process.stdout.close()
    process.stdout = None

    _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (1, b"")
    assert len(store["a"]) == 1_000_000


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_is_printed_in_any_encoding(commands, store, encoding):
    """
    A cron job has LC_ALL=C.
    """
    store["grün \ud800 ☃"] = "grün \ud800 ☃"

    process = pgstore_process(
        commands,
        "dict",
        "items",
        "it",
        env={**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    out, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (0, b"")
    assert b"\\ud800" in out
    assert ("grün" if encoding != "ascii" else "gr\\xfcn").encode(encoding) in out
