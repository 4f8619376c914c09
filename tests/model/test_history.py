"""History of a Volume under generated commits, restores and collections: every version that is kept stays what it was."""

from __future__ import annotations

import contextlib
import io
import itertools
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import pgstore
from pgstore import errors
from pgstore.admin.check import checks_of, run_checks
from pgstore.fs import history
from pgstore.fs.retention import pins
from pgstore.fs.retention.collection import Collection
from pgstore.migrate import sql_directory
from tests.fixtures.depth import examples
from tests.fixtures.scribe import Node, Scribe
from tests.model.test_file_store_tree import REFUSALS

_numbers = itertools.count(1)

FILE_CHECKS = {name: text for name, text in checks_of(sql_directory()).items() if name.startswith(("file_", "orph"))}
PATHS = st.lists(st.sampled_from("xyz"), min_size=1, max_size=3).map("/".join)
DATA = st.sampled_from([b"", b"small", b"large" * 10, bytes(range(100))])
CHANGES = st.one_of(
    st.tuples(st.just("file"), PATHS, DATA),
    st.tuples(st.just("directory"), PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("copy"), PATHS, PATHS),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o600, 0o755])),
    st.tuples(st.just("remove"), PATHS),
)


def apply(scribe: Scribe, change: tuple[Any, ...]) -> None:
    """Make *change*, if it makes sense."""
    what, path, *rest = change
    at = scribe.find(path)
    if what in ("chmod", "remove"):
        if at is not None:
            getattr(scribe, what)(path, *rest)
        return
    target = path if what in ("file", "directory") else rest[0]
    folder = scribe.find(target.rpartition("/")[0])
    if folder is None or folder[1] != "d" or scribe.find(target) is not None:
        return
    if what in ("link", "copy") and (at is None or at[1] != "f"):
        return
    if what == "move" and (at is None or f"{target}/".startswith(f"{path}/")):
        return
    getattr(scribe, what)(path, *rest)


class HistoryMachine(RuleBasedStateMachine):
    database: str

    @initialize(kept=st.integers(1, 4))
    def start(self, kept):
        self.client = pgstore.Client(self.database)
        name = f"history-{next(_numbers)}"
        self.volume = pgstore.Volume.from_name(name, create_if_missing=True, client=self.client, keep=kept).hydrate()
        self.store_id = int(self.volume.object_id[3:])
        self.connection = psycopg.connect(self.database, autocommit=True)
        self.scribe = Scribe(self.connection, self.store_id)
        self.kept = kept
        self.trees: list[dict[str, Node]] = [{}]  # of all versions there have ever been
        self.oldest = 0
        self.pinned: list[int] = []

    def note(self, version):
        assert version == len(self.trees)
        self.trees.append(self.scribe.tree(version))

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=8))
    def commit(self, changes):
        with self.scribe.commit() as version:
            for change in changes:
                apply(self.scribe, change)
        self.note(version)

    @rule(data=st.data())
    def restore(self, data):
        version = data.draw(st.integers(0, len(self.trees) - 1))
        if version < self.oldest:
            with pytest.raises(errors.VersionGone):
                self.volume.restore(version)
            return
        made = self.volume.restore(version)
        self.note(made)
        assert self.trees[made] == self.trees[version]

    @rule(data=st.data())
    def pin(self, data):
        version = data.draw(st.integers(self.oldest, len(self.trees) - 1))
        self.client.run(pins.pins_of(self.client.session).keep(pins.version_of(self.store_id, version)))
        self.pinned.append(version)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data):
        version = self.pinned.pop(data.draw(st.integers(0, len(self.pinned) - 1)))
        self.client.run(pins.pins_of(self.client.session).release(pins.version_of(self.store_id, version)))

    @rule()
    def collect(self):
        promised = self.client.run(Collection(self.store_id, grace_seconds=0).dry_run())
        collection = Collection(self.store_id, grace_seconds=0)
        assert self.client.run(collection.run()) == promised
        assert collection.is_complete
        head = len(self.trees) - 1
        floor = max(self.oldest, min([head - self.kept + 1, *self.pinned]))
        self.oldest = floor if floor > 1 else self.oldest  # version 0 stays as long as version 1 does
        listed = self.client.run(history.versions(self.store_id))
        assert [entry.version for entry in listed] == list(range(head, max(self.oldest, 1) - 1, -1))
        assert not self.client.run(Collection(self.store_id, grace_seconds=0).run())
        self.everything_is_there()
        self.nothing_else_is_there()

    def everything_is_there(self):
        for version in range(self.oldest, len(self.trees)):
            assert self.scribe.tree(version) == self.trees[version]

    def handles_read_it(self):
        for version in range(self.oldest, len(self.trees)):
            then = self.volume.at(version)
            assert {path: node.ino for path, node in self.trees[version].items()} == {
                entry.path: then.stat(entry.path).ino for entry in then.iterdir("/", recursive=True)
            }
            for path, node in self.trees[version].items():
                if node.data is not None:
                    assert b"".join(then.read_file(path)) == node.data

    def nothing_else_is_there(self):
        """Every row is one that a kept version needs."""
        inos, blobs = {1}, 0
        for version in range(self.oldest, len(self.trees)):
            inos |= {node.ino for node in self.trees[version].values()}
        rows = self.connection.execute("SELECT ino FROM pgstore.inode WHERE store_id = %s", [self.store_id]).fetchall()
        assert {ino for (ino,) in rows} <= inos
        ((blobs, used),) = self.connection.execute(
            "SELECT (SELECT count(*) FROM pgstore.blob WHERE store_id = %(s)s), "
            "(SELECT count(DISTINCT blob_id) FROM pgstore.inode WHERE store_id = %(s)s)",
            {"s": self.store_id},
        ).fetchall()
        assert blobs == used
        ((chunks, extents),) = self.connection.execute(
            "SELECT (SELECT count(*) FROM pgstore.chunk WHERE store_id = %(s)s), "
            "(SELECT count(DISTINCT chunk_id) FROM pgstore.extent WHERE store_id = %(s)s)",
            {"s": self.store_id},
        ).fetchall()
        assert chunks == extents
        counts = self.scribe.rows()
        assert (counts["blob_candidate"], counts["chunk_candidate"]) == (0, 0)

    def teardown(self):
        if not hasattr(self, "connection"):
            return
        try:
            self.everything_is_there()
            self.handles_read_it()
            report = run_checks(self.database, FILE_CHECKS)
            assert not report.failures
            assert [row for finding in report.findings for row in finding.rows if row[0] == self.store_id] == []
        finally:
            self.connection.close()
            self.client.close()


class VolumeHistoryMachine(HistoryMachine):
    """The same with the Volume's own operations, in transactions with savepoints that are rolled back."""

    @rule(changes=st.lists(st.tuples(CHANGES, st.booleans()), min_size=1, max_size=8))
    def commit(self, changes):
        with self.client.transaction():
            for change, is_kept in changes:
                with contextlib.suppress(*REFUSALS, _RollBackError), self.client.transaction():
                    self.make(*change)
                    if not is_kept:
                        raise _RollBackError
        head = self.volume.versions(limit=1)
        if head and head[0].version == len(self.trees):
            self.note(head[0].version)

    def make(self, what, path, *rest):
        volume = self.volume
        if what == "file":
            volume.put_file(io.BytesIO(rest[0] * 2000), path)
        elif what == "directory":
            volume.mkdir(path)
        elif what == "copy":
            volume.copy_files([path], rest[0], recursive=True)
        elif what == "remove":
            volume.remove_file(path, recursive=True)
        else:
            getattr(volume, what)(path, *rest)


class _RollBackError(Exception):
    pass


@pytest.mark.parametrize("machine", [HistoryMachine, VolumeHistoryMachine], ids=["rows", "volume"])
def test_every_version_that_is_kept_stays_what_it_was(own_database, machine):
    """
    Whatever was committed, restored and collected since; and what no version needs is gone.
    """
    machine = type("Machine", (machine,), {"database": own_database})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples(6), stateful_step_count=25, deadline=None, database=None)
    )
