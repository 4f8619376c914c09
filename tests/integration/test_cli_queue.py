"""`pgstore queue …`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

import pgstore
from pgstore.admin import contents
from tests.fixtures.foreign import without_its_class


@pytest.fixture
def queue(client, commands):
    """The Queue `it` in the environment of the commands."""
    handle = pgstore.Queue.from_name(
        "it", environment_name=commands.environment, create_if_missing=True, client=client, max_attempts=1
    )
    return handle.hydrate()


def rows(ran):
    """The cells of a printed table, without its head."""
    return [line.split() for line in ran.out.splitlines()[2:]]


# --- what is there ----------------------------------------------------------------------------------------------------


def test_create_makes_a_queue_once_and_for_good(commands):
    assert commands("queue", "create", "it", "--maxsize", "2", "--max-attempts", "3", "--backoff", "5") == (0, "", "")
    assert commands("queue", "create", "it") == (0, "", "")

    assert "maxsize=2, not 3" in commands.fails("queue", "create", "it", "--maxsize", "3", code=2)
    found = json.loads(commands("queue", "info", "it", "--json").out)
    assert found["options"] == {"maxsize": 2, "max_attempts": 3, "backoff": 5.0}


def test_list_counts_partitions_and_items(commands, queue):
    """
    Exactly, however many there are.
    """
    queue.put_many(range(3))
    queue.put_many(range(4), partition="urgent")
    commands("queue", "create", "empty")

    assert [row[:1] + row[-2:] for row in rows(commands("queue", "list"))] == [["empty", "0", "0"], ["it", "2", "7"]]
    first, second = json.loads(commands("queue", "list", "--json").out)
    assert list(first) == ["name", "created_at", "created_by", "partitions", "total_size"]
    assert (second["partitions"], second["total_size"]) == (2, 7)


def test_stats_tell_what_waits_and_what_has_gone(commands, queue):
    queue.put_many(range(5))
    queue.put("later", delay=1000)
    queue.get(lease=1000)
    queue.get(lease=1000).nack(reason="broken")

    (found,) = json.loads(commands("queue", "stats", "it", "--json").out)

    assert {name: found[name] for name in ("depth", "leased", "delayed", "dead")} == {
        "depth": 3,
        "leased": 1,
        "delayed": 1,
        "dead": 1,
    }
    assert 0 <= found["age"] < 60
    assert [row[0] for row in rows(commands("queue", "stats"))] == ["it"]
    assert commands("queue", "stats", "-e", "nowhere").out.count("\n") == 2


def test_partitions_are_counted(commands, queue):
    queue.put_many(range(3))
    queue.put_many(range(4), partition="urgent")

    found = json.loads(commands("queue", "partitions", "it", "--json").out)

    assert [(each["partition"], each["items"]) for each in found] == [("", 3), ("urgent", 4)]
    assert commands("queue", "len", "it").out == "3\n"
    assert commands("queue", "len", "it", "-p", "urgent").out == "4\n"
    assert commands("queue", "len", "it", "--total").out == "7\n"
    assert "not both" in commands.fails("queue", "len", "it", "--total", "-p", "urgent", code=2)


@pytest.mark.parametrize(
    "verb", ["info", "len", "stats", "partitions", "peek", "items", "get", "put", "dead", "revive", "watch"]
)
def test_a_queue_that_does_not_exist_is_one_line_and_is_not_made(commands, client, verb):
    """
    Also where a Dict has this name.
    """
    pgstore.Dict.from_name(
        "absent", environment_name=commands.environment, create_if_missing=True, client=client
    ).hydrate()
    arguments = {"put": ["a"], "revive": ["--all"], "watch": ["--timeout", "0"]}.get(verb, [])

    line = commands.fails("queue", verb, "absent", *arguments)

    assert line.startswith(f"there is no Queue named 'absent' in environment '{commands.environment}'")
    assert commands("queue", "list", "--json").out == "[]\n"


# --- putting ----------------------------------------------------------------------------------------------------------


def test_put_keeps_the_order_of_its_arguments(commands, queue):
    assert commands("queue", "put", "it", "a", "7", "") == (0, "", "")
    assert commands("queue", "put", "it", "--json", '{"a": 7}', "7", "-p", "json") == (0, "", "")

    assert queue.peek(5) == ["a", "7", ""]
    assert queue.peek(5, partition="json") == [{"a": 7}, 7]


def test_put_takes_stdin_whole_or_by_lines(commands, queue):
    commands("queue", "put", "it", "-", stdin=b"a\nb\n")
    commands("queue", "put", "it", "-", "--lines", stdin=b"a\r\n\nb\n")
    commands("queue", "put", "it", "-", "--lines", "--json", stdin=b"1\n2")
    commands("queue", "put", "it", "-", "--bytes", stdin=b"\xff\n")

    assert queue.peek(10) == ["a\nb\n", "a\r", "", "b", 1, 2, b"\xff\n"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "hint"),
    [
        (["--json", "1", "{"], b"", "ITEM '{' is not JSON"),
        (["-", "--lines", "--json"], b"1\n2]\n", "line 2 '2]' is not JSON"),
        (["-", "--lines"], b"a\n\xff\n", "line 2 is not UTF-8"),
        (["a", "--lines"], b"", "--lines goes with `-`"),
        (["-", "-"], b"", "`-` once"),
        (["-"], None, "stdin, which is closed"),
        (["a", "--json", "--bytes"], b"", "not both"),
        (["a", "-p", ""], b"", "partition '' is not of 1 to 64 bytes"),
        (["a", "-p", "\0"], b"", "without NUL"),
        (["a", "--delay", "-1"], b"", "--delay"),
        (["a", "--idempotency-key", ""], b"", "idempotency_key ''"),
        ([], b"", "ITEM"),
    ],
    ids=range(12),
)
def test_a_put_that_cannot_be_is_one_line_and_puts_nothing(commands, queue, arguments, stdin, hint):
    assert hint in commands.fails("queue", "put", "it", *arguments, code=2, stdin=stdin)

    assert queue.len(total=True) == 0


def test_an_input_that_does_not_end_is_refused_when_it_is_too_large(commands, queue, monkeypatch):
    """
    `queue put … - < /dev/zero` must not take the memory of the machine first.
    """
    monkeypatch.setattr("pgstore.cli.values._LINES_BYTES_MAX", 1 << 20)

    assert "more than 1 MiB" in commands.fails("queue", "put", "it", "-", "--lines", stdin=b"x" * (1 << 20) + b"y")
    assert commands("queue", "put", "it", "-", "--lines", stdin=b"x" * (1 << 20)).code == 0
    assert queue.len() == 1


def test_put_has_the_options_of_put(commands, queue):
    """
    A cron job that is repeated puts once.
    """
    for _ in range(2):
        commands("queue", "put", "it", "once", "--idempotency-key", "today")
    commands("queue", "put", "it", "later", "--delay", "1000")

    assert queue.peek(5) == ["once"]
    assert json.loads(commands("queue", "stats", "it", "--json").out)[0]["delayed"] == 1


def test_put_into_a_full_queue_waits_no_longer_than_it_is_told(commands):
    commands("queue", "create", "small", "--maxsize", "1")
    commands("queue", "put", "small", "a")

    line = commands.fails("queue", "put", "small", "b", "--timeout", "0.01")

    assert line == "no room in the Queue small, made with maxsize=1"
    assert commands("queue", "len", "small").out == "1\n"


# --- looking ----------------------------------------------------------------------------------------------------------


def test_peek_prints_an_item_a_line_and_leaves_it(commands, queue):
    queue.put_many(["a\nb", 7, {"x": b"y"}])

    assert commands("queue", "peek", "it").out == "a\\nb\n"
    assert commands("queue", "peek", "it", "9").out == "a\\nb\n7\n{'x': b'y'}\n"
    assert commands("queue", "peek", "it", "2", "--repr").out == "'a\\nb'\n7\n"
    assert json.loads(commands("queue", "peek", "it", "9", "--json").out) == ["a\nb", 7, {"x": "b'y'"}]
    assert commands("queue", "peek", "it", "-p", "other") == (0, "", "")
    assert queue.len() == 3


def test_items_are_the_oldest_twenty_and_a_row_of_dots(commands, queue):
    queue.put_many(range(25))

    assert [row[-1] for row in rows(commands("queue", "items", "it"))] == [*map(str, range(20)), "..."]
    assert [row[-1] for row in rows(commands("queue", "items", "it", "2"))] == ["0", "1", "..."]
    assert len(rows(commands("queue", "items", "it", "--all"))) == 25
    found = json.loads(commands("queue", "items", "it", "--json").out)
    assert [each["item"] for each in found] == list(range(25))
    assert list(found[0]) == ["put_at", "size", "item"]


def test_items_that_are_due_come_once_and_at_the_end(client, queue, sql):
    """
    What a lease has lost is moved back by the next get, and nobody may miss it, or see it twice, before.
    """
    queue.put_many(range(12))
    for number in range(20):
        queue.put(f"due {number}", delay=1000)
    sql("UPDATE pgstore.queue_deferred SET due_at = now() WHERE store_id = %s", queue._record.id)

    found = [each.item for each in contents.items(queue)]

    assert found == [*range(12), *(f"due {number}" for number in range(20))]
    assert [each.item for each in contents.items(queue, limit=14)] == found[:14]


def test_what_cannot_be_loaded_hides_nothing_else(commands, queue):
    with without_its_class() as thing:
        queue.put_many([1, thing, 3])

    assert (
        "<cannot be loaded: ModuleNotFoundError: No module named 'gone_shop'; " in commands("queue", "items", "it").out
    )
    lines = commands("queue", "peek", "it", "3").out.splitlines()
    watched = commands("queue", "watch", "it", "--timeout", "0").out.splitlines()
    records = json.loads(commands("queue", "items", "it", "--json").out)

    assert lines == watched
    assert (lines[0], lines[2], len(lines)) == ("1", "3", 3)
    assert lines[1].startswith("<cannot be loaded: ModuleNotFoundError")
    assert [each["item"] for each in records] == [1, None, 3]


# --- taking -----------------------------------------------------------------------------------------------------------


def test_get_takes_items_and_prints_a_line_each(commands, queue):
    queue.put_many(["a\nb", 7, b"\xff", "d", "e", "f"])

    assert commands("queue", "get", "it").out == "a\\nb\n"
    assert commands("queue", "get", "it", "-n", "2").out == "7\nb'\\xff'\n"
    assert commands("queue", "get", "it", "--raw").out == "d"
    assert json.loads(commands("queue", "get", "it", "-n", "9", "--json").out) == ["e", "f"]
    assert queue.len() == 0


def test_get_from_an_empty_queue_is_code_1(commands, queue):
    """
    A loop of a shell ends with it.
    """
    assert commands.fails("queue", "get", "it") == "the Queue it has no item: --block waits for one"
    assert "partition 'a' of the Queue it within 0.01 seconds" in commands.fails(
        *["queue", "get", "it", "-p", "a", "--timeout", "0.01"]
    )


def test_get_leaves_what_it_cannot_load_or_print(commands, queue):
    """
    An item that nobody has seen must not be gone.
    """
    with without_its_class() as thing:
        queue.put_many(["a", thing])

    assert "gone_shop" in commands.fails("queue", "get", "it", "-n", "2")
    assert queue.len() == 2
    queue.get()
    assert "gone_shop" in commands.fails("queue", "get", "it")
    assert queue.len() == 1
    queue.clear()
    queue.put({"no": "bytes"})
    assert "--raw writes str and bytes" in commands.fails("queue", "get", "it", "--raw", code=2)
    assert queue.len() == 1


def test_clear_is_of_a_partition_or_of_all(commands, queue):
    queue.put("a")
    queue.put("b", partition="p")
    queue.put("c", partition="q")

    assert "--yes" in commands.fails("queue", "clear", "it", "--all")
    assert "not both" in commands.fails("queue", "clear", "it", "--all", "-p", "p", "-y", code=2)
    commands("queue", "clear", "it", "-p", "p", "-y")
    assert queue.len(total=True) == 2
    commands("queue", "clear", "it", "-y")
    assert queue.peek(partition="q") == ["c"]
    commands("queue", "clear", "it", "--all", "-y")
    assert queue.len(total=True) == 0


# --- dead letters -----------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(queue):
    """Three dead letters: a, b, and one that cannot be loaded."""
    with without_its_class() as thing:
        queue.put_many(["a", "b", thing])
    for lease in queue.get_many(3, lease=1000):
        lease.nack(reason="because\x1b[2J")
    return [letter.id for letter in queue.dead_letters()]


def test_dead_letters_are_shown_with_their_reasons(commands, letters):
    shown = rows(commands("queue", "dead", "it"))
    records = json.loads(commands("queue", "dead", "it", "--json").out)

    assert [int(row[0]) for row in shown] == letters
    assert "because\\x1b[2J" in shown[0]
    assert [(each["id"], each["item"]) for each in records] == list(zip(letters, ["a", "b", None], strict=True))
    assert len(rows(commands("queue", "dead", "it", "2"))) == 2


def test_dead_letters_are_revived_and_discarded_by_their_ids(commands, queue, letters):
    """
    All that are named, or none.
    """
    first, second, third = map(str, letters)

    assert "1 of 2 ids are of no dead letter" in commands.fails("queue", "revive", "it", first, "1")
    assert "ids, or --all" in commands.fails("queue", "revive", "it", code=2)
    assert "ids, or --all" in commands.fails("queue", "discard", "it", first, "--all", "-y", code=2)
    assert "--yes" in commands.fails("queue", "discard", "it", first)
    assert len(queue.dead_letters()) == 3

    assert commands("queue", "revive", "it", second, second).out == "1 revived\n"
    assert queue.peek(5) == ["b"]
    assert commands("queue", "discard", "it", third, "-y").out == "1 discarded\n"
    assert commands("queue", "revive", "it", "--all").out == "1 revived\n"
    assert queue.peek(5) == ["b", "a"]


def test_dead_letters_are_named_by_their_ids_in_python_too(call, queue, letters):
    assert call(queue.revive, letters[0]) == 1
    assert call(queue.discard, letters[1:]) == 2

    for wrong in ("a", True, -1, 1 << 63, [None]):
        with pytest.raises(pgstore.InvalidError, match="not a dead letter"):
            call(queue.discard, [wrong] if not isinstance(wrong, list) else wrong)


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def start(commands):
    """Starts commands as processes, and ends those that a failed test has left."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "pgstore", "--url", commands.url, "-e", commands.environment, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_watch_prints_what_comes_until_ctrl_c(start, queue):
    """
    It takes nothing away from those who work on the queue.
    """
    queue.put("there")
    process = start("queue", "watch", "it")
    assert process.stdout.readline() == "there\n"

    queue.put("coming")
    assert process.stdout.readline() == "coming\n"
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130
    assert queue.len() == 2


def test_an_item_that_is_waited_for_stays_if_nobody_reads_it(start, queue):
    """
    `pgstore queue get --block | head -c0`: it is taken when it is written, and not before.
    """
    process = start("queue", "get", "it", "--block")
    process.stdout.close()
    process.stdout = None
    time.sleep(0.5)
    queue.put("precious")

    _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (1, "")
    assert queue.peek() == ["precious"]


def test_a_full_disk_costs_nothing(commands, queue):
    queue.put("precious")

    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "pgstore", "--url", commands.url, "-e", commands.environment, "queue", "get", "it"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    assert (ran.returncode, ran.stderr) == (1, "error: no space left on device\n")
    assert queue.peek() == ["precious"]
