"""Files from SQL: what Python wrote, seen and read by those who have only SQL."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore import NetworkFileSystem, Volume
from pgstore.fs.retention.collection import Collection
from tests.migration.conftest import url_as

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def volume(client, store_name):
    return Volume.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.fixture(params=["rows", "large_object"])
def stored(request, client, store_name):
    """A Volume, once for each storage."""
    name = f"{store_name}-{request.param}"
    return Volume.from_name(name, create_if_missing=True, storage=request.param, client=client).hydrate()


def put(volume, path, data=b""):
    volume.put_file(io.BytesIO(data), path)


def store_id(store) -> int:
    return int(store.hydrate().object_id.partition("-")[2])


@contextlib.contextmanager
def refused(sqlstate, text=None):
    with pytest.raises(psycopg.Error, match=text) as caught:
        yield
    assert caught.value.sqlstate == sqlstate


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    "size", [0, 1, 64 * KIB, 64 * KIB + 1, 256 * KIB, 256 * KIB + 1, 4 * MIB, 4 * MIB + 1, 65 * MIB + 3]
)
def test_sql_reads_the_bytes_that_python_wrote(stored, sql, size):
    """
    Empty, in the row, one chunk, several, and chunks of the larger size.
    """
    data = os.urandom(size)
    put(stored, "a/b/file", data)

    assert sql("SELECT pgstore.read_file(%s, '/a/b/file')", stored.name) == [(data,)]


def test_holes_read_as_zeros(stored, sql):
    """
    Before, between and after what was written, and in the last chunk.
    """
    data = bytes(3 * 256 * KIB) + b"x" + bytes(2 * 256 * KIB) + b"y" * 300 * KIB + bytes(256 * KIB)
    put(stored, "sparse", data)
    put(stored, "nothing", bytes(900 * KIB))

    assert sql("SELECT pgstore.read_file(%s, 'sparse')", stored.name) == [(data,)]
    assert sql("SELECT pgstore.read_file(%s, 'nothing')", stored.name) == [(bytes(900 * KIB),)]


@pytest.mark.parametrize("size", [20, 700 * KIB])
def test_a_part_of_a_file_is_read_as_a_slice(stored, sql, size):
    """
    In the row and in chunks; what is past the end is not there.
    """
    data = os.urandom(size)
    put(stored, "file", data)

    for start, length in [(0, 0), (0, 7), (3, 9), (size - 5, 5), (size - 5, 99), (size, 1), (size + 9, 1), (5, None)]:
        ((got,),) = sql(
            "SELECT pgstore.read_file(%s, 'file', p_offset => %s, p_length => %s)", stored.name, start, length
        )
        assert got == data[start : size if length is None else start + length], (start, length)
    if size > 256 * KIB:
        ((got,),) = sql(
            "SELECT pgstore.read_file(%s, 'file', p_offset => %s, p_length => 20)", stored.name, 256 * KIB - 9
        )
        assert got == data[256 * KIB - 9 : 256 * KIB + 11]


def test_text_is_decoded(volume, sql):
    put(volume, "utf-8", "Ärger, €\n".encode())
    put(volume, "latin", "Ärger\n".encode("latin-1"))

    assert sql("SELECT pgstore.read_text(%s, 'utf-8')", volume.name) == [("Ärger, €\n",)]
    assert sql("SELECT pgstore.read_text(%s, 'latin', p_encoding => 'LATIN1')", volume.name) == [("Ärger\n",)]
    with refused("22021"):
        sql("SELECT pgstore.read_text(%s, 'latin')", volume.name)


def test_what_is_too_large_for_a_value_is_refused_and_read_in_parts(volume, sql):
    """
    PostgreSQL's own answer would be an "invalid memory alloc request size".
    """
    put(volume, "file", b"x" * 100 * KIB)
    sql("UPDATE pgstore.inode SET size_bytes = 10737418240 WHERE store_id = %s AND kind = 'f'", store_id(volume))

    with refused("54000", "10737418240 bytes, at most 524288000"):
        sql("SELECT pgstore.read_file(%s, 'file')", volume.name)
    assert sql("SELECT pgstore.read_file(%s, 'file', p_offset => 10737418239)", volume.name) == [(b"\0",)]


def test_files_are_read_by_name_by_id_and_by_inode(volume, sql):
    """
    The last form serves queries over the view, which has found the file already.
    """
    put(volume, "notes/a.md", b"needle")
    put(volume, "notes/b.md", b"hay")
    number = store_id(volume)
    ((ino,),) = sql("SELECT ino FROM pgstore.files WHERE store_id = %s AND path = 'notes/a.md'", number)

    assert sql("SELECT pgstore.read_file(%s::bigint, 'notes/a.md')", number) == [(b"needle",)]
    assert sql("SELECT pgstore.read_text(%s::bigint, 'notes/a.md')", number) == [("needle",)]
    assert sql("SELECT pgstore.read_file(%s::bigint, %s::bigint)", number, ino) == [(b"needle",)]
    assert sql(
        "SELECT path FROM pgstore.files WHERE volume = %s AND path LIKE '%%.md' AND pgstore.read_text(store_id, ino) ~ 'nee'",
        volume.name,
    ) == [("notes/a.md",)]


def test_an_environment_can_be_named(client, store_name, sql):
    elsewhere = Volume.from_name(store_name, environment_name="other", create_if_missing=True, client=client)
    put(elsewhere, "file", b"x")

    assert sql("SELECT pgstore.read_file(%s, 'file', p_environment => 'other')", store_name) == [(b"x",)]
    assert sql("SELECT path FROM pgstore.list_directory(%s, '/', p_environment => 'other')", store_name) == [("file",)]
    with refused("P0002", "no Volume or NetworkFileSystem"):
        sql("SELECT pgstore.read_file(%s, 'file')", store_name)


def test_versions_are_read_as_they_were(volume, sql):
    put(volume, "d/file", b"one")
    put(volume, "d/file", b"two")
    put(volume, "d/other", b"three")

    def at(version):
        ((got,),) = sql("SELECT pgstore.read_file(%s, 'd/file', %s)", volume.name, version)
        return got

    def names(version):
        return [name for (name,) in sql("SELECT path FROM pgstore.list_directory(%s, 'd', %s)", volume.name, version)]

    def names_at_root(version):
        return sql("SELECT path FROM pgstore.list_directory(%s, '', %s)", volume.name, version)

    assert [at(None), at(1), at(2), at(3)] == [b"two", b"one", b"two", b"two"]
    assert [names(1), names(3), names(None)] == [["d/file"], ["d/file", "d/other"], ["d/file", "d/other"]]
    assert sql(
        "SELECT path, version FROM pgstore.files WHERE volume = %s AND type = 'file' ORDER BY path", volume.name
    ) == [
        ("d/file", 2),
        ("d/other", 3),
    ]
    assert names_at_root(0) == []
    with refused("58P01"):
        at(0)
    for version in (4, -1):
        with refused("42704", "has no version"):
            at(version)


def test_versions_that_are_not_kept_are_refused(client, store_name, sql):
    """
    Rather than shown as far as they are still there.
    """
    volume = Volume.from_name(store_name, create_if_missing=True, keep=2, client=client)
    assert sql("SELECT path FROM pgstore.list_directory(%s, '/', 0)", volume.hydrate().name) == []
    for content in (b"1", b"2", b"3", b"4"):
        put(volume, "file", content)
    client.run(Collection(store_id(volume), grace_seconds=0).run())

    assert sql("SELECT pgstore.read_file(%s, 'file', 3)", volume.name) == [(b"3",)]
    for version in (0, 1, 2):
        with refused("42704", "has no version"):
            sql("SELECT pgstore.read_file(%s, 'file', %s)", volume.name, version)


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("read_file('{name}', 'd/none')", "58P01"),
        ("read_file('{name}', 'none/none')", "58P01"),
        ("read_file('{name}', 'd/file/none')", "42809"),
        ("read_file('{name}', 'd')", "42809"),
        ("read_file('{name}', '/')", "42809"),
        ("read_file('{name}', 'd/../d/file')", "22023"),
        ("read_file('{name}', 'd/" + 256 * "x" + "')", "42622"),
        ("read_file('{name}', NULL)", "22004"),
        ("read_file('{name}', 'd/file', p_offset => -1)", "22023"),
        ("read_file('{name}', 'd/file', p_length => -1)", "22023"),
        ("read_file('no such volume', 'd/file')", "P0002"),
        ("read_file(-1, 'd/file')", "P0002"),
        ("read_file(-1, 1)", "P0002"),
        ("read_file({id}, 999999999999)", "58P01"),
        ("read_file({id}, 1)", "42809"),
        ("read_text('{name}', 'd/none')", "58P01"),
        ("list_directory('{name}', 'none')", "58P01"),
        ("list_directory('no such volume', '/')", "P0002"),
        ("list_directory('{name}', 'd', p_recursive => true, p_limit => 5)", "22023"),
    ],
)
def test_a_bad_call_says_what_is_wrong(volume, database, call, sqlstate):
    put(volume, "d/file")

    with psycopg.connect(database) as connection, refused(sqlstate):
        connection.execute(f"SELECT pgstore.{call.format(name=volume.name, id=store_id(volume))}".encode())


def test_paths_may_be_written_as_in_python(volume, sql):
    put(volume, "a/b", b"x")

    for path in ("a/b", "/a/b", "//a///./b", "./a/b/"):
        assert sql("SELECT pgstore.read_file(%s, %s)", volume.name, path) == [(b"x",)]


# -------------------------------------------------------------------------------------------------------------- links


def test_links_are_followed(volume, sql):
    """
    Relative ones from where they are, absolute ones from the root of the Volume; also to a directory, and by `..`.
    """
    put(volume, "d/e/file", b"x")
    volume.symlink("/d/./e//file", "d/absolute")
    volume.symlink("e/file", "d/relative")
    volume.symlink("../../d/relative", "d/up")
    volume.symlink("d/e", "directory")

    for path in ("d/absolute", "d/relative", "d/up", "directory/file", "directory/"):
        if path.endswith("/"):
            assert sql("SELECT path FROM pgstore.list_directory(%s, %s)", volume.name, path) == [("directory/file",)]
        else:
            assert sql("SELECT pgstore.read_file(%s, %s)", volume.name, path) == [(b"x",)], path
    assert sql(
        "SELECT path, type, link_target FROM pgstore.files WHERE volume = %s AND type = 'symlink'", volume.name
    ) == [
        ("directory", "symlink", "d/e"),
        ("d/absolute", "symlink", "/d/./e//file"),
        ("d/relative", "symlink", "e/file"),
        ("d/up", "symlink", "../../d/relative"),
    ]


def test_links_that_lead_nowhere_are_errors_of_reading_alone(volume, sql):
    volume.symlink("loop", "loop")
    volume.symlink("none", "dangling")

    with refused("54000", "more than 40 symbolic links"):
        sql("SELECT pgstore.read_file(%s, 'loop')", volume.name)
    with refused("58P01"):
        sql("SELECT pgstore.read_file(%s, 'dangling')", volume.name)
    assert sql("SELECT path, link_target FROM pgstore.list_directory(%s, '')", volume.name) == [
        ("dangling", "none"),
        ("loop", "loop"),
    ]


def test_forty_links_are_not_too_many(client, volume, sql):
    """
    The limit is Linux's.
    """
    put(volume, "0", b"x")
    with client.transaction():
        for i in range(1, 42):
            volume.symlink(f"{i - 1}", f"{i}")

    assert sql("SELECT pgstore.read_file(%s, '40')", volume.name) == [(b"x",)]
    with refused("54000"):
        sql("SELECT pgstore.read_file(%s, '41')", volume.name)


# ------------------------------------------------------------------------------------------------------------ looking


def test_the_view_has_the_facts_of_every_entry(volume, sql, tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(0o640)
    os.utime(tmp_path / "file", ns=(0, 1_600_000_000_123_456_789))
    volume.put_file(tmp_path / "file", "d/file")
    volume.link("d/file", "second name")
    volume.mknod("pipe", "fifo", mode=0o600)
    volume.mknod("socket", "socket")
    volume.chown("d/file", 1000, 1001)

    rows = sql(
        """
        SELECT environment, volume, kind, path, type, size, extract(epoch FROM mtime)::numeric(20, 3)::text,
               mode, uid, gid, link_count
          FROM pgstore.files
         WHERE volume = %s
         ORDER BY path COLLATE "C"
        """,
        volume.name,
    )

    assert {row[:3] for row in rows} == {("main", volume.name, "volume")}
    assert [(*row[3:6], *row[7:]) for row in rows] == [
        ("d", "directory", 0, 0o755, 0, 0, 1),
        ("d/file", "file", 5, 0o640, 1000, 1001, 2),
        ("pipe", "fifo", 0, 0o600, 0, 0, 1),
        ("second name", "file", 5, 0o640, 1000, 1001, 2),
        ("socket", "socket", 0, 0o644, 0, 0, 1),
    ]
    assert rows[1][6] == "1600000000.123"


def test_the_view_shows_nothing_of_what_was_removed_or_replaced(volume, sql):
    put(volume, "gone/deep/file")
    put(volume, "kept", b"1")
    put(volume, "kept", b"22")
    volume.remove_file("gone", recursive=True)

    assert sql("SELECT path, size FROM pgstore.files WHERE volume = %s", volume.name) == [("kept", 2)]


def test_the_view_shows_what_is_committed(client, volume, sql):
    with client.transaction():
        put(volume, "file")
        assert sql("SELECT path FROM pgstore.files WHERE volume = %s", volume.name) == []

    assert sql("SELECT path FROM pgstore.files WHERE volume = %s", volume.name) == [("file",)]


def test_network_file_systems_are_in_it_as_they_are_now(client, store_name, sql):
    store = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client)
    with store.open("file", "wb") as file:
        file.write(b"x" * 200 * KIB)
    with store.open("file", "r+b") as file:
        file.seek(100 * KIB)
        file.write(b"y")
    store.copy_files(["file"], "copy")
    with store.open("copy", "ab") as file:
        file.truncate(3)
        file.write(b"end")

    rows = sql("SELECT kind, path, size, version FROM pgstore.files WHERE volume = %s ORDER BY path", store_name)

    assert rows == [("nfs", "copy", 6, None), ("nfs", "file", 200 * KIB, None)]
    assert sql("SELECT pgstore.read_file(%s, 'copy')", store_name) == [(b"xxxend",)]
    assert sql("SELECT pgstore.read_file(%s, 'file')", store_name) == [
        (b"x" * 100 * KIB + b"y" + b"x" * (100 * KIB - 1),)
    ]
    with refused("42704"):
        sql("SELECT pgstore.read_file(%s, 'file', 1)", store_name)


NAMES = [
    (b"plain", "plain"),
    (b"back\\slash", "back\\slash"),
    ("ä€𐍈".encode(), "ä€𐍈"),
    (b"caf\xe9", "caf\\xe9"),
    (b"\xff\xfe", "\\xff\\xfe"),
    ("ä".encode() + b"\xc3", "ä\\xc3"),
    (b"a\xed\xa0\x80b", "a\\xed\\xa0\\x80b"),
    (b"\xc0\xaf", "\\xc0\\xaf"),
    (b"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"),
    (b"\xf0\x9f\x98", "\\xf0\\x9f\\x98"),
    (b"new\nline", "new\nline"),
    (b"100%\x01", "100%\x01"),
]


def test_names_in_no_encoding_are_shown_escaped(volume, sql):
    """
    One such name must not make all others unreadable; the file is read by its inode.
    """
    for raw, _ in NAMES:
        put(volume, os.fsdecode(b"d/" + raw), raw)

    rows = sql(
        "SELECT path, pgstore.read_file(store_id, ino) FROM pgstore.files WHERE volume = %s AND type = 'file'",
        volume.name,
    )
    listed = sql("SELECT name, path FROM pgstore.list_directory(%s, 'd')", volume.name)

    assert sorted(rows) == sorted(("d/" + shown, raw) for raw, shown in NAMES)
    assert listed == sorted((raw, "d/" + shown) for raw, shown in NAMES)


def test_what_python_takes_for_utf8_is_shown_as_itself(sql):
    """
    The rule is written by hand: held against the codec, for all characters' neighbours at the borders.
    """
    borders = [0x1, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xCFFF, 0xD000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF]
    texts = [chr(code) for code in [*borders, 0x40000, 0xFFFFF, 0x100000, 0x10FFFF]]
    cut = [
        text.encode()[:-1] + tail
        for text in texts
        for tail in (b"", b"\x7f", b"\xc0", b"\xff")
        if len(text.encode()) > 1
    ]

    for text in texts:
        assert sql("SELECT pgstore.file_name(%b)", text.encode()) == [(text,)]
    for raw in cut:
        shown = raw.decode("utf-8", "backslashreplace")
        assert sql("SELECT pgstore.file_name(%b)", raw) == [(shown,)]


# ------------------------------------------------------------------------------------------------------------ listing


def test_a_directory_is_listed_in_the_order_of_names(volume, sql):
    for name in ("b", "a/x/y", "ä", "B", "a-"):
        put(volume, f"top/{name}", b"123")

    rows = sql("SELECT path, type, size FROM pgstore.list_directory(%s, 'top/')", volume.name)

    assert rows == [
        ("top/B", "file", 3),
        ("top/a", "directory", 0),
        ("top/a-", "file", 3),
        ("top/b", "file", 3),
        ("top/ä", "file", 3),
    ]
    assert rows == [(entry.path, entry.type.name.lower(), entry.size) for entry in volume.listdir("top")]


def test_a_listing_goes_down_if_asked_to(volume, sql):
    for path in ("t/b", "t/a/x/y", "t/ä"):
        put(volume, path)

    rows = sql("SELECT path FROM pgstore.list_directory(%s, 't', p_recursive => true)", volume.name)

    assert sorted(path for (path,) in rows) == sorted(entry.path for entry in volume.listdir("t", recursive=True))


def test_a_file_is_its_own_listing(volume, sql):
    put(volume, "d/file", b"123")

    assert sql("SELECT path, type, size, version, name FROM pgstore.list_directory(%s, '/d//file')", volume.name) == [
        ("d/file", "file", 3, 1, b"file")
    ]


def test_pages_of_a_listing_follow_each_other(client, volume, sql):
    """
    However the directory grows, a page costs what is on it.
    """
    names = [f"{i:03}" for i in range(25)]
    with client.transaction():
        for name in names:
            put(volume, f"d/{name}")

    got: list[Any] = []
    after = None
    while page := sql(
        "SELECT path, name FROM pgstore.list_directory(%s, 'd', p_after => %b, p_limit => 10)", volume.name, after
    ):
        assert len(page) <= 10
        got += [path for path, _ in page]
        after = page[-1][1]

    assert got == [f"d/{name}" for name in names]


def test_looking_does_not_read_other_stores(volume, sql, client, store_name):
    """
    The condition on the name is applied before the descent: the plan looks at one store.
    """
    put(volume, "file")

    plan = "\n".join(row[0] for row in sql("EXPLAIN SELECT path FROM pgstore.files WHERE volume = %s", volume.name))

    outer, _, below = plan.partition("Recursive Union")
    assert "on store s" in outer
    assert "name = " in outer
    assert "pgstore.store" not in below


# -------------------------------------------------------------------------------------------------------------- roles


def test_readers_and_writers_may_do_all_of_this_and_strangers_nothing(own_database):
    client = pgstore.Client(own_database)
    for name, storage in (("volume", "rows"), ("objects", "large_object")):
        volume = Volume.from_name(name, create_if_missing=True, storage=storage, client=client)
        put(volume, "d/file", b"x")
        put(volume, "d/large", b"y" * MIB)
    client.close()
    calls = [
        "SELECT path FROM pgstore.files WHERE volume = 'volume' AND path = 'd/file'",
        "SELECT path FROM pgstore.list_directory('volume', 'd') WHERE size = 1",
        "SELECT 'd/' || pgstore.read_text('volume', 'd/file') WHERE pgstore.read_file('volume', 'd/large') IS NOT NULL",
        "SELECT left(pgstore.read_text('objects', 'd/large'), 3)",
    ]
    logins = {role: f"login_{uuid.uuid4().hex[:8]}" for role in ("pgstore_reader", "pgstore_writer", "")}
    with psycopg.connect(own_database, autocommit=True) as connection:
        for role, login in logins.items():
            connection.execute(f"CREATE ROLE {login} LOGIN {f'IN ROLE {role}' if role else ''}".encode())
    try:
        for role, login in logins.items():
            with psycopg.connect(url_as(own_database, login), autocommit=True) as connection:
                for call, answer in zip(calls, ["d/file", "d/file", "d/x", "yyy"], strict=True):
                    if role:
                        assert connection.execute(call.encode()).fetchall() == [(answer,)], (role, call)
                    else:
                        with pytest.raises(psycopg.errors.InsufficientPrivilege):
                            connection.execute(call.encode())
    finally:
        with psycopg.connect(own_database, autocommit=True) as connection:
            for login in logins.values():
                connection.execute(f"DROP ROLE {login}".encode())
