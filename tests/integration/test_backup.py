"""One pg_dump is a backup: restored into an empty database, every store is there."""

from __future__ import annotations

import subprocess

import pgstore


def test_a_dump_restored_into_an_empty_database_keeps_every_store(server, own_database, empty_database, tmp_path):
    large = bytes(range(256)) * 4096
    with pgstore.Client(own_database) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries.update({"text": "ü\0", (1, "a"): [1, 2.5, None], 7: 2**62, "large": large})
        queue = pgstore.Queue.persist("queue", client=client)
        queue.put_many(["first", {"second": 2}])
        queue.put("other", partition="p")
        volume = pgstore.Volume.persist("volume", client=client)
        (tmp_path / "small.txt").write_text("small")
        (tmp_path / "large.bin").write_bytes(large)
        volume.put_directory(tmp_path, "/files")
        expected = dict(entries.items())

    dump = tmp_path / "dump"
    pg_dump = ["/usr/bin/env", f"PATH={server.bin_dir}:/usr/bin:/bin"]
    subprocess.run([*pg_dump, "pg_dump", "-Fc", "-n", "pgstore", "-f", dump, own_database], check=True)
    subprocess.run(
        [*pg_dump, "pg_restore", "--exit-on-error", "--no-owner", "--no-privileges", "-d", empty_database, dump],
        check=True,
    )

    with pgstore.Client(empty_database, auto_migrate=False) as client:
        assert dict(pgstore.Dict.from_name("entries", client=client).items()) == expected
        queue = pgstore.Queue.from_name("queue", client=client)
        queue.put("after the restore")  # sequences went along
        assert queue.get_many(10) == ["first", {"second": 2}, "after the restore"]
        assert queue.get(partition="p") == "other"
        volume = pgstore.Volume.from_name("volume", client=client)
        assert b"".join(volume.read_file("files/large.bin")) == large
        volume.put_file(tmp_path / "small.txt", "again.txt")
        assert sorted(entry.path for entry in volume.listdir("/", recursive=True)) == [
            "again.txt",
            "files",
            "files/large.bin",
            "files/small.txt",
        ]
