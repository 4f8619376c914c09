"""Nodes against a tree in memory, under generated verbs: each its own commit, or held by mounts that commit and reload."""

from __future__ import annotations

import errno
import itertools
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import pgstore
from pgstore import errors
from pgstore.fs.model import DIRECTORY, FIFO, FILE, ROOT
from pgstore.fs.tree.nodes import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.fixtures.depth import examples
from tests.fixtures.nodes import HeldFiles, LiveNodeFiles, NodeFiles
from tests.fixtures.trees import assert_sound

_numbers = itertools.count(1)

NAMES = st.sampled_from([b"x", b"y", b"z"])
AT = st.integers(min_value=0, max_value=60)  # which of the directories, or files, that there are
FLAGS = st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
DATA = st.sampled_from([0, 1, 2, 70_000])  # so many bytes


class Refused(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.errno = number


@dataclass(eq=False)
class Inode:
    """A file, or a directory with its names."""

    kind: str
    ino: int
    mode: int
    data: bytes = b""
    names: dict[bytes, Inode] = field(default_factory=dict)
    parent: Inode | None = None
    links: int = 1


class Model:
    """What POSIX says that a tree does."""

    def __init__(self, root_ino=ROOT):
        self.root = Inode(DIRECTORY, root_ino, 0o755)
        self.root.parent = self.root

    def directories(self, here=None):
        here = here or self.root
        return [
            here,
            *(each for child in here.names.values() if child.kind == DIRECTORY for each in self.directories(child)),
        ]

    def others(self):
        found = {
            child.ino: child
            for directory in self.directories()
            for child in directory.names.values()
            if child.kind != DIRECTORY
        }
        return [found[ino] for ino in sorted(found)]

    def make(self, directory, name, inode):
        if name in directory.names:
            raise Refused(errno.EEXIST)
        directory.names[name] = inode
        inode.parent = directory

    def link(self, inode, directory, name):
        if name in directory.names:
            raise Refused(errno.EEXIST)
        directory.names[name] = inode
        inode.links += 1

    def remove(self, directory, name):
        found = self._existing(directory, name)
        if found.kind == DIRECTORY:
            raise Refused(errno.EISDIR)
        self._drop(directory, name)

    def remove_directory(self, directory, name):
        found = self._existing(directory, name)
        if found.kind != DIRECTORY:
            raise Refused(errno.ENOTDIR)
        if found.names:
            raise Refused(errno.ENOTEMPTY)
        self._drop(directory, name)

    def _drop(self, directory, name):
        directory.names.pop(name).links -= 1

    def _existing(self, directory, name):
        if name not in directory.names:
            raise Refused(errno.ENOENT)
        return directory.names[name]

    def rename(self, directory, name, to_directory, to_name, flags):
        source, target = self._existing(directory, name), to_directory.names.get(to_name)
        if source.kind == DIRECTORY and self._is_below(to_directory, source):
            raise Refused(errno.EINVAL)
        if flags == RENAME_EXCHANGE:
            if target is None:
                raise Refused(errno.ENOENT)
            if target.kind == DIRECTORY and self._is_below(directory, target):
                raise Refused(errno.EINVAL)
            directory.names[name], to_directory.names[to_name] = target, source
            target.parent, source.parent = directory, to_directory
            return
        if target is not None:
            if flags == RENAME_NOREPLACE:
                raise Refused(errno.EEXIST)
            if target is source:
                return
            if source.kind == DIRECTORY and target.kind != DIRECTORY:
                raise Refused(errno.ENOTDIR)
            if source.kind != DIRECTORY and target.kind == DIRECTORY:
                raise Refused(errno.EISDIR)
            if target.names:
                raise Refused(errno.ENOTEMPTY)
            self._drop(to_directory, to_name)
        del directory.names[name]
        to_directory.names[to_name] = source
        source.parent = to_directory

    def _is_below(self, directory, other):
        while directory is not other:
            if directory is self.root:
                return False
            directory = directory.parent
        return True


def shown(inode):
    """All that is below a directory of the model."""
    return {
        name: (child.kind, child.ino, child.mode, child.links, shown(child) if child.kind == DIRECTORY else child.data)
        for name, child in inode.names.items()
    }


def seen(files, directory):
    """The same of a file system."""
    found: dict[bytes, Any] = {}
    for name, node in files.names(directory, b"", 1_000):
        assert files.look_up(directory, name) == node
        below = seen(files, node.ino) if node.kind == DIRECTORY else files.read(node.ino) if node.kind == FILE else b""
        found[name] = (node.kind, node.ino, node.mode, node.link_count, below)
        if node.kind == DIRECTORY:
            assert files.parent(node.ino) == directory
    return found


class Verbs(RuleBasedStateMachine):
    """The verbs, each on the model and on the file system. `pick` chooses on which of several that is."""

    database: str
    model: Model
    files: Any

    def both(self, verb, expected, *args):
        number = None
        try:
            expected()
        except Refused as refused:
            number = refused.errno
        if number is None:
            return getattr(self.files, verb)(*args)
        with pytest.raises(OSError) as caught:
            getattr(self.files, verb)(*args)
        assert caught.value.errno == number
        return None

    def pick(self, number):
        pass

    def directory(self, at):
        all_of_them = self.model.directories()
        return all_of_them[at % len(all_of_them)]

    @rule(turn=AT, at=AT, name=NAMES, kind=st.sampled_from([FILE, FILE, DIRECTORY, FIFO]), mode=st.integers(0, 0o777))
    def make(self, turn, at, name, kind, mode):
        self.pick(turn)
        directory = self.directory(at)
        inode = Inode(kind, 0, mode)
        made = self.both("make", lambda: self.model.make(directory, name, inode), directory.ino, name, kind, mode)
        inode.ino = 0 if made is None else made.ino

    @precondition(lambda self: self.model.others())
    @rule(turn=AT, file=AT, at=AT, name=NAMES)
    def link(self, turn, file, at, name):
        self.pick(turn)
        if not (others := self.model.others()):
            return
        inode, directory = others[file % len(others)], self.directory(at)
        self.both("link", lambda: self.model.link(inode, directory, name), inode.ino, directory.ino, name)

    @rule(turn=AT, at=AT, name=NAMES, verb=st.sampled_from(["remove", "remove_directory"]))
    def remove(self, turn, at, name, verb):
        self.pick(turn)
        directory = self.directory(at)
        removed = self.both(verb, lambda: getattr(self.model, verb)(directory, name), directory.ino, name)
        if removed is not None:
            self.files.release(removed.ino)

    @rule(turn=AT, at=AT, name=NAMES, to=AT, to_name=NAMES, flags=FLAGS)
    def rename(self, turn, at, name, to, to_name, flags):
        self.pick(turn)
        source, target = self.directory(at), self.directory(to)
        renamed = self.both(
            "rename",
            lambda: self.model.rename(source, name, target, to_name, flags),
            *(source.ino, name, target.ino, to_name, flags),
        )
        if renamed is not None and renamed[1] is not None and flags != RENAME_EXCHANGE:
            self.files.release(renamed[1].ino)

    @rule(turn=AT, file=AT, mode=st.integers(0, 0o777))
    def chmod(self, turn, file, mode):
        self.pick(turn)
        inodes = [*self.model.directories()[1:], *self.model.others()]
        if inodes:
            inode = inodes[file % len(inodes)]
            inode.mode = self.files.set_attributes(inode.ino, mode=mode).mode

    @rule(turn=AT, file=AT, data=DATA)
    def write(self, turn, file, data):
        self.pick(turn)
        inodes = [inode for inode in self.model.others() if inode.kind == FILE]
        if inodes:
            inode = inodes[file % len(inodes)]
            inode.data = b"x" * data
            self.files.write(inode.ino, inode.data)


class Direct:
    """What a file of a NetworkFileSystem, or of a Volume, has is written and read through paths elsewhere, and not here."""

    set_attributes: Any
    node: Any

    def write(self, ino, data):
        self.set_attributes(ino, mtime_ns=len(data))

    def read(self, ino):
        return self.node(ino).mtime_ns

    def release(self, ino):
        pass


class DirectNodes(Direct, NodeFiles):
    pass


class DirectCalls(Direct, LiveNodeFiles):
    pass


class DirectMachine(Verbs):
    kind: Any
    verbs: Any

    @initialize()
    def start(self):
        self.client = pgstore.Client(self.database)
        self.store = self.kind.persist(f"nodes-{next(_numbers)}", client=self.client)
        self.files = self.verbs(self.store)
        self.model = Model()

    @rule(turn=AT, file=AT, data=DATA)
    def write(self, turn, file, data):
        pass

    def teardown(self):
        if not hasattr(self, "client"):
            return
        try:
            assert _without_data(seen(self.files, ROOT)) == _without_data(shown(self.model.root))
            assert_sound(self.database, self.store)
        finally:
            self.client.close()


def _without_data(tree):
    return {
        name: (*rest, _without_data(below) if isinstance(below, dict) else None)
        for name, (*rest, below) in tree.items()
    }


class Held(HeldFiles):
    def release(self, ino):
        self.held.changes.release(ino)


class Mounts(Verbs):
    """
    Two mounts of one Volume, each in a directory of its own; and both make the same things in a third, with names of their own.

    Each sees what it has done, whatever the other does; after a reload also what the other has committed.
    """

    @initialize()
    def start(self):
        name = f"mounts-{next(_numbers)}"
        self.clients = [pgstore.Client(self.database) for _ in range(2)]
        self.volumes = [pgstore.Volume.persist(name, client=client).hydrate() for client in self.clients]
        for each in ("0", "1", "s"):
            self.volumes[0].mkdir(each)
        self.mounts = [Held(volume) for volume in self.volumes]
        self.models = [Model(self.volumes[0].stat(str(at)).ino) for at in range(2)]
        self.shared = self.volumes[0].stat("s").ino
        self.made: list[dict[str, bool]] = [{}, {}]  # what each has made in s/: whether it is committed
        self.pick(0)

    def pick(self, number):
        self.number = number % 2
        self.model, self.files = self.models[self.number], self.mounts[self.number]

    @rule(turn=AT, folder=NAMES, name=NAMES)
    def make_shared(self, turn, folder, name):
        self.pick(turn)
        there = self.files.look_up(self.shared, folder)
        directory = self.files.directory(folder, self.shared) if there is None else there.ino
        mine = name + b"%d" % self.number
        if self.files.look_up(directory, mine) is None:
            self.files.file(mine, directory)
            self.made[self.number][f"s/{folder.decode()}/{mine.decode()}"] = False

    @rule(turn=AT)
    def commit(self, turn):
        self.pick(turn)
        self.files.commit()
        self.made[self.number] = dict.fromkeys(self.made[self.number], True)
        self.check()

    @rule(turn=AT, which=st.sets(AT))
    def commit_without(self, turn, which):
        """Some of the files are open."""
        self.pick(turn)
        others = self.model.others()
        self.files.commit(without={others[at].ino for at in which if at < len(others)})
        self.made[self.number] = dict.fromkeys(self.made[self.number], True)
        self.check()
        assert_sound(self.database, self.volumes[0])

    @rule(turn=AT)
    def commit_in_vain(self, turn):
        self.pick(turn)
        held = self.files.held

        def failing(operation):
            yield from operation
            raise errors.StatementFailed("for the test")

        part = held.changes.part()
        if not part.is_empty:
            files = self.files.system
            with pytest.raises(errors.StatementFailed):
                self.files.do(files.change(lambda tree: failing(pgstore.fs.tree.handover.write(tree, part))))
        self.check()

    @rule(turn=AT)
    def reload(self, turn):
        self.pick(turn)
        self.files.reload()
        self.check()
        for path, is_committed in self.made[1 - self.number].items():
            if is_committed:
                folder, name = path.encode().split(b"/")[1:]
                assert self.files.look_up(self.files.look_up(self.shared, folder).ino, name) is not None

    def check(self):
        assert seen(self.files, self.model.root.ino) == shown(self.model.root)
        for path in self.made[self.number]:
            folder, name = path.encode().split(b"/")[1:]
            assert self.files.look_up(self.files.look_up(self.shared, folder).ino, name) is not None

    def teardown(self):
        if not hasattr(self, "models"):
            return
        try:
            for at in range(2):
                self.commit(at)
            for at in range(2):
                self.reload(at)
                for number, model in enumerate(self.models):
                    assert seen(self.files, model.root.ino) == shown(self.models[number].root)
                assert self.files.held.changes.new == {}
            assert_sound(self.database, self.volumes[0])
            for files in self.mounts:
                files.do(files.held.end())
        finally:
            for client in self.clients:
                client.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "verbs"),
    [
        (pgstore.Volume, DirectNodes),
        (pgstore.NetworkFileSystem, DirectNodes),
        (pgstore.NetworkFileSystem, DirectCalls),
    ],
    ids=["Volume", "NetworkFileSystem", "one call"],
)
def test_verbs_do_what_posix_says(database, kind, verbs):
    machine = type("Machine", (DirectMachine,), {"database": database, "kind": kind, "verbs": verbs})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples(8), stateful_step_count=40, deadline=None)
    )


@pytest.mark.slow
def test_mounts_of_one_volume_hold_what_they_do_and_merge_it(database):
    machine = type("Machine", (Mounts,), {"database": database})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples(6), stateful_step_count=25, deadline=None)
    )
