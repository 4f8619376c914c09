"""Volume against nested dicts, under generated operations, transactions, savepoints and a second writer."""

from __future__ import annotations

import copy
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
from pgstore.types import FileEntryType
from tests.fixtures.depth import examples
from tests.integration.test_volume import assert_whole

_numbers = itertools.count(1)

NAMES = st.sampled_from(["x", "y", "z"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
DATA = st.one_of(st.binary(max_size=3), st.sampled_from([b"l" * 70_000, bytes(300_000) + b"end"]))


class Model:
    """A tree: a directory is a dict, a file its bytes."""

    def __init__(self):
        self.root: dict[str, Any] = {}

    def put(self, path, data):
        *folders, name = path.split("/")
        here = self.root
        trail = here
        for folder in folders:
            trail = trail.get(folder, {})
            if not isinstance(trail, dict):
                raise NotADirectoryError
        if isinstance(trail.get(name), dict):
            raise IsADirectoryError
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = data

    def find(self, path):
        here: Any = self.root
        for name in path.split("/"):
            if not isinstance(here, dict) or name not in here:
                return None
            here = here[name]
        return here

    def remove(self, path):
        folder, _, name = path.rpartition("/")
        del (self.find(folder) if folder else self.root)[name]

    def everything(self, here=None, prefix=""):
        for name, value in (self.root if here is None else here).items():
            yield prefix + name, None if isinstance(value, dict) else value
            if isinstance(value, dict):
                yield from self.everything(value, f"{prefix}{name}/")


class VolumeMachine(RuleBasedStateMachine):
    """
    One client works below `a/` and `s/`, in transactions or not; another writes below `b/` and `s/` meanwhile.

    What they make in `s/` differs in name only at the last step, so that directories made by both have to become one.
    """

    database: str
    joined: bool
    early: bool  # changes are written at once, so that the other client has to wait for the transaction

    @initialize()
    def start(self):
        name = f"tree-{next(_numbers)}"
        url = f"{self.database}?options=-c%20lock_timeout%3D5s"  # a mistake here must not make the test hang
        self.clients = [pgstore.Client(url) for _ in range(2)]
        self.mine, self.theirs = (pgstore.Volume.persist(name, client=client) for client in self.clients)
        self.mine.hydrate()
        for entry in self.mine.listdir("/"):
            self.mine.remove_file(entry.path, recursive=True)
        self.model = Model()  # what is committed, and what this client does outside transactions
        self.stack: list[tuple[Any, Model]] = []  # open transactions, each with the model before it
        self.others: list[tuple[str, bytes]] = []  # what the other client put since the transaction began
        self.locked = False
        self.connection = psycopg.connect(self.database)

    @rule(path=PATHS, data=DATA)
    def put(self, path, data):
        self._put(f"a/{path}", data)

    @rule(path=PATHS, data=DATA)
    def put_shared(self, path, data):
        self._put(f"s/{path}-mine", data)

    def _put(self, path, data):
        try:
            self.model.put(path, data)
        except (NotADirectoryError, IsADirectoryError) as exc:
            with pytest.raises(type(exc)):
                self.mine.put_file(io.BytesIO(data), path)
        else:
            self.mine.put_file(io.BytesIO(data), path)
            self.locked = self.early and bool(self.stack)

    @precondition(lambda self: not self.locked)
    @rule(place=st.sampled_from(["b", "s"]), path=PATHS, data=DATA)
    def put_by_other(self, place, path, data):
        path = f"{place}/{path}-theirs"
        self.theirs.put_file(io.BytesIO(data), path)
        if self.stack:
            self.others.append((path, data))
        else:
            self.model.put(path, data)

    @rule(path=PATHS)
    def remove(self, path):
        path = f"a/{path}"
        found = self.model.find(path)
        if found is None:
            with pytest.raises((errors.FileMissing, errors.NotADirectory)):
                self.mine.remove_file(path, recursive=True)
            return
        if isinstance(found, dict):
            with pytest.raises(errors.IsADirectory):
                self.mine.remove_file(path)
        self.mine.remove_file(path, recursive=True)
        self.model.remove(path)
        self.locked = self.early and bool(self.stack)

    @precondition(lambda self: len(self.stack) < 3)
    @rule()
    def begin(self):
        outermost = self.joined and not self.stack
        transaction = self.clients[0].transaction(self.connection if outermost else None)
        transaction.__enter__()
        self.stack.append((transaction, copy.deepcopy(self.model)))

    @precondition(lambda self: self.stack)
    @rule(commit=st.booleans())
    def end(self, commit):
        transaction, before = self.stack.pop()
        failure = RuntimeError()
        transaction.__exit__(*(None, None, None) if commit else (RuntimeError, failure, None))
        if not commit:
            self.model = before
        if not self.stack:
            if self.joined:
                self.connection.commit() if commit else self.connection.rollback()
            for path, data in self.others:
                self.model.put(path, data)
            self.others = []
            self.locked = False
            self.compare()

    @rule(path=PATHS)
    def look(self, path):
        path = f"a/{path}"
        found = self.model.find(path)
        assert self.mine.exists(path) == (found is not None)
        if isinstance(found, bytes):
            assert b"".join(self.mine.read_file(path)) == found
            assert [(entry.path, entry.size) for entry in self.mine.listdir(path)] == [(path, len(found))]
        elif found is not None:
            expected = [(f"{path}/{name}", isinstance(found[name], dict)) for name in sorted(found)]
            entries = self.mine.listdir(path)
            assert [(entry.path, entry.type == FileEntryType.DIRECTORY) for entry in entries] == expected

    @precondition(lambda self: self.stack and self.model.find("a") is not None)
    @rule()
    def compare_inside(self):
        expected = sorted((f"a/{path}", data is None) for path, data in self.model.everything(self.model.find("a")))
        found = self.mine.listdir("a", recursive=True)
        assert sorted((entry.path, entry.type == FileEntryType.DIRECTORY) for entry in found) == expected

    @precondition(lambda self: not self.stack)
    @rule()
    def compare(self):
        for volume in (self.mine, self.theirs):
            found = volume.listdir("/", recursive=True)
            expected = sorted((path, -1 if data is None else len(data)) for path, data in self.model.everything())
            kinds = [(entry.path, -1 if entry.type == FileEntryType.DIRECTORY else entry.size) for entry in found]
            assert sorted(kinds) == expected
        for path, data in self.model.everything():
            if data is not None:
                assert b"".join(self.theirs.read_file(path)) == data
        assert_whole(self.database, self.mine)

    def teardown(self):
        if not hasattr(self, "stack"):
            return
        try:
            while self.stack:
                self.end(commit=len(self.stack) % 2 == 0)
            self.compare()
        finally:
            self.connection.close()
            for client in self.clients:
                client.close()


@pytest.mark.parametrize("joined", [False, True], ids=["own", "joined"])
@pytest.mark.parametrize("changes_max", [100_000, 1], ids=["at commit", "early"])
def test_a_volume_is_a_tree(database, monkeypatch, joined, changes_max):
    """
    With early writing every few changes: what is written under the lock has to be undone by savepoints, too.
    """
    monkeypatch.setattr("pgstore.fs.commit.change_set.CHANGES_MAX", changes_max)
    early = joined or changes_max == 1
    machine = type("Machine", (VolumeMachine,), {"database": database, "joined": joined, "early": early})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples(3), stateful_step_count=40, deadline=None, database=None)
    )
