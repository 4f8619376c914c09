"""`pgstore volume`: files into a Volume, out of it and about in it, from a shell."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest
import typer
from psycopg import sql as pgsql

import pgstore
from pgstore import Volume
from pgstore.cli import nfs_commands, volume_commands
from pgstore.fs.transfer.local import Folder

HOSTILE = ["two\nlines", "esc\x1b[31m", os.fsdecode(b"byte\xff"), "[red]markup", '"quoted"', "back\\slash", "ünïcode"]
COMMAND = [sys.executable, "-c", "from pgstore.cli import main; main()"]


@pytest.fixture
def volume(client, commands, store_name):
    environment = commands.environment
    return Volume.from_name(store_name, environment_name=environment, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(volume, path, data=b""):
    volume.put_file(io.BytesIO(data), path)


def tree(folder, **files):
    for path, data in files.items():
        place = folder / path.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(data)
    return folder


def paths(volume):
    return sorted(entry.path for entry in volume.iterdir("/", recursive=True))


@pytest.mark.parametrize("noun", ["volume", "nfs"])
def test_every_verb_has_help_with_an_example(commands, noun):
    """
    Nobody should need the README to call a command.
    """
    group = typer.main.get_group({"volume": volume_commands, "nfs": nfs_commands}[noun].app)

    assert {"ls", "get", "put", "create", "delete"} <= group.commands.keys()
    for verb in group.commands:
        assert f"\n    pgstore {noun} {verb} " in f"{commands.done(noun, verb, '--help').partition('Example:')[2]} "


# --- making, naming ---------------------------------------------------------------------------------------------------


def test_a_volume_from_its_creation_to_its_end(commands, store_name):
    name, other = store_name, f"{store_name}-2"

    created = commands.done("volume", "create", name, "--keep", "3", "--chunk-size", "8192")
    again = commands.fails("volume", "create", name)
    found = json.loads(commands.done("volume", "info", name, "--json"))
    commands.done("volume", "rename", name, other, "--yes")
    listed = [each["name"] for each in json.loads(commands.done("volume", "list", "--json"))]
    commands.done("volume", "delete", other, "--yes")

    assert f'pgstore.Volume.from_name("{name}")' in created
    assert again == f"Volume {name!r} exists already in environment {commands.environment!r}"
    assert (found["name"], found["versions_kept"], found["chunk_size_bytes"], found["version"]) == (name, 3, 8192, 0)
    assert other in listed
    assert name not in listed
    assert f"there is no Volume named {other!r}" in commands.fails("volume", "ls", other)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"], ["get", "x"], ["get", "x", "-"], ["cat", "x"], ["put", "."], ["cp", "a", "b"], ["mv", "a", "b"], ["rm", "x"],
        ["mkdir", "x"], ["du"], ["info"], ["versions"], ["restore", "1"], ["watch"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_missing_volume_is_one_line_that_says_where_to_look(commands, folder, arguments):
    verb, *rest = arguments

    line = commands.fails("volume", verb, "no-such-volume", *rest, "-e", "trial")

    assert "in environment 'trial'; `pgstore volume list` shows" in line
    assert os.listdir(folder) == []


def test_the_environment_stands_before_the_noun_or_after_the_verb(commands, volume, store_name):
    assert store_name in commands.done("volume", "list")  # the fixture puts it before the noun
    assert store_name in commands.done("volume", "list", "-e", commands.environment)
    assert store_name not in commands.done("volume", "list", "-e", "trial")


def test_a_store_of_another_kind_is_named_as_what_it_is(commands, client, store_name):
    pgstore.NetworkFileSystem.from_name(
        store_name, environment_name=commands.environment, create_if_missing=True, client=client
    ).hydrate()

    assert "is a NetworkFileSystem, not a Volume" in commands.fails("volume", "ls", store_name, code=2)


# --- listing ----------------------------------------------------------------------------------------------------------


def test_off_the_terminal_ls_is_a_path_a_line(commands, volume, store_name):
    put(volume, "b/c.txt")
    put(volume, "a.txt")

    assert commands.done("volume", "ls", store_name) == "a.txt\nb\n"
    assert commands.done("volume", "ls", store_name, "b") == "b/c.txt\n"
    assert sorted(commands.done("volume", "ls", store_name, "-r").split()) == ["a.txt", "b", "b/c.txt"]
    assert commands.done("volume", "ls", store_name, "a.txt") == "a.txt\n"
    assert commands.done("volume", "ls", store_name, "*/c*") == "b/c.txt\n"
    assert "no such file or directory: 'x'" in commands.fails("volume", "ls", store_name, "x", "--json")


def test_names_of_any_bytes_are_shown_safely_and_can_be_had_without_loss(commands, volume, store_name):
    """
    A name that a stranger chose must not write to the terminal, nor become two names for a script.
    """
    with volume._runner.transaction():
        for name in HOSTILE:
            put(volume, name)

    lines = commands.done("volume", "ls", store_name).splitlines()
    _, null, _ = commands.in_bytes("volume", "ls", store_name, "-0")
    records = json.loads(commands.done("volume", "ls", store_name, "--json"))

    assert sorted(lines) == sorted(
        [r'"two\nlines"', r'"esc\033[31m"', r'"byte\377"', "[red]markup", r'"\"quoted\""', "back\\slash", "ünïcode"]
    )
    assert {os.fsdecode(name) for name in null.split(b"\0")[:-1]} == set(HOSTILE)
    assert {record["filename"] for record in records} == set(HOSTILE)


def test_ls_as_json_has_modals_keys(commands, volume, store_name):
    put(volume, "d/a", b"12345")
    volume.symlink("a", "d/link")
    volume.mknod("d/pipe", "fifo")

    records = json.loads(commands.done("volume", "ls", store_name, "d", "--json"))

    assert [(r["filename"], r["type"], r["size"]) for r in records] == [
        ("d/a", "file", 5),
        ("d/link", "link", 1),
        ("d/pipe", "fifo", 0),
    ]
    assert [*records[0]] == ["filename", "type", "created_modified", "size"]
    assert commands.done("volume", "ls", store_name, "d/none*", "--json") == "[]\n"


def in_terminal(commands, *arguments, columns=80):
    """Run a command on a terminal; returns its code and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {**os.environ, "PGSTORE_URL": commands.url, "PGSTORE_ENVIRONMENT": commands.environment, "TERM": "xterm"}
    process = subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 65536):
            seen += data
    except OSError:  # the last one has closed it
        pass
    os.close(ours)
    return process.wait(30), seen.decode()


def test_on_a_terminal_ls_is_a_table_that_cuts_no_name(commands, volume, store_name):
    put(volume, "n" * 150, b"x" * 1536)
    put(volume, "esc\x1b[31m")

    code, shown = in_terminal(commands, "volume", "ls", store_name)

    assert code == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)  # of the table itself
    assert re.search(r"Filename +Type +Created/Modified +Size", shown)
    assert shown.count("n") >= 150
    assert "1.5 KiB" in shown
    assert r'"esc\033[31m"' in shown


def test_a_bar_shows_progress_on_standard_error_alone(commands, volume, store_name, folder):
    """
    What is fetched may be what standard output is for, and a name may be anybody's.
    """
    (folder / "file").write_bytes(bytes(1_000_000))
    hostile = "esc\x1b[31m[red]"

    code, shown = in_terminal(commands, "volume", "put", store_name, "file", hostile)

    assert code == 0
    assert r"esc\x1b[31m[red]" in shown
    assert "\x1b[31m" not in shown
    assert "1 file" in shown
    assert commands.in_bytes("volume", "get", store_name, hostile, "-") == (0, bytes(1_000_000), "")


# --- put --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "remote", "there"),
    [
        ("a.txt", [], "a.txt"),
        ("a.txt", ["d/"], "d/a.txt"),
        ("a.txt", ["/d/b.txt"], "d/b.txt"),
        ("d", [], "d/c.txt"),
        ("d/", ["x/"], "x/d/c.txt"),
        ("d", ["x"], "x/c.txt"),
        ("d/.", ["/"], "d/c.txt"),
    ],
)
def test_where_something_is_put(commands, volume, store_name, folder, local, remote, there):
    """
    Modal's rule, and that of cp: into a REMOTE that ends in a slash under its own name, else as REMOTE.
    """
    tree(folder, a__txt="", **{"a.txt": "one", "d__c.txt": "two"})

    commands.done("volume", "put", store_name, local, *remote)

    assert volume.read_text(there) == ("one" if "a.txt" in local else "two")


def test_the_current_directory_is_put_as_what_is_in_it(commands, volume, store_name, folder):
    tree(folder, **{"a.txt": "", "d__c.txt": ""})

    commands.done("volume", "put", store_name, ".", "/")

    assert paths(volume) == ["a.txt", "d", "d/c.txt"]


def test_nothing_is_replaced_without_force(commands, volume, store_name, folder):
    put(volume, "d/b.txt", b"old")
    tree(folder, **{"d__a.txt": "new", "d__b.txt": "new"})
    before = volume.versions()

    line = commands.fails("volume", "put", store_name, "d", code=2)
    alone = commands.fails("volume", "put", store_name, "d/b.txt", "d/", code=2)

    assert line == alone == "'d/b.txt' exists; --force replaces it"
    assert volume.versions() == before

    commands.done("volume", "put", store_name, "d", "-f")

    assert volume.read_text("d/b.txt") == "new"
    assert len(volume.versions()) == len(before) + 1


def test_what_cannot_be_put_leaves_the_volume_as_it_was(commands, volume, store_name, folder):
    tree(folder, **{"d__a.txt": "", "file": ""})
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))

    assert "'missing'" in commands.fails("volume", "put", store_name, "missing")
    assert "socket" in commands.fails("volume", "put", store_name, "socket")
    assert "names a directory" in commands.fails("volume", "put", store_name, "-", "x/", code=2)
    assert "names a directory" in commands.fails("volume", "put", store_name, "-", code=2)
    assert "'..'" in commands.fails("volume", "put", store_name, "file", "a/../b", code=2)
    assert "256 bytes" in commands.fails("volume", "put", store_name, "file", "n" * 256, code=2)
    assert volume.versions() == []


def test_of_a_directory_all_files_are_put_that_can_be(commands, volume, store_name, folder):
    """
    Links round in a circle, pipes and sockets are no reason to hang or to fail.
    """
    tree(folder, **{"d__a.txt": "", f"d__{'n' * 255}": ""})
    (folder / "d/loop").symlink_to("loop")
    (folder / "d/up").symlink_to("..")
    (folder / "d/nowhere").symlink_to("nothing")
    (folder / "d/link").symlink_to("a.txt")
    os.mkfifo(folder / "d/fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "d/socket"))

    commands.done("volume", "put", store_name, "d")

    assert paths(volume) == ["d", "d/a.txt", "d/link", f"d/{'n' * 255}"]


def test_standard_input_is_put(commands, volume, store_name):
    data = os.urandom(300_000) + b"\r\n\0"

    assert commands.in_bytes("volume", "put", store_name, "-", "/x", stdin=data) == (0, b"", "")

    assert volume.read_bytes("x") == data


# --- get --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "local", "there"),
    [
        ("d/a.txt", [], "a.txt"),
        ("d/a.txt", ["here"], "here/a.txt"),
        ("d/a.txt", ["new.txt"], "new.txt"),
        ("d/a.txt", ["made/"], "made/a.txt"),
        ("d/link", ["x"], "x"),
        ("d", [], "d/a.txt"),
        ("d/", ["here"], "here/d/a.txt"),
        ("/", ["all"], "all/d/a.txt"),
        ("/", [], "d/a.txt"),
        ("*/a.*", ["out"], "out/d/a.txt"),
        ("d/*.txt", ["out"], "out/a.txt"),
        ("*", [], "d/a.txt"),
    ],
)
def test_where_something_is_fetched_to(commands, volume, store_name, folder, remote, local, there):
    """
    As cp: into a directory under its own name, else as LOCAL. A single file of a directory is fetched alone.
    """
    put(volume, "d/a.txt", b"text")
    volume.symlink("a.txt", "d/link")
    (folder / "here").mkdir()

    commands.done("volume", "get", store_name, remote, *local)

    assert (folder / there).read_bytes() == b"text"


def test_no_local_file_is_replaced_without_force(commands, volume, store_name, folder):
    with volume._runner.transaction():
        put(volume, "d/a.txt", b"new")
        put(volume, "d/b.txt", b"new")
    tree(folder, **{"d__b.txt": "old", "d__mine.txt": "mine"})
    (folder / "link").symlink_to("nowhere")

    lines = [
        commands.fails("volume", "get", store_name, *arguments, code=2)
        for arguments in (
            ["d"],
            ["d/b.txt", "d"],
            ["d/b.txt", "d/b.txt"],
            ["d/a.txt", "link"],
            ["*/*", "."],
            ["d", "d/b.txt"],
        )
    ]

    assert [line.partition(" exists; --force replaces it")[0] for line in lines] == [
        f"local file {path!r}" for path in ("./d/b.txt", "d/b.txt", "d/b.txt", "link", "./d/b.txt", "d/b.txt")
    ]
    assert (folder / "d/b.txt").read_text() == "old"
    assert not (folder / "d/a.txt").exists()

    commands.done("volume", "get", store_name, "d", "--force")

    assert [(folder / "d" / name).read_text() for name in ("a.txt", "b.txt", "mine.txt")] == ["new", "new", "mine"]


def test_what_cannot_be_fetched_leaves_nothing(commands, volume, store_name, folder):
    put(volume, "d/a.txt", b"text")
    (folder / "a.txt").mkdir()

    assert "'missing'" in commands.fails("volume", "get", store_name, "missing")
    assert "nothing matches 'x*'" in commands.fails("volume", "get", store_name, "x*", "-")
    assert "is a directory" in commands.fails("volume", "get", store_name, "d", "-")
    assert "is a directory" in commands.fails("volume", "get", store_name, "d/a.txt", "--force")
    assert "'none/b.txt'" in commands.fails("volume", "get", store_name, "d/a.txt", "none/b.txt")
    assert "'..'" in commands.fails("volume", "get", store_name, "../etc/passwd", code=2)
    assert os.listdir(folder) == ["a.txt"]


def test_standard_output_gets_the_bytes_alone(commands, volume, store_name):
    data = os.urandom(300_000) + b"\r\n\0"
    put(volume, "x", data)
    put(volume, "y", b"end")

    assert commands.in_bytes("volume", "get", store_name, "x", "-") == (0, data, "")
    assert commands.in_bytes("volume", "cat", store_name, "x", "y") == (0, data + b"end", "")
    assert commands.in_bytes("volume", "cat", store_name, "*") == (0, data + b"end", "")


def test_links_that_lead_out_are_left_out_unless_all_writers_are_trusted(commands, volume, store_name, folder):
    put(volume, "d/a.txt")
    volume.symlink("/etc/passwd", "d/link")

    line = commands.fails("volume", "get", store_name, "d")
    commands.done("volume", "get", store_name, "d", "--force", "--trusted")

    assert "--trusted makes links as they are" in line
    assert (folder / "d/a.txt").exists()
    assert os.readlink(folder / "d/link") == "/etc/passwd"


def test_a_full_disk_is_one_line_and_leaves_no_part(commands, volume, store_name, folder):
    put(volume, "d/large", os.urandom(9 << 20))
    small = folder / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=False, capture_output=True
    ).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        lines = [
            commands.fails("volume", "get", store_name, *arguments)
            for arguments in (["d/large", "small"], ["d", "small"])
        ]
        left = [os.path.join(where, name) for where, _, names in os.walk(small) for name in names]
    finally:
        subprocess.run(["umount", small], check=True)

    assert all("no space left on device" in line for line in lines)
    assert left == []


@pytest.mark.parametrize("size", [5, 300_000])
def test_a_full_output_is_one_line(commands, volume, store_name, monkeypatch, size):
    put(volume, "x", bytes(size))

    with (
        contextlib.suppress(OSError),
        open("/dev/full", "w") as full,
    ):  # which still has the last bytes when it is closed
        monkeypatch.setattr(sys, "stdout", full)
        line = commands.fails("volume", "get", store_name, "x", "-")

    assert line == "standard output: no space left on device"


# --- about in the volume ----------------------------------------------------------------------------------------------


def test_copying_moving_and_removing_are_one_commit_each(commands, volume, store_name):
    with volume._runner.transaction():
        put(volume, "a.txt", b"a")
        put(volume, "b.txt", b"b")

    commands.done("volume", "mkdir", store_name, "d")
    commands.done("volume", "cp", store_name, "a.txt", "b.txt", "d")
    commands.done("volume", "mv", store_name, "a.txt", "b.txt", "e/")
    commands.done("volume", "mv", store_name, "e/a.txt", "f.txt")
    commands.done("volume", "cp", store_name, "d", "g", "-r")
    commands.done("volume", "rm", store_name, "d", "f.txt", "-r")

    assert paths(volume) == ["e", "e/b.txt", "g", "g/a.txt", "g/b.txt"]
    assert len(volume.versions()) == 7


def test_what_goes_wrong_within_the_volume_changes_nothing(commands, volume, store_name):
    put(volume, "a.txt", b"a")
    put(volume, "d/b.txt", b"b")
    before = volume.versions()
    run = lambda verb, *arguments, code=1: commands.fails("volume", verb, store_name, *arguments, code=code)  # noqa: E731

    assert "-r removes it" in run("rm", "d")
    assert "'x'" in run("rm", "a.txt", "x")
    assert "-r copies it" in run("cp", "d", "e")
    assert "is not a directory" in run("mv", "a.txt", "d/b.txt", "a.txt")
    assert "the only path" in run("cp", "a.txt", code=2)
    assert "the root" in run("rm", "/", "-r", code=2)
    assert "exists" in run("mkdir", "d")
    assert "-p makes" in run("mkdir", "e/f")
    assert volume.versions() == before

    commands.done("volume", "rm", store_name, "x", "a.txt", "--allow-missing")
    commands.done("volume", "mkdir", store_name, "d/e", "-p")

    assert paths(volume) == ["d", "d/b.txt", "d/e"]


def test_du_counts_names_and_lengths_of_each_directory(commands, volume, store_name):
    for path, length in (("a/x", 10), ("a/b/y", 20), ("c/z", 5), ("top", 1)):
        put(volume, path, bytes(length))
    volume.mkdir("empty")

    records = json.loads(commands.done("volume", "du", store_name, "--json"))
    below = json.loads(commands.done("volume", "du", store_name, "a", "--json"))

    assert [tuple(record.values()) for record in records] == [("a", 2, 30), ("c", 1, 5), ("empty", 0, 0), ("/", 4, 36)]
    assert [tuple(record.values()) for record in below] == [("a/b", 1, 20), ("a", 2, 30)]


# --- versions ---------------------------------------------------------------------------------------------------------


def test_versions_are_shown_read_and_restored(commands, volume, store_name, folder):
    put(volume, "d/a.txt", b"first")
    put(volume, "d/a.txt", b"the second")
    volume.remove_file("d", recursive=True)

    records = json.loads(commands.done("volume", "versions", store_name, "--json", "--sizes"))
    old = commands.done("volume", "ls", store_name, "-r", "--at", "2").split()
    commands.done("volume", "get", store_name, "d/a.txt", "--at", "1")
    said = commands.done("volume", "restore", store_name, "2")

    assert [(r["version"], r["files"], r["size"]) for r in records] == [(3, 0, 0), (2, 1, 10), (1, 1, 5)]
    assert [*records[0]] == ["version", "committed_at", "files", "size"]
    assert old == ["d", "d/a.txt"]
    assert (folder / "a.txt").read_bytes() == b"first"
    assert said == "version 4 is what version 2 was\n"
    assert volume.read_bytes("d/a.txt") == b"the second"
    assert len(commands.done("volume", "versions", store_name, "-n", "2").split("\n")) < len(
        commands.done("volume", "versions", store_name).split("\n")
    )


def test_a_version_that_never_was_is_refused(commands, volume, store_name, folder):
    put(volume, "a")

    assert "no version 7" in commands.fails("volume", "ls", store_name, "--at", "7", code=2)
    assert "no version 7" in commands.fails("volume", "get", store_name, "a", "--at", "7", code=2)
    assert "no version 7" in commands.fails("volume", "restore", store_name, "7", code=2)
    assert os.listdir(folder) == []


def test_watch_tells_what_each_version_changes(commands, volume, store_name, folder):
    tree(folder, **{"d__e__a.txt": "", "d__b.txt": ""})
    volume.put_directory("d", "d")  # 1
    put(volume, "d/e/a.txt", b"new")
    volume.chmod("d/b.txt", 0o600)
    volume.move("d/e", "f")
    volume.mkdir("d/e/g")
    volume.remove_file("d", recursive=True)  # 6

    lines = commands.done("volume", "watch", store_name, "--since", "0", "--timeout", "0").splitlines()
    last = json.loads(commands.done("volume", "watch", store_name, "--since", "5", "--timeout", "0", "--json"))

    assert lines == [
        "1 added d", "2 changed d/e/a.txt", "3 changed d/b.txt", "4 removed d/e", "4 added f", "5 added d/e", "6 removed d"
    ]  # fmt: skip
    assert (last["version"], last["changes"]) == (6, [{"change": "removed", "path": "d"}])
    assert commands.done("volume", "watch", store_name, "--timeout", "0") == ""


def test_watch_prints_a_commit_as_it_comes(commands, volume, store_name):
    command = [*COMMAND, "--url", commands.url, "--env", commands.environment, "volume", "watch", store_name]
    with subprocess.Popen([*command, "--since", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        put(volume, os.fsdecode(b"one\xff"))
        first = process.stdout.readline()
        put(volume, "two")
        second = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert [first, second] == [b'1 added "one\\377"\n', b"2 added two\n"]
    assert (process.returncode, err) == (130, b"")


# --- processes --------------------------------------------------------------------------------------------------------


def test_what_is_streamed_takes_little_memory_and_ends_with_its_reader(commands, volume, store_name):
    """
    `pgstore volume get … - | head` ends without a word; a stream of any length passes through.
    """
    length = 100 << 20
    command = [*COMMAND, "--url", commands.url, "--env", commands.environment, "volume"]
    program = (
        f"import sys; block = bytes(range(256)) * 4096; [sys.stdout.buffer.write(block) for _ in range({length >> 20})]"
    )
    source = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)

    # Not of this process: a child begins with the memory of its parent.
    measure = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:])"
    measure += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    putting = [sys.executable, "-c", measure, *command, "put", store_name, "-", "x"]
    put_it = subprocess.run(putting, stdin=source.stdout, stdout=subprocess.PIPE, check=True)
    assert source.stdout is not None
    source.stdout.close()

    assert source.wait() == 0
    assert int(put_it.stdout) < 130_000  # KiB, the interpreter and what it has imported included
    assert volume.stat("x").size == length

    reading = subprocess.Popen([*command, "get", store_name, "x", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reading.stdout is not None
    assert reading.stdout.read(10) == bytes(range(10))
    reading.stdout.close()
    reading.stdout = None
    _, err = reading.communicate(timeout=30)

    assert err == b""


def test_ctrl_c_leaves_nothing_half_done(commands, volume, store_name, folder):
    command = [*COMMAND, "--url", commands.url, "--env", commands.environment, "volume"]
    putting = subprocess.Popen([*command, "put", store_name, "-", "x"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert putting.stdin is not None
    putting.stdin.write(bytes(20 << 20))  # more than is read before it is sent
    putting.stdin.flush()

    putting.send_signal(signal.SIGINT)
    _, err = putting.communicate(timeout=30)

    assert (putting.returncode, err) == (130, b"")
    assert volume.versions() == []

    put(volume, "y", os.urandom(40 << 20))
    getting = subprocess.Popen([*command, "get", store_name, "y"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not any(name.endswith(".part") for name in os.listdir(folder)) and time.monotonic() < deadline:
        time.sleep(0.001)
    getting.send_signal(signal.SIGINT)
    _, err = getting.communicate(timeout=30)

    assert (getting.returncode, err) == (130, b"")
    assert os.listdir(folder) == []


def test_a_connection_that_breaks_leaves_nothing_half_done(commands, volume, store_name, folder, proxy):
    """
    What is read is read again; what is written is all there or not at all.
    """
    data = os.urandom(5 << 20)
    put(volume, "x", data)
    away = commands.on(proxy.url(commands.url))
    before = volume.versions()

    proxy.cut_after(from_server=1 << 20)
    away.done("volume", "get", store_name, "x")
    proxy.wait_for_cut()
    proxy.cut_after(from_client=1 << 20)
    line = away.fails("volume", "put", store_name, "-", "y", stdin=data)
    proxy.wait_for_cut()
    proxy.refuse()
    down = away.fails("volume", "get", store_name, "x", "z")

    assert (folder / "x").read_bytes() == data
    assert "connection" in line
    assert "is it running?" in down
    assert os.listdir(folder) == ["x"]
    assert volume.versions() == before


def test_files_that_come_and_go_while_a_directory_is_put_are_all_or_nothing(commands, volume, store_name, folder):
    """
    A directory that programs are at work in: a file that vanishes before it is read ends it, and nothing is there.
    """
    tree(folder, **{f"d__{number:04}": "x" for number in range(600)})  # more than one batch
    batch = Folder.batch

    def batch_and_vanish(self):
        files = batch(self)
        (folder / "d/0599").unlink(missing_ok=True)
        return files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "batch", batch_and_vanish)
        line = commands.fails("volume", "put", store_name, "d")

    assert line == "local file 'd/0599': no such file or directory"
    assert volume.versions() == []


@pytest.fixture
def reader_url(server, database):
    server.execute(pgsql.SQL("CREATE ROLE file_reader LOGIN IN ROLE pgstore_reader"))
    yield database.replace("postgres@", "file_reader@")
    server.execute(pgsql.SQL("DROP ROLE file_reader"))


def test_a_role_that_may_only_read_reads(commands, volume, store_name, folder, reader_url):
    commands = commands.on(reader_url)
    put(volume, "a", b"x")
    tree(folder, b="")
    before = volume.versions()

    assert commands.done("volume", "ls", store_name, "--at", "1") == "a\n"
    assert commands.in_bytes("volume", "cat", store_name, "a") == (0, b"x", "")
    for verb, rest in (("put", ["b"]), ("rm", ["a"]), ("restore", ["0"])):
        assert "pgstore_writer" in commands.fails("volume", verb, store_name, *rest)
    assert "pgstore_writer" in commands.fails("volume", "create", f"{store_name}-2")
    assert volume.versions() == before


@contextlib.contextmanager
def nobody():
    """As a user who may do nothing that is not for all."""
    if os.geteuid() != 0:
        pytest.skip("takes root, to become somebody else")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_another_user_may_not_read_or_write_is_one_line(commands, volume, store_name, folder):
    tree(folder, d__a="", d__b="", mine__a="old")
    os.mkdir("closed", 0o700)
    for path in (folder, *folder.parents[:3]):
        path.chmod(0o755)
    (folder / "d/b").chmod(0)
    put(volume, "a", b"new")
    commands.done("volume", "put", store_name, "d/a", "/warm")  # what is imported late may be out of reach, too
    commands.done("volume", "get", store_name, "warm", "warm")
    before = volume.versions()

    with nobody():
        assert commands.fails("volume", "put", store_name, "d") == "local file 'd/b': permission denied"
        assert "permission denied" in commands.fails("volume", "put", store_name, "closed")
        assert "permission denied" in commands.fails("volume", "get", store_name, "a", "b")
        assert "permission denied" in commands.fails("volume", "get", store_name, "a", "closed/b")
        assert "permission denied" in commands.fails("volume", "get", store_name, "/", "closed/all")
        assert "permission denied" in commands.fails("volume", "get", store_name, "a", "mine", "--force")

    assert volume.versions() == before
    assert (folder / "mine/a").read_text() == "old"
    assert sorted(os.listdir(folder)) == ["closed", "d", "mine", "warm"]
    assert os.listdir("closed") == []
