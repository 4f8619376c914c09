"""Volume and NetworkFileSystem against a tree in memory: every edit, in transactions with savepoints, beside a second client."""

from __future__ import annotations

import copy
import io
import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import pgstore
from pgstore import errors
from pgstore.types import FileEntryType
from tests.fixtures.depth import examples

_numbers = itertools.count(1)

NAMES = st.sampled_from(["x", "y", "z"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.one_of(PATHS, PATHS.map(lambda path: f"/a/{path}"), NAMES.map(lambda name: f"../{name}"))
PLACES = st.sampled_from([0, 1, 65_536, 70_000, 290_000])
DATA = st.one_of(st.binary(max_size=3), st.sampled_from([b"l" * 70_000, bytes(300_000) + b"end"]))

REFUSALS = (
    errors.FileMissing,
    errors.FileExists,
    errors.IsADirectory,
    errors.NotADirectory,
    errors.DirectoryNotEmpty,
    errors.LinkLoop,
    errors.InvalidError,
)


@dataclass(eq=False)
class File:
    data: bytes
    mode: int = 0o644
    xattrs: dict[str, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Folder:
    entries: dict[str, Any] = field(default_factory=dict)
    mode: int = 0o755


class Model:
    """A tree with the rules of POSIX. Every operation raises the error that pgstore's should."""

    def __init__(self):
        self.root = Folder()

    def walk(self, path, *, follow=True):
        """The folders on the way, and the names that lead on from the last: none, if the last of the way is what was looked for."""
        way: list[Any] = [self.root]
        names: list[str] = []
        todo = [name for name in path.split("/") if name]
        links = 0
        while todo:
            name = todo.pop(0)
            if not isinstance(way[-1], Folder):
                raise errors.NotADirectory
            if name == "..":
                if len(way) > 1:
                    way.pop()
                    names.pop()
                continue
            found = way[-1].entries.get(name)
            if found is None:
                return way, names, [name, *todo]
            if isinstance(found, Link) and (todo or follow):
                links += 1
                if links > 40:
                    raise errors.LinkLoop
                if found.target.startswith("/"):
                    way, names = [self.root], []
                todo = [part for part in found.target.split("/") if part] + todo
                continue
            way.append(found)
            names.append(name)
        return way, names, []

    def need(self, path, *, follow=True):
        way, names, rest = self.walk(path, follow=follow)
        if rest:
            raise errors.FileMissing
        return way, names

    def place(self, path, *, follow=True):
        """Where something is to be written: what is there, and a function that puts something there, making folders on the way."""
        way, names, rest = self.walk(path, follow=follow)
        if ".." in rest:
            raise errors.FileMissing
        if rest:

            def put(new):
                here = way[-1]
                for name in rest[:-1]:
                    here = here.entries.setdefault(name, Folder())
                here.entries[rest[-1]] = new

            return None, put, way
        return way[-1], lambda new: way[-2].entries.__setitem__(names[-1], new), way[:-1]

    def put(self, path, data):
        there, put, _ = self.place(path)
        if isinstance(there, Folder):
            raise errors.IsADirectory
        put(File(data))

    def append(self, path, data, in_place):
        there, put, _ = self.place(path)
        if isinstance(there, Folder):
            raise errors.IsADirectory
        if there is None:
            put(File(data))
        elif in_place:
            there.data += data
        else:
            put(File(there.data + data, there.mode, dict(there.xattrs)))

    def write(self, path, offset, data):
        (*_, found), _ = self.need(path)
        if isinstance(found, Folder):
            raise errors.IsADirectory
        if data:
            found.data = found.data.ljust(offset, b"\0")
            found.data = found.data[:offset] + data + found.data[offset + len(data) :]

    def truncate(self, path, size):
        (*_, found), _ = self.need(path)
        if isinstance(found, Folder):
            raise errors.IsADirectory
        found.data = found.data[:size].ljust(size, b"\0")

    def mkdir(self, path, exist_ok):
        there, put, _ = self.place(path)
        if there is None:
            put(Folder())
        elif not (exist_ok and isinstance(there, Folder)):
            raise errors.FileExists

    def symlink(self, target, path):
        there, put, _ = self.place(path, follow=False)
        if there is not None:
            raise errors.FileExists
        put(Link(target))

    def link(self, path, new):
        (*_, found), _ = self.need(path, follow=False)
        if isinstance(found, Folder):
            raise errors.IsADirectory
        there, put, _ = self.place(new, follow=False)
        if there is not None:
            raise errors.FileExists
        put(found)

    def remove(self, path, recursive):
        (*_, parent, found), names = self.need(path, follow=False)
        if isinstance(found, Folder) and not recursive:
            raise errors.IsADirectory
        del parent.entries[names[-1]]

    def rmdir(self, path):
        (*_, parent, found), names = self.need(path, follow=False)
        if not isinstance(found, Folder):
            raise errors.NotADirectory
        if found.entries:
            raise errors.DirectoryNotEmpty
        del parent.entries[names[-1]]

    def move(self, path, new, replace):
        (*_, parent, found), names = self.need(path, follow=False)
        there, put, above = self.place(new, follow=False)
        if there is found:
            return
        if isinstance(found, Folder) and found in above:
            raise errors.InvalidError
        if there is not None:
            if not replace:
                raise errors.FileExists
            self.check_replaceable(found, there)
        del parent.entries[names[-1]]
        put(found)

    @staticmethod
    def check_replaceable(found, there):
        if isinstance(found, Folder):
            if not isinstance(there, Folder):
                raise errors.NotADirectory
            if there.entries:
                raise errors.DirectoryNotEmpty
        elif isinstance(there, Folder):
            raise errors.IsADirectory

    def copy(self, path, new):
        (*_, found), names = self.need(path)
        there, put, above = self.place(new)
        if isinstance(there, Folder):
            there, put, above = self.place(f"{new}/{names[-1]}")
        if isinstance(found, File):
            if isinstance(there, Folder):
                raise errors.IsADirectory
            if there is found:
                raise errors.InvalidError
            put(copy.deepcopy(found))
            return
        if there is not None and not isinstance(there, Folder):
            raise errors.NotADirectory
        if found in above or there is found:
            raise errors.InvalidError
        target = there or Folder()
        self.copy_into(found, target)
        if there is None:
            put(target)

    def copy_into(self, found, target):
        for name, child in found.entries.items():
            here = target.entries.get(name)
            if isinstance(child, Folder):
                if here is not None and not isinstance(here, Folder):
                    raise errors.NotADirectory
                self.copy_into(child, target.entries.setdefault(name, Folder()))
            elif isinstance(here, Folder):
                raise errors.IsADirectory
            else:
                target.entries[name] = copy.deepcopy(child)

    def chmod(self, path, mode):
        (*_, found), _ = self.need(path)
        found.mode = mode

    def setxattr(self, path, name, value):
        (*_, found), _ = self.need(path)
        if isinstance(found, File):
            found.xattrs[name] = value

    def everything(self, here=None, prefix=""):
        for name, value in (here or self.root).entries.items():
            yield prefix + name, value
            if isinstance(value, Folder):
                yield from self.everything(value, f"{prefix}{name}/")


def described(model):
    """What can be seen of a model: kinds, bytes, modes, attributes, and which names lead to one file."""
    paths: dict[int, list[str]] = {}
    for path, node in model.everything():
        paths.setdefault(id(node), []).append(path)
    seen: dict[str, Any] = {}
    for path, node in model.everything():
        if isinstance(node, Folder):
            seen[path] = ("directory", node.mode)
        elif isinstance(node, Link):
            seen[path] = ("link", node.target, sorted(paths[id(node)]))
        else:
            seen[path] = ("file", node.data, node.mode, node.xattrs, sorted(paths[id(node)]))
    return seen


def found(store):
    """The same of a store."""
    stats = {entry.path: store.stat(entry.path, follow_symlinks=False) for entry in store.listdir("/", recursive=True)}
    paths: dict[int, list[str]] = {}
    for path, stat in stats.items():
        paths.setdefault(stat.ino, []).append(path)
    seen: dict[str, Any] = {}
    for path, stat in stats.items():
        if stat.type == FileEntryType.DIRECTORY:
            seen[path] = ("directory", stat.mode)
            continue
        assert stat.link_count == len(paths[stat.ino]), path
        if stat.type == FileEntryType.SYMLINK:
            seen[path] = ("link", store.readlink(path), sorted(paths[stat.ino]))
        else:
            data = b"".join(store.read_file(path))
            assert stat.size == len(data)
            xattrs = {name: store.getxattr(path, name) for name in store.listxattr(path)}
            seen[path] = ("file", data, stat.mode, xattrs, sorted(paths[stat.ino]))
    return seen


class StoreMachine(RuleBasedStateMachine):
    """One client works below `a/`, in transactions or not; another writes below `b/` meanwhile."""

    database: ClassVar[str]
    kind: ClassVar[Any]
    storage: ClassVar[str]
    early: ClassVar[bool]

    @initialize()
    def start(self):
        name = f"edits-{self.kind._kind}-{next(_numbers)}"
        url = f"{self.database}?options=-c%20lock_timeout%3D5s"  # a mistake here must not make the test hang
        self.clients = [pgstore.Client(url) for _ in range(2)]
        self.mine, self.theirs = (
            self.kind.from_name(name, create_if_missing=True, client=client, storage=self.storage)
            for client in self.clients
        )
        self.mine.hydrate()
        self.in_place = self.kind is pgstore.NetworkFileSystem
        for entry in self.mine.listdir("/"):
            self.mine.remove_file(entry.path, recursive=True)
        self.model = Model()
        self.model.root.entries["a"] = Folder()
        self.mine.mkdir("a")
        self.stack: list[tuple[Any, Model]] = []  # open transactions, each with the model before it
        self.versions: dict[int, Any] = {}  # of a Volume
        self.others: list[tuple[str, bytes]] = []  # what the other client put since the transaction began
        self.locked = False

    def both(self, name, real, *args):
        """Do the same to the model and to the store; the same must come out."""
        trial = copy.deepcopy(self.model)
        try:
            getattr(trial, name)(*args)
        except REFUSALS as exc:
            # Of several things that are wrong with a copy, either may be told.
            with pytest.raises(REFUSALS if name == "copy" else type(exc)):
                real()
        else:
            real()
            self.model = trial
            self.locked = self.early and bool(self.stack)

    @rule(path=PATHS, data=DATA)
    def put(self, path, data):
        self.both("put", lambda: self.mine.put_file(io.BytesIO(data), f"a/{path}"), f"a/{path}", data)

    @rule(path=PATHS, data=DATA)
    def append(self, path, data):
        self.both(
            "append", lambda: self.opened(path, "ab", lambda file: file.write(data)), f"a/{path}", data, self.in_place
        )

    @precondition(lambda self: self.in_place)
    @rule(path=PATHS, offset=PLACES, data=DATA)
    def write(self, path, offset, data):
        def write(file):
            file.seek(offset)
            file.write(data)

        self.both("write", lambda: self.opened(path, "r+b", write), f"a/{path}", offset, data)

    @precondition(lambda self: self.in_place)
    @rule(path=PATHS, size=PLACES)
    def truncate(self, path, size):
        self.both("truncate", lambda: self.opened(path, "r+b", lambda file: file.truncate(size)), f"a/{path}", size)

    def opened(self, path, mode, change):
        with self.mine.open(f"a/{path}", mode) as file:
            change(file)

    @rule(path=PATHS, exist_ok=st.booleans())
    def mkdir(self, path, exist_ok):
        self.both("mkdir", lambda: self.mine.mkdir(f"a/{path}", exist_ok=exist_ok), f"a/{path}", exist_ok)

    @rule(leading=TARGETS, path=PATHS)
    def symlink(self, leading, path):
        self.both("symlink", lambda: self.mine.symlink(leading, f"a/{path}"), leading, f"a/{path}")

    @rule(path=PATHS, new=PATHS)
    def link(self, path, new):
        self.both("link", lambda: self.mine.link(f"a/{path}", f"a/{new}"), f"a/{path}", f"a/{new}")

    @rule(path=PATHS, recursive=st.booleans())
    def remove(self, path, recursive):
        self.both("remove", lambda: self.mine.remove_file(f"a/{path}", recursive=recursive), f"a/{path}", recursive)

    @rule(path=PATHS)
    def rmdir(self, path):
        self.both("rmdir", lambda: self.mine.rmdir(f"a/{path}"), f"a/{path}")

    @rule(path=PATHS, new=PATHS, replace=st.booleans())
    def move(self, path, new, replace):
        self.both(
            "move", lambda: self.mine.move(f"a/{path}", f"a/{new}", replace=replace), f"a/{path}", f"a/{new}", replace
        )

    @precondition(lambda self: sum(1 for _ in self.model.everything()) < 30)  # a copy may double everything
    @rule(path=PATHS, new=PATHS)
    def copy(self, path, new):
        self.both(
            "copy", lambda: self.mine.copy_files(f"a/{path}", f"a/{new}", recursive=True), f"a/{path}", f"a/{new}"
        )

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o755]))
    def chmod(self, path, mode):
        self.both("chmod", lambda: self.mine.chmod(f"a/{path}", mode), f"a/{path}", mode)

    @rule(path=PATHS, value=st.binary(max_size=3))
    def setxattr(self, path, value):
        self.both("setxattr", lambda: self.mine.setxattr(f"a/{path}", "user.x", value), f"a/{path}", "user.x", value)

    @precondition(lambda self: not self.locked)
    @rule(path=PATHS, data=DATA)
    def put_by_other(self, path, data):
        if any(
            f"{other}/".startswith(f"b/{path}/") or f"b/{path}/".startswith(f"{other}/") for other, _ in self.others
        ):
            return
        try:
            copy.deepcopy(self.model).put(f"b/{path}", data)
        except REFUSALS:
            return
        self.theirs.put_file(io.BytesIO(data), f"b/{path}")
        if self.stack:
            self.others.append((f"b/{path}", data))
        else:
            self.model.put(f"b/{path}", data)

    @precondition(lambda self: len(self.stack) < 3)
    @rule()
    def begin(self):
        transaction = self.clients[0].transaction()
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
            for path, data in self.others:
                self.model.put(path, data)
            self.others = []
            self.locked = False
            self.compare()

    @precondition(lambda self: self.stack)
    @rule()
    def compare_inside(self):
        kinds = {Folder: FileEntryType.DIRECTORY, Link: FileEntryType.SYMLINK, File: FileEntryType.FILE}
        expected = {path: kinds[type(node)] for path, node in self.model.everything() if path.startswith("a/")}
        assert {entry.path: entry.type for entry in self.mine.listdir("a", recursive=True)} == expected
        for path, node in self.model.everything():
            if isinstance(node, File) and path.startswith("a/"):
                assert b"".join(self.mine.read_file(path)) == node.data
                assert self.mine.stat(path).mode == node.mode

    @precondition(lambda self: not self.stack)
    @rule()
    def compare(self):
        assert found(self.theirs) == described(self.model)
        if not self.in_place:
            (head,) = self.mine.versions(limit=1) or [None]
            if head:
                self.versions[head.version] = described(self.model)

    @precondition(lambda self: not self.in_place and not self.stack)
    @rule(data=st.data())
    def read_an_old_version(self, data):
        kept = [entry.version for entry in self.mine.versions() if entry.version in self.versions]
        if kept:
            version = data.draw(st.sampled_from(kept))
            assert found(self.theirs.at(version)) == self.versions[version]

    def teardown(self):
        if not hasattr(self, "stack"):
            return
        try:
            while self.stack:
                self.end(commit=len(self.stack) % 2 == 0)
            self.compare()
        finally:
            for client in self.clients:
                client.close()


@pytest.mark.parametrize("storage", ["rows", "large_object"])
@pytest.mark.parametrize("changes_max", [100_000, 1], ids=["at commit", "early"])
@pytest.mark.parametrize("kind", [pgstore.Volume, pgstore.NetworkFileSystem], ids=lambda kind: kind.__name__)
def test_a_file_store_is_a_posix_tree(database, monkeypatch, kind, changes_max, storage):
    """
    With early writing every few changes: what is written under locks has to be undone by savepoints, too.
    """
    monkeypatch.setattr("pgstore.fs.commit.change_set.CHANGES_MAX", changes_max)
    members = {"database": database, "kind": kind, "early": changes_max == 1, "storage": storage}
    machine = type("Machine", (StoreMachine,), members)
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples(3), stateful_step_count=50, deadline=None, database=None)
    )
