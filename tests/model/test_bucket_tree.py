"""A tree over a bucket against the dict of its keys."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgstore import errors
from pgstore.buckets.memory import MemoryBucket
from pgstore.buckets.reading import Reader
from pgstore.buckets.tree import Tree
from pgstore.buckets.writing import Writer
from tests.fixtures.depth import examples

PREFIX = "p/"
# Few names, of which some are the beginning of others, on both sides of the slash in the order of characters.
NAMES = st.sampled_from(["a", "a-", "a!b", "a0", "b", "ab"])
ODD_NAMES = st.one_of(NAMES, st.sampled_from(["", ".", "..", "x\0", "n" * 256]))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
KEYS = st.builds(
    lambda names, before, after: before + "/".join(names) + after,
    st.lists(ODD_NAMES, min_size=1, max_size=4),
    st.sampled_from([PREFIX, PREFIX, PREFIX, "", "p"]),
    st.sampled_from(["", "", "/"]),
).filter(bool)


class SmallPages(MemoryBucket):
    """Gives two keys at a time."""

    def list(self, prefix="", *, delimiter="", after="", page_keys=1000):
        return super().list(prefix, delimiter=delimiter, after=after, page_keys=min(page_keys, 2))


def is_name(name):
    return name not in ("", ".", "..") and "\0" not in name and len(name) <= 255


class Model:
    """What a tree shows, from the keys below its prefix and the directories that it alone knows."""

    def __init__(self, keys, local=()):
        self.keys = {key[len(PREFIX) :] for key in keys if key.startswith(PREFIX)}
        self.local = set(local)

    def kind(self, path):
        if not path or path in self.local or any(key.startswith(f"{path}/") for key in self.keys):
            return "directory"
        return "file" if path in self.keys else None

    def all(self):
        """Every path that can be shown."""
        found = set(self.local)
        for key in self.keys:
            names = key.removesuffix("/").split("/")
            for count in range(1, len(names) + 1):
                if not is_name(names[count - 1]):
                    break
                found.add("/".join(names[:count]))
        return found

    def entries(self, directory):
        return {path for path in self.all() if path.rpartition("/")[0] == directory}

    def left_out(self):
        return sum(not all(map(is_name, key.removesuffix("/").split("/"))) for key in self.keys if key)


@settings(deadline=None)
@given(st.lists(KEYS, max_size=12))
def test_a_tree_shows_what_its_keys_say(keys):
    bucket = SmallPages()
    for key in keys:
        bucket.put(key, b"1")
    told: list[str] = []
    model = Model(keys)
    tree = Tree(bucket, PREFIX, tell=told.append)

    everything = list(tree.entries("", recursive=True))

    paths = [entry.path for entry in everything]
    assert set(paths) == model.all()
    assert len(paths) == len(set(paths))
    assert paths == sorted(paths, key=lambda path: f"{path}/")
    assert {entry.path: "directory" if entry.is_directory else "file" for entry in everything} == {
        path: model.kind(path) for path in model.all()
    }
    assert [message.partition(" ")[0] for message in told] == ([str(model.left_out())] if model.left_out() else [])
    for entry in [*everything, None]:
        directory = "" if entry is None else entry.path
        if entry is None or entry.is_directory:
            listed = [each.path for each in tree.entries(directory)]
            assert set(listed) == model.entries(directory)
            assert len(listed) == len(set(listed))
        if entry is not None:
            found = tree.stat(entry.path)
            assert found is not None
            assert found.is_directory == entry.is_directory


class TreeMachine(RuleBasedStateMachine):
    """Changes through one tree that remembers what it saw, and by others, which it must see as soon as it asks."""

    ttl = 0.0

    def __init__(self):
        super().__init__()
        self.bucket = SmallPages()
        self.tree = Tree(self.bucket, PREFIX, False, self.ttl)
        self.keys: dict[str, bytes] = {}
        self.local: set[str] = set()

    @property
    def model(self):
        return Model(self.keys, self.local)

    def _keep(self, path):
        """The directories on the way to *path* stay in the tree."""
        while path := path.rpartition("/")[0]:
            self.local.add(path)

    def _put(self, path, data):
        self.keys[PREFIX + path] = data
        while path := path.rpartition("/")[0]:
            self.local.discard(path)

    @rule(path=PATHS, data=st.binary(max_size=3), exclusive=st.booleans())
    def create(self, path, data, exclusive):
        kind = self.model.kind(path)
        if kind == "directory" or (exclusive and kind == "file"):
            with pytest.raises(IsADirectoryError if kind == "directory" else FileExistsError):
                self.tree.create(path, exclusive=exclusive)
            return
        writer = self.tree.create(path, exclusive=exclusive)
        writer.write(data)
        assert writer.close() == self.tree.stat(path)
        self._put(path, data)

    @rule(path=PATHS)
    def make_directory(self, path):
        parent = self.model.kind(path.rpartition("/")[0])
        if self.model.kind(path):
            expected: type[Exception] | None = FileExistsError
        else:
            expected = {"directory": None, "file": NotADirectoryError, None: FileNotFoundError}[parent]
        if expected is not None:
            with pytest.raises(expected):
                self.tree.make_directory(path)
            return
        self.tree.make_directory(path)
        self.local.add(path)
        self._keep(path)

    @rule(path=PATHS)
    def remove_directory(self, path):
        kind = self.model.kind(path)
        below = [key for key in self.keys if key.startswith(f"{PREFIX}{path}/")]
        if kind != "directory":
            with pytest.raises(NotADirectoryError if kind else FileNotFoundError):
                self.tree.remove_directory(path)
        elif below not in ([], [f"{PREFIX}{path}/"]) or any(each.startswith(f"{path}/") for each in self.local):
            with pytest.raises(errors.DirectoryNotEmpty):
                self.tree.remove_directory(path)
        else:
            self.tree.remove_directory(path)
            self.keys.pop(f"{PREFIX}{path}/", None)
            self.local.discard(path)
            self._keep(path)

    @rule(path=PATHS)
    def remove(self, path):
        kind = self.model.kind(path)
        if kind != "file":
            with pytest.raises(IsADirectoryError if kind else FileNotFoundError):
                self.tree.remove(path)
            return
        self.tree.remove(path)
        del self.keys[PREFIX + path]
        self._keep(path)

    @rule(path=PATHS)
    def remove_all(self, path):
        if self.model.kind(path) is None:
            with pytest.raises(FileNotFoundError):
                self.tree.remove_all(path)
            return
        is_file = self.model.kind(path) == "file"
        self.tree.remove_all(path)
        gone = PREFIX + path
        self.keys = {
            key: data for key, data in self.keys.items() if not (key == gone if is_file else key.startswith(f"{gone}/"))
        }
        self.local = {each for each in self.local if each != path and not each.startswith(f"{path}/")}
        self._keep(path)

    @rule(source=PATHS, goal=PATHS, exclusive=st.booleans())
    def rename(self, source, goal, exclusive):
        source_kind, goal_kind = self.model.kind(source), self.model.kind(goal)
        if source_kind != "file":
            with pytest.raises(OSError, match=".") as caught:
                self.tree.rename(source, goal, exclusive=exclusive)
            assert caught.value.errno == (errno.EXDEV if source_kind else errno.ENOENT)
        elif goal_kind == "directory" or (exclusive and goal_kind == "file"):
            with pytest.raises(IsADirectoryError if goal_kind == "directory" else FileExistsError):
                self.tree.rename(source, goal, exclusive=exclusive)
        else:
            self.tree.rename(source, goal, exclusive=exclusive)
            if source != goal:
                data = self.keys[PREFIX + source]
                self._put(goal, data)
                del self.keys[PREFIX + source]
                self._keep(source)

    @precondition(lambda self: not self.ttl)
    @rule(key=KEYS, data=st.binary(max_size=3))
    def others_put(self, key, data):
        self.bucket.put(key, data)
        self.keys[key] = data

    @precondition(lambda self: not self.ttl)
    @rule(number=st.integers(0, 20))
    def others_delete(self, number):
        if self.keys:
            key = sorted(self.keys)[number % len(self.keys)]
            self.bucket.delete([key])
            del self.keys[key]

    @invariant()
    def the_bucket_has_these_keys(self):
        found = {info.key: info for page in self.bucket.list() for info in page.objects}
        assert {key: b"".join(self.bucket.stream(key, 0, info.tag)) for key, info in found.items()} == self.keys

    @invariant()
    def the_tree_shows_them(self):
        model = self.model
        shown = {entry.path: entry.is_directory for entry in self.tree.entries("", recursive=True)}
        assert shown == {path: model.kind(path) == "directory" for path in model.all()}
        for path in ["", *shown]:
            if not path or shown[path]:
                assert {entry.path for entry in self.tree.entries(path)} == model.entries(path)
            found = self.tree.stat(path)
            assert found is not None
            assert found.is_directory == (not path or shown[path])


class RememberingTreeMachine(TreeMachine):
    """One that answers from memory for as long as it runs: its own changes it must see all the same."""

    ttl = 10_000.0


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=examples(40), stateful_step_count=20, deadline=None)
TestRememberingTree = RememberingTreeMachine.TestCase
TestRememberingTree.settings = TestTree.settings


@settings(deadline=None)
@given(
    size=st.integers(0, 5000),
    reads=st.lists(st.tuples(st.integers(0, 5100), st.integers(1, 2000), st.booleans()), max_size=12),
)
def test_a_reader_gives_the_bytes_that_are_there(size, reads):
    """
    In order or not, at the end or beyond it.
    """
    data = random.Random(size).randbytes(size)
    bucket = MemoryBucket()
    reader = Reader(bucket, bucket.put("k", data), "k")
    at = 0
    for offset, length, goes_on in reads:
        at = at if goes_on else offset
        assert reader.read_at(at, length) == data[at : at + length]
        at += length


@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=40), max_size=20), part=st.integers(1, 30))
def test_a_writer_puts_the_bytes_that_it_was_given(pieces, part):
    bucket = MemoryBucket()
    writer = Writer(bucket, "k", "k", lambda info: info, first_part_bytes=part)
    for piece in pieces:
        writer.write(piece)
    info = writer.close()

    assert b"".join(bucket.stream("k", 0, info.tag)) == b"".join(pieces)
