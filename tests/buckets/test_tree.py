"""Paths over the keys of a bucket."""

from __future__ import annotations

import errno

import pytest

from pgstore import errors
from pgstore.buckets.known import Entry
from pgstore.buckets.memory import MemoryBucket
from pgstore.buckets.tree import Tree


@pytest.fixture
def bucket():
    return MemoryBucket()


def tree_of(bucket, prefix="", read_only=False, ttl=0.0, **options):
    options.setdefault("tell", pytest.fail)
    return Tree(bucket, prefix, read_only, ttl, **options)


def paths(tree, path="", **options):
    return [entry.path + "/" * entry.is_directory for entry in tree.entries(path, **options)]


def put(tree, path, data=b"", **options):
    writer = tree.create(path, **options)
    writer.write(data)
    return writer.close()


def test_a_directory_is_what_keys_begin_with(bucket):
    tree = tree_of(bucket)
    put(tree, "a/b/c.txt", b"abc")

    assert paths(tree) == ["a/"]
    assert paths(tree, "a") == ["a/b/"]
    assert paths(tree, "a/b") == ["a/b/c.txt"]
    assert paths(tree, recursive=True) == ["a/", "a/b/", "a/b/c.txt"]
    assert tree.stat("a/b") == Entry("a/b", True)
    assert tree.need("a/b/c.txt")[:3] == ("a/b/c.txt", False, 3)
    assert tree.stat("a/b/c") is None


def test_a_directory_hides_a_file_of_its_name(bucket):
    """
    However many keys come between the file's and the directory's.
    """
    bucket.put("a", b"file")
    for number in range(2500):
        bucket.put(f"a-{number:04}", b"")
    bucket.put("a/x", b"")
    tree = tree_of(bucket)

    flat, deep = paths(tree), paths(tree, recursive=True)

    assert len(flat) == 2501
    assert "a" not in flat
    assert "a/" in flat
    assert len(deep) == 2502
    assert "a" not in deep
    assert deep[-2:] == ["a/", "a/x"]
    assert tree.need("a").is_directory
    assert tree.open("a").read_at(0, 9) == b"file"


def test_a_key_that_ends_in_a_slash_marks_a_directory(bucket):
    bucket.put("empty/", b"")
    bucket.put("full/", b"")
    bucket.put("full/x", b"")
    tree = tree_of(bucket)

    assert paths(tree) == ["empty/", "full/"]
    assert paths(tree, "empty") == []
    assert paths(tree, recursive=True) == ["empty/", "full/", "full/x"]
    tree.remove_directory("empty")
    assert bucket.head("empty/") is None
    with pytest.raises(errors.DirectoryNotEmpty):
        tree.remove_directory("full")


def test_keys_that_are_no_paths_are_left_out_and_counted(bucket):
    for key in ("//a", "a//b", "a/../c", "./d", "e\0", "a/" + "n" * 256, "a/" + "n" * 255, "fine"):
        bucket.put(key, b"")
    told: list[str] = []
    tree = tree_of(bucket, tell=told.append)

    assert paths(tree) == ["a/", "fine"]
    assert paths(tree) == ["a/", "fine"]
    assert told == [f"3 keys that are no paths are left out of the listing of {tree.shown}, as './'"]
    assert paths(tree, "a") == ["a/" + "n" * 255]
    assert paths(tree, recursive=True) == ["a/", "a/" + "n" * 255, "fine"]
    assert len(told) == 3
    assert told[-1].startswith("6 keys")


def test_a_prefix_isolates(bucket):
    bucket.put("mine/a", b"1")
    bucket.put("mine2/b", b"2")
    bucket.put("mine", b"3")
    tree = tree_of(bucket, "mine")

    assert paths(tree, recursive=True) == ["a"]
    assert tree.stat("2/b") is None
    put(tree, "c")
    tree.remove_all("")
    assert [info.key for page in bucket.list() for info in page.objects] == ["mine", "mine2/b"]


def test_read_only_refuses_before_any_request():
    tree = tree_of(None, read_only=True)

    class Untouched:
        shown = "memory://x"

    tree.bucket = Untouched()
    for change in (
        lambda: tree.create("a"),
        lambda: tree.make_directory("a"),
        lambda: tree.remove_directory("a"),
        lambda: tree.remove("a"),
        lambda: tree.remove_all(""),
        lambda: tree.rename("a", "b"),
        lambda: tree.copy("a", "b"),
    ):
        with pytest.raises(PermissionError, match="read-only") as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_a_directory_that_was_made_lives_here_until_something_is_put_into_it(bucket):
    tree = tree_of(bucket)

    tree.make_directory("a")
    tree.make_directory("a/b")

    assert paths(tree, recursive=True) == ["a/", "a/b/"]
    assert paths(tree) == ["a/"]
    assert paths(tree_of(bucket)) == []
    with pytest.raises(errors.DirectoryNotEmpty):
        tree.remove_directory("a")
    put(tree, "a/b/c")
    assert paths(tree_of(bucket), recursive=True) == ["a/", "a/b/", "a/b/c"]
    assert paths(tree, recursive=True) == ["a/", "a/b/", "a/b/c"]


def test_what_is_in_a_directory_can_be_removed_and_then_the_directory(bucket):
    """
    As rm -r and shutil.rmtree do: with the last object its directory is gone, for all but this tree.
    """
    tree = tree_of(bucket)
    put(tree, "a/b/c")

    tree.remove("a/b/c")
    assert tree.need("a/b").is_directory
    assert paths(tree_of(bucket)) == []
    tree.remove_directory("a/b")
    tree.remove_directory("a")

    assert paths(tree) == []


def test_without_keeping_directories_one_goes_with_its_last_object(bucket):
    tree = tree_of(bucket, keep_directories=False)
    put(tree, "a/b/c")

    tree.remove("a/b/c")

    assert tree.stat("a") is None


def test_making_a_directory_needs_a_place_and_a_parent(bucket):
    tree = tree_of(bucket)
    put(tree, "file")
    put(tree, "directory/x")

    for path, error in (
        ("file", FileExistsError),
        ("directory", FileExistsError),
        ("", FileExistsError),
        ("no/x", FileNotFoundError),
        ("file/x", NotADirectoryError),
        ("\udcff", OSError),
        ("x" * 1024, OSError),
    ):
        with pytest.raises(error):
            tree.make_directory(path)


def test_a_file_is_there_when_its_writer_is_closed(bucket):
    tree = tree_of(bucket)

    writer = tree.create("a")
    writer.write(b"12")
    assert tree.stat("a") is None
    entry = writer.close()

    assert entry == tree.stat("a")
    assert entry.size_bytes == 2


def test_an_exclusive_file_is_not_put_over_another(bucket):
    tree = tree_of(bucket)
    writer = tree.create("a", exclusive=True)
    put(tree, "a", b"other")

    with pytest.raises(FileExistsError):
        writer.close()
    with pytest.raises(FileExistsError):
        tree.create("a", exclusive=True)

    assert tree.open("a").read_at(0, 10) == b"other"


def test_no_file_is_made_where_a_directory_is(bucket):
    tree = tree_of(bucket)
    put(tree, "a/b")
    tree.make_directory("local")

    for path in ("a", "local", ""):
        for exclusive in (False, True):
            with pytest.raises(IsADirectoryError):
                tree.create(path, exclusive=exclusive)


def test_a_path_that_cannot_be_a_key_says_so(bucket):
    tree = tree_of(bucket, "p")

    for path, number in (("\udcff", errno.EILSEQ), ("/".join("ü" * 100 for _ in range(6)), errno.ENAMETOOLONG)):
        with pytest.raises(OSError) as caught:
            tree.create(path)
        assert caught.value.errno == number
        assert tree.stat(path) is None
        with pytest.raises(FileNotFoundError):
            list(tree.entries(path))


def test_opening_finds_files_only(bucket):
    tree = tree_of(bucket)
    put(tree, "a/b")
    bucket.put("m/", b"")

    for path, error in (
        ("a", IsADirectoryError),
        ("m", IsADirectoryError),
        ("x", FileNotFoundError),
        ("", IsADirectoryError),
    ):
        with pytest.raises(error):
            tree.open(path)


def test_a_listing_says_what_is_none(bucket):
    tree = tree_of(bucket)
    put(tree, "a")

    with pytest.raises(FileNotFoundError):
        list(tree.entries("x"))
    with pytest.raises(NotADirectoryError):
        list(tree.entries("a"))
    assert list(tree_of(MemoryBucket()).entries("")) == []


def test_renaming_copies_and_removes(bucket):
    tree = tree_of(bucket)
    put(tree, "a", b"1")
    put(tree, "b", b"2")
    put(tree, "d/x")

    assert tree.rename("a", "b").path == "b"
    assert paths(tree) == ["b", "d/"]
    assert tree.open("b").read_at(0, 9) == b"1"
    tree.rename("b", "b")
    assert tree.open("b").read_at(0, 9) == b"1"
    with pytest.raises(IsADirectoryError):
        tree.rename("b", "d")
    with pytest.raises(FileExistsError):
        tree.rename("b", "d/x", exclusive=True)
    with pytest.raises(FileNotFoundError):
        tree.rename("x", "y")
    with pytest.raises(OSError) as caught:
        tree.rename("d", "e")
    assert caught.value.errno == errno.EXDEV


def test_what_was_seen_is_answered_again_for_a_while(bucket, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("pgstore.core.clock.monotonic", lambda: now[0])
    tree = tree_of(bucket, ttl=10)
    bucket.put("a", b"1")
    assert paths(tree) == ["a"]
    assert tree.stat("b") is None

    bucket.put("b", b"22")  # by others

    assert paths(tree) == ["a"]
    assert tree.stat("b") is None
    now[0] += 10
    assert tree.need("b").size_bytes == 2
    assert paths(tree) == ["a", "b"]


def test_what_is_changed_here_is_seen_at_once(bucket):
    tree = tree_of(bucket, ttl=1000)
    assert paths(tree) == []
    assert tree.stat("a/b") is None
    assert tree.stat("a") is None

    put(tree, "a/b", b"1")
    assert paths(tree) == ["a/"]
    assert paths(tree, "a") == ["a/b"]
    assert tree.need("a").is_directory
    put(tree, "a/b", b"22")
    assert tree.need("a/b").size_bytes == 2
    assert [entry.size_bytes for entry in tree.entries("a")] == [2]
    tree.rename("a/b", "c")
    assert sorted(paths(tree)) == ["a/", "c"]
    assert paths(tree, "a") == []
    tree.remove("c")
    assert tree.stat("c") is None
    assert paths(tree) == ["a/"]


def test_an_answer_that_was_under_way_during_a_change_is_not_kept(bucket):
    """
    It may have been given before the change.
    """
    tree = tree_of(bucket, ttl=1000)
    bucket.put("a", b"1")
    listing = tree._ask_entries("", False)

    with tree._known.asking("") as question:
        entries = list(listing)
        tree.remove("a")
        tree._known.keep_listing(question, "", entries)
        tree._known.keep(question, "a", entries[0])

    assert paths(tree) == []
    assert tree.stat("a") is None


def test_what_is_known_is_bounded(bucket):
    from pgstore.buckets.known import Known

    known = Known(1000, entries_max=10)
    with known.asking("") as question:
        for directory in range(10):
            known.keep_listing(question, f"d{directory}", [Entry(f"d{directory}/{name}", False) for name in range(3)])
            known.keep(question, f"p{directory}", None)

    assert sum(known.listing(f"d{directory}") is not None for directory in range(10)) == 3
    assert known.listing("d9") is not None


def test_of_a_directory_that_is_too_large_to_be_known_the_rest_is_listed_as_it_is_asked_for():
    pages = []

    class Paged(MemoryBucket):
        def list(self, *args, **options):
            for page in super().list(*args, **options):
                pages.append(page)
                yield page

    bucket = Paged()
    for number in range(3_500):
        bucket.put(f"{number:04}", b"")
    tree = tree_of(bucket, ttl=1000)
    tree._known.entries_max = 1_000

    listing = tree.entries("")
    first = next(listing).path

    assert len(pages) == 2
    assert [first, *(entry.path for entry in listing)] == [f"{number:04}" for number in range(3_500)]
    assert tree._known.listing("") is None


def test_credentials_that_may_not_list_can_read(bucket):
    class NoListing(MemoryBucket):
        def list(self, *args, **options):
            raise errors.AccessDenied("no")
            yield

    bucket = NoListing()
    bucket.put("a", b"1")
    tree = tree_of(bucket)

    assert tree.need("a").size_bytes == 1
    assert tree.open("a").read_at(0, 5) == b"1"
    with pytest.raises(PermissionError):
        tree.stat("b")
