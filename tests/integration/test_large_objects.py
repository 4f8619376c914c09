"""Storage "large_object": what a role that may only use pgstore reaches, which is its stores and nobody's objects; and deletion."""

from __future__ import annotations

import io
import os
import subprocess

import psycopg
import pytest

import pgstore
from pgstore import NetworkFileSystem, Volume, errors, migrate
from pgstore.files import in_place
from pgstore.files.collect import Collection
from tests.migration.conftest import Cluster, url_as

MIB = 1024 * 1024
OBJECTS = "SELECT count(*) FROM pg_largeobject_metadata"


@pytest.fixture(params=["server", "server18"])
def cluster(request):
    cluster = Cluster(request.getfixturevalue(request.param))
    yield cluster
    cluster.close()


@pytest.fixture
def place(cluster):
    """A migrated database, as its administrator, a writer and a reader see it."""
    roles, url = cluster.roles(), cluster.database()
    migrate.upgrade(url, roles=roles)
    members = []
    for role in (roles.writer, roles.reader):
        login = cluster.login()
        cluster.grant(role, login)
        members.append(url_as(url, login))
    return url, *members


def refused(cluster, url, statement, *parameters):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cluster.execute(url, statement, *parameters)
    return True


@pytest.mark.parametrize("cls", [Volume, NetworkFileSystem])
def test_a_writer_writes_and_a_reader_reads(cluster, place, cls):
    """
    With the rights of the functions' owner, for neither role may touch an object itself.
    """
    url, writer, reader = place
    data = bytearray(os.urandom(5 * MIB + 17))

    with pgstore.Client(writer) as client:
        store = cls.from_name("s", create_if_missing=True, client=client, storage="large_object")
        store.put_file(io.BytesIO(data), "put")
        with store.open("opened", "wb") as file:
            file.write(data)
        if cls is NetworkFileSystem:
            with store.open("put", "r+b", buffering=0) as file:
                file.seek(2 * MIB - 5)
                file.write(b"x" * 10)
                data[2 * MIB - 5 : 2 * MIB + 5] = b"x" * 10
                file.truncate(4 * MIB + 3)
                del data[4 * MIB + 3 :]
                file.seek(0, os.SEEK_END)
                file.write(b"end")
                data += b"end"
        assert b"".join(store.read_file("put")) == data
    with pgstore.Client(reader) as client:
        store = cls.from_name("s", client=client)
        assert b"".join(store.read_file("put")) == data
        with store.open("put", "rb") as file:
            assert file.read() == data
            file.seek(MIB - 5)
            assert file.read(10) == data[MIB - 5 : MIB + 5]
        with pytest.raises(PermissionError):
            store.put_file(io.BytesIO(data), "mine")
    assert cluster.execute(url, OBJECTS)[0][0] >= 10


def test_nobody_reaches_objects_of_others(cluster, place):
    """
    The functions run with rights of their owner; which object they use must not be for the caller to say.
    """
    url, writer, reader = place
    ((theirs,),) = cluster.execute(url, "SELECT lo_from_bytea(0, 'secret')")
    with pgstore.Client(writer) as client:
        store = NetworkFileSystem.from_name("s", create_if_missing=True, client=client, storage="large_object")
        store.put_file(io.BytesIO(os.urandom(2 * MIB)), "file")
        store_id = int(store.object_id[3:])
    ((chunk_id, mine),) = cluster.execute(url, "SELECT id, large_object FROM pgstore.chunk LIMIT 1")

    for role in (writer, reader):
        assert refused(cluster, role, "UPDATE pgstore.chunk SET large_object = %s", theirs)
        assert refused(
            cluster, role, "INSERT INTO pgstore.chunk (store_id, id, large_object) VALUES (1, 1, %s)", theirs
        )
        assert refused(cluster, role, "UPDATE pgstore.chunk SET id = id + 1")
        assert refused(cluster, role, "INSERT INTO pgstore.large_object_left VALUES (%s, 1, %s)", store_id, theirs)
        for oid in (theirs, mine):
            assert refused(cluster, role, "SELECT lo_get(%s)", oid)
            assert refused(cluster, role, "SELECT lo_put(%s, 0, 'x')", oid)
    for call in (
        "chunk_write(%s, %s, 0, 'x')",
        "chunk_truncate(%s, %s, 0)",
        "chunk_delete(%s, %s)",
        "large_objects_leave(%s)",
    ):
        values = (store_id, chunk_id)[: call.count("%s")]
        assert refused(cluster, reader, f"SELECT pgstore.{call}", *values)
    takes_oid = cluster.execute(
        url,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'pgstore'::regnamespace "
        "AND ('oid'::regtype = ANY (proargtypes) OR prorettype = 'oid'::regtype)",
    )
    assert takes_oid == []
    # In a search_path of the caller's own nothing of theirs is called.
    cluster.execute(url, f'GRANT CREATE ON DATABASE "{url.rpartition("/")[2]}" TO PUBLIC')
    with psycopg.connect(writer, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA trap")
        connection.execute(
            "CREATE FUNCTION trap.lo_get(oid, bigint, integer) RETURNS bytea LANGUAGE sql AS 'SELECT ''trapped''::bytea'"
        )
        connection.execute("SET search_path = trap, pg_catalog")
        row = connection.execute("SELECT pgstore.chunk_read(%s, %s, 0, 7)", [store_id, chunk_id]).fetchone()
        assert row is not None
        assert row[0] != b"trapped"
    assert cluster.execute(url, "SELECT convert_from(lo_get(%s), 'UTF8')", theirs) == [("secret",)]


def test_a_writer_does_not_reach_what_says_whose_an_object_is(cluster, place):
    """
    It stands before the bytes; an object that is nobody's is never removed, and one of another's might be taken for ours.
    """
    url, writer, _ = place
    with pgstore.Client(writer) as client:
        store = NetworkFileSystem.from_name("s", create_if_missing=True, client=client, storage="large_object")
        store.put_file(io.BytesIO(b"x" * 2 * MIB), "file")
        place_of = (int(store.object_id[3:]), cluster.execute(url, "SELECT min(id) FROM pgstore.chunk")[0][0])
        for call in (
            "chunk_read(%s, %s, -2048, 32)",
            "chunk_write(%s, %s, -2048, 'x')",
            "chunk_truncate(%s, %s, -2048)",
            "chunk_create(%s, %s + 1000000, -2048, 'x')",
        ):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="of a chunk is negative"):
                cluster.execute(writer, f"SELECT pgstore.{call}", *place_of)

        assert b"".join(store.read_file("file")) == b"x" * 2 * MIB


def test_a_chunk_of_another_kind_of_store_is_not_made_an_object(client, store_name, sql):
    store = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()

    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        sql("SELECT pgstore.chunk_create(%s, 1, 0, 'x')", int(store.object_id[3:]))


@pytest.mark.parametrize("cls", [Volume, NetworkFileSystem])
def test_objects_go_with_their_store(call, own_database, cls):
    """
    Also more of them than a server has locks for in one transaction.
    """
    client = call.client(own_database)
    store = cls.from_name("s", create_if_missing=True, client=client, storage="large_object")
    call(store.put_file, io.BytesIO(os.urandom(3 * MIB)), "file")
    with psycopg.connect(own_database, autocommit=True) as connection:
        store_id = int(store.object_id[3:])
        for _ in range(8):
            connection.execute(
                "SELECT pgstore.chunk_create(%s, nextval('pgstore.chunk_id_seq'), 0, 'x') FROM generate_series(1, 1000)",
                [store_id],
            )

        call(cls.objects.delete, "s", client=client)

        assert connection.execute(OBJECTS).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pgstore.large_object_left").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pgstore.chunk").fetchone() == (0,)


def test_objects_stay_until_the_deletion_is_committed(client, own_database):
    with pgstore.Client(own_database) as mine:
        store = Volume.from_name("s", create_if_missing=True, client=mine, storage="large_object")
        store.put_file(io.BytesIO(os.urandom(3 * MIB)), "file")
        with pytest.raises(KeyError), mine.transaction():
            Volume.objects.delete("s", client=mine)
            raise KeyError
        assert len(b"".join(store.read_file("file"))) == 3 * MIB


@pytest.mark.parametrize("way", ["replace", "delete the store"])
def test_what_a_restore_left_out_can_be_deleted(call, own_database, way):
    """
    A dump of the schema alone has no large objects.
    """
    client = call.client(own_database)
    store = Volume.from_name("s", create_if_missing=True, client=client, storage="large_object", keep=1)
    call(store.put_file, io.BytesIO(os.urandom(3 * MIB)), "file")
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")

        if way == "replace":
            call(store.put_file, io.BytesIO(b"new"), "file")
            client.run(Collection(int(store.object_id[3:]), grace_seconds=0.0).run())
        else:
            call(Volume.objects.delete, "s", client=client)

        assert connection.execute("SELECT count(*) FROM pgstore.chunk").fetchone() == (0,)


def test_an_object_that_was_written_by_two_at_once_has_both(client, client_elsewhere, store_name):
    """
    Two lo_put into one page fail, unless one waits for the other.
    """
    import threading

    store = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client, storage="large_object")
    store.put_file(io.BytesIO(bytes(2 * MIB)), "file")
    ino, store_id = store.stat("file").ino, int(store.object_id[3:])

    def write(client, offset, fill):
        for number in range(100):
            client.run(in_place.write_at(store_id, ino, number * 2000 + offset, fill * 1000))

    threads = [
        threading.Thread(target=write, args=(client, 0, b"a")),
        threading.Thread(target=write, args=(client_elsewhere, 1000, b"b")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.open("file", "rb") as file:
        assert file.read(200_000) == (b"a" * 1000 + b"b" * 1000) * 100


def test_default_privileges_let_nobody_read_objects(server18):
    """
    PostgreSQL 18 has them for large objects, too.
    """
    cluster = Cluster(server18)
    try:
        roles, url, web = cluster.roles(), cluster.database(), cluster.login()
        migrate.upgrade(url, roles=roles)
        for grantee in (f'"{web}"', "PUBLIC"):
            cluster.execute(
                url, f'ALTER DEFAULT PRIVILEGES FOR ROLE "{roles.owner}" GRANT SELECT ON LARGE OBJECTS TO {grantee}'
            )
        with pgstore.Client(url) as client:
            store = Volume.from_name("s", create_if_missing=True, client=client, storage="large_object")
            store.put_file(io.BytesIO(b"x" * MIB), "put")
            assert b"".join(store.read_file("put")) == b"x" * MIB

        objects = cluster.execute(url, "SELECT large_object::text FROM pgstore.chunk WHERE large_object IS NOT NULL")

        assert objects
        for (oid,) in objects:
            assert refused(cluster, url_as(url, web), f"SELECT lo_get({oid})")
    finally:
        cluster.close()


@pytest.fixture
def pointing(call, own_database):
    """A NetworkFileSystem of large objects, one of which is, by its oid, another application's, as after a restore beside it."""
    client = call.client(own_database)
    store = NetworkFileSystem.from_name("s", create_if_missing=True, client=client, storage="large_object")
    call(store.put_file, io.BytesIO(os.urandom(3 * MIB)), "file")
    with psycopg.connect(own_database, autocommit=True) as connection:
        theirs = connection.execute("SELECT lo_from_bytea(0, repeat('theirs', 1000)::bytea)").fetchall()[0][0]
        second = "id = (SELECT chunk_id FROM pgstore.extent WHERE position = 1)"
        connection.execute(f"SELECT lo_unlink(large_object) FROM pgstore.chunk WHERE {second}")
        connection.execute(f"UPDATE pgstore.chunk SET large_object = %s WHERE {second}", [theirs])
        yield client, store, connection
        assert connection.execute("SELECT lo_get(%s)", [theirs]).fetchone() == (b"theirs" * 1000,)


@pytest.mark.parametrize(
    "use",
    [
        lambda store, call: b"".join(call.iterate(store.read_file("file"))),
        lambda store, call: call(store.get_file, "file", io.BytesIO()),
        lambda store, call: overwrite(store, MIB + 10),
        lambda store, call: truncate(store, MIB + 10),
        lambda store, call: call(store.copy_files, ["file"], "copy") or overwrite(store, MIB + 10),
    ],
    ids=["read", "download", "write", "truncate", "copy and write"],
)
def test_an_object_that_is_not_ours_is_an_error(call, pointing, use):
    """
    Reading would show strangers' bytes, and writing destroy them. The message says what to do.
    """
    _, store, _ = pointing

    with pytest.raises(errors.StatementFailed, match="restore the large objects of the same backup"):
        use(store, call)


def overwrite(store, offset):
    with store.open("file", "r+b", buffering=0) as file:
        file.seek(offset)
        file.write(b"x" * 10)


def truncate(store, size):
    with store.open("file", "r+b", buffering=0) as file:
        file.truncate(size)


@pytest.mark.parametrize("way", ["collect", "delete the store"])
def test_an_object_that_is_not_ours_survives_its_chunk(call, pointing, way):
    """
    The chunk goes, with the objects that are the store's own.
    """
    client, store, connection = pointing
    if way == "collect":
        call(store.remove_file, "file")
        client.run(Collection(int(store.object_id[3:]), grace_seconds=0.0).run())
    else:
        call(NetworkFileSystem.objects.delete, "s", client=client)

    assert connection.execute("SELECT count(*) FROM pgstore.chunk").fetchone() == (0,)
    assert connection.execute(OBJECTS).fetchone() == (1,)


def test_a_migration_takes_over_no_object_that_is_not_ours(cluster):
    """
    Objects of chunks come to pgstore_owner, as the functions run with its rights; those that chunks only point at do not.
    """
    roles, url = cluster.roles(), cluster.database()
    migrate.upgrade(url, roles=roles)
    with pgstore.Client(url) as client:
        store = NetworkFileSystem.from_name("s", create_if_missing=True, client=client, storage="large_object")
        store.put_file(io.BytesIO(os.urandom(2 * MIB)), "file")
    ((theirs,),) = cluster.execute(url, "SELECT lo_from_bytea(0, 'secret')")
    cluster.execute(
        url, "UPDATE pgstore.chunk SET large_object = %s WHERE id = (SELECT max(id) FROM pgstore.chunk)", theirs
    )
    with psycopg.connect(url, autocommit=True) as connection:
        for (oid,) in connection.execute("SELECT oid FROM pg_largeobject_metadata").fetchall():
            connection.execute(f"ALTER LARGE OBJECT {oid} OWNER TO CURRENT_USER")

    migrate.upgrade(url, roles=roles)

    owned = cluster.execute(
        url,
        "SELECT count(*) FILTER (WHERE pg_get_userbyid(lomowner) = %s), "
        "count(*) FILTER (WHERE oid = %s AND pg_get_userbyid(lomowner) = %s) FROM pg_largeobject_metadata",
        roles.owner, theirs, roles.owner,
    )  # fmt: skip
    assert owned == [(1, 0)]


def test_objects_are_ours_after_a_dump_and_a_restore(cluster, tmp_path):
    """
    The proof is in the object, and in the row that says which installation this is.
    """
    url, target, data = cluster.database(), cluster.database(), os.urandom(2 * MIB)
    migrate.upgrade(url, roles=cluster.roles())
    with pgstore.Client(url) as client:
        store = NetworkFileSystem.from_name("s", create_if_missing=True, client=client, storage="large_object")
        store.put_file(io.BytesIO(data), "file")

    dump_and_restore(cluster, url, target, tmp_path)

    with pgstore.Client(target) as client:
        store = NetworkFileSystem.from_name("s", client=client)
        assert b"".join(store.read_file("file")) == data
        overwrite(store, MIB + 10)
        assert b"".join(store.read_file("file"))[MIB + 10 : MIB + 20] == b"x" * 10


def dump_and_restore(cluster, url, target, tmp_path):
    """A whole database, large objects too, into an empty one."""
    programs = cluster.server.bin_dir
    subprocess.run([programs / "pg_dump", "-Fc", "-f", tmp_path / "dump", url], check=True)
    subprocess.run([programs / "pg_restore", "--exit-on-error", "-d", target, tmp_path / "dump"], check=True)
