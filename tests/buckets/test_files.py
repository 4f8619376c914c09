"""Files of buckets without a mount, as users see them, over all providers."""

from __future__ import annotations

import asyncio
import errno
import inspect
import io
import os
import random
import subprocess
import sys
import time
import zipfile

import pytest

from pgstore import CloudBucketMount, FileEntry, FileEntryType, Secret, Volume, errors
from pgstore.buckets.tree import Tree
from pgstore.cloud_bucket_mount.base import Opened, warn
from tests.fixtures.buckets import PLACES, MemoryPlace
from tests.fixtures.clients import Call

DATA = random.Random(1).randbytes(300_000)


def pytest_generate_tests(metafunc):
    """Both forms over memory, and over each provider one of them: what carries them out is the same for all."""
    if "place" in metafunc.fixturenames:
        if "call" in metafunc.fixturenames:
            cases = [("memory", "blocking"), ("memory", "aio"), ("s3", "aio"), ("gcs", "blocking"), ("azure", "aio")]
            metafunc.parametrize(("place", "call"), cases, indirect=True)
        else:
            metafunc.parametrize("place", sorted(PLACES), indirect=True)
    elif "call" in metafunc.fixturenames:
        metafunc.parametrize("call", ["blocking", "aio"], indirect=True)


@pytest.fixture
def place(request):
    return PLACES[request.param](request)


@pytest.fixture
def call(request):
    call = Call(request.param)
    yield call
    call.close()


def mount_of(place, *, read_only=False, key_prefix=None):
    """The bucket of *place*, as a user has it."""
    location = place.location
    mount = CloudBucketMount(
        location.name,
        location.endpoint_url,
        key_prefix,
        Secret.from_dict(place.values) if place.values else None,
        read_only=read_only,
        provider=location.provider,
        account_name=location.account,
        anonymous=location.anonymous,
    )
    if isinstance(place, MemoryPlace):  # which no URL leads to
        tree = Tree(place.open(), key_prefix or "", read_only, keep_directories=False, tell=warn)
        object.__setattr__(mount, "_opened", Opened(tree, os.getpid()))
    return mount


@pytest.fixture
def mount(place):
    return mount_of(place)


def put(mount, path, data=b""):
    mount.put_file(io.BytesIO(data), path)


def read(mount, path):
    return b"".join(mount.read_file(path))


def keys(place):
    return [info.key for page in place.open().list() for info in page.objects]


def tree_of(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


# ------------------------------------------------------------------------------------------------- the contract's rows


def test_read_only_refuses_every_change_before_any_request(place, call, tmp_path):
    mount = mount_of(place, read_only=True)
    local = tmp_path / "f"
    local.write_bytes(b"1")
    object.__setattr__(mount, "_opened", Opened(Tree(None, read_only=True), os.getpid()))  # type: ignore[arg-type]

    class NoBucket:
        shown = "s3://b"

    mount._tree().bucket = NoBucket()
    for operation, arguments in (
        (mount.put_file, (local, "a")),
        (mount.write_bytes, ("a", b"1")),
        (mount.put_directory, (tmp_path, "a")),
        (mount.remove_file, ("a",)),
        (mount.move, ("a", "b")),
        (mount.copy_files, (["a"], "b")),
    ):
        with pytest.raises(PermissionError, match="read-only") as caught:
            call(operation, *arguments)
        assert caught.value.errno == errno.EROFS
    for mode in ("w", "wb", "x"):
        with pytest.raises(PermissionError, match="read-only"):
            mount.open("a", mode)


def test_read_only_refuses_before_the_secret_is_looked_for(call):
    mount = CloudBucketMount.from_s3_bucket("b", secret=Secret.from_dict({"AWS_ACCESS_KEY_ID": "half"}))
    with pytest.raises(errors.AccessDenied):
        call(mount.exists, "a")

    for operation, arguments in (
        (mount.write_bytes, ("a", b"1")),
        (mount.remove_file, ("a",)),
        (mount.move, ("a", "b")),
        (mount.copy_files, ("a", "b")),
        (mount.open, ("a", "w")),
        (mount.open, ("a", "x")),
    ):
        with pytest.raises(errors.ReadOnlyFiles):
            call(operation, *arguments)


def test_a_file_appears_whole_when_it_is_closed(mount):
    put(mount, "a", b"before")

    with mount.open("a", "wb") as file:
        file.write(DATA)
        file.flush()
        assert read(mount, "a") == b"before"

    assert read(mount, "a") == DATA


def test_an_error_in_the_block_leaves_all_as_it_was(place, mount):
    """
    Nothing of it stays at the provider either, where parts would cost.
    """
    put(mount, "a", b"before")

    for path in ("a", "new"):
        with pytest.raises(RuntimeError), mount.open(path, "wb") as file:
            file.write(DATA)
            raise RuntimeError

    assert read(mount, "a") == b"before"
    assert keys(place) == ["a"]


def test_x_creates_and_never_replaces(mount):
    """
    Of two that create a file at a time one succeeds.
    """
    with mount.open("a", "x") as file:
        file.write("mine")
    with pytest.raises(FileExistsError):
        mount.open("a", "x")

    first, second = mount.open("b", "xb"), mount.open("b", "xb")
    first.write(b"first")
    second.write(b"second")
    second.close()
    with pytest.raises(FileExistsError):
        first.close()

    assert (read(mount, "a"), read(mount, "b")) == (b"mine", b"second")


@pytest.mark.parametrize("mode", ["a", "ab", "r+", "rb+", "w+", "x+", "a+"])
def test_modes_that_change_in_place_are_refused(mount, mode):
    put(mount, "a", b"1")

    with pytest.raises(io.UnsupportedOperation, match="an object of a bucket is not") as caught:
        mount.open("a", mode)

    assert caught.value.errno == errno.EOPNOTSUPP
    assert read(mount, "a") == b"1"


def test_a_file_that_is_written_has_one_position(mount):
    with mount.open("a", "wb") as file:
        file.write(b"12")
        assert not file.seekable()
        assert file.tell() == 2
        with pytest.raises(io.UnsupportedOperation):
            file.seek(0)
        with pytest.raises(io.UnsupportedOperation):
            file.truncate(0)
        assert file.truncate() == 2

    assert read(mount, "a") == b"12"


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_file_is_read_in_the_state_that_it_was_opened_in(mount, change):
    """
    Bytes of two states are never mixed.
    """
    put(mount, "a", DATA)
    file = mount.open("a", "rb", buffering=0)

    if change == "replaced":
        put(mount, "a", bytes(len(DATA)))
    else:
        mount.remove_file("a")

    for offset in (0, 200_000):
        file.seek(offset)
        with pytest.raises(errors.StaleFile) as caught:
            file.read(1000)
        assert caught.value.errno == errno.ESTALE


def test_a_file_is_renamed_by_copying(place, call, mount):
    put(mount, "a", DATA)
    put(mount, "b", b"2")

    call(mount.move, "a", "b")
    call(mount.move, "b", "d/c")

    assert keys(place) == ["d/c"]
    assert read(mount, "d/c") == DATA
    put(mount, "e")
    with pytest.raises(FileExistsError):
        call(mount.move, "e", "d/c", replace=False)
    with pytest.raises(IsADirectoryError):
        call(mount.move, "e", "d")
    with pytest.raises(FileNotFoundError):
        call(mount.move, "nothing", "f")


def test_a_directory_cannot_be_renamed(call, mount):
    """
    By EXDEV programs know that they have to copy.
    """
    put(mount, "d/a")

    with pytest.raises(OSError, match="is a directory") as caught:
        call(mount.move, "d", "e")

    assert caught.value.errno == errno.EXDEV


def test_a_prefix_isolates(place, call):
    whole, part = mount_of(place), mount_of(place, key_prefix="mine/")
    put(whole, "mine2/a", b"other")
    put(whole, "top", b"other")

    put(part, "a/b", b"mine")

    assert [entry.path for entry in call(part.listdir, "/", recursive=True)] == ["a", "a/b"]
    assert read(whole, "mine/a/b") == b"mine"
    assert not call(part.exists, "top")
    for path in ("../top", "../mine2/a"):
        with pytest.raises(ValueError, match=r"\.\."):
            call(part.stat, path)
    call(part.remove_file, "a", recursive=True)
    assert keys(place) == ["mine2/a", "top"]


def test_marker_keys_are_directories(place, call, mount):
    """
    As the consoles of providers make them.
    """
    place.open().put("d/", b"")

    (entry,) = call(mount.listdir, "/")

    assert (entry.path, entry.type, entry.size) == ("d", FileEntryType.DIRECTORY, 0)
    assert call(mount.listdir, "d") == []
    assert call(mount.stat, "d/").type == FileEntryType.DIRECTORY


def test_keys_that_are_no_paths_are_counted_in_one_warning(place, call, mount):
    bucket = place.open()
    for key in ("a//b", "a/b", "/lead", "a/" + "n" * 300):
        bucket.put(key, b"")

    with pytest.warns(errors.KeysLeftOut) as told:
        found = call(mount.listdir, "/", recursive=True)

    assert [entry.path for entry in found] == ["a", "a/b"]
    assert [str(warning.message)[:37] for warning in told] == ["3 keys that are no paths are left out"]


def test_where_a_key_and_a_directory_have_one_name_the_directory_is_shown(place, call, mount):
    bucket = place.open()
    for key in ("a", "a-b", "a/x"):
        bucket.put(key, key.encode())

    assert [(entry.path, entry.type.name) for entry in call(mount.listdir, "/")] == [
        ("a", "DIRECTORY"),
        ("a-b", "FILE"),
    ]
    assert call(mount.stat, "a").type == FileEntryType.DIRECTORY
    assert read(mount, "a") == b"a"


# ------------------------------------------------------------------------------------------------------------ listings


def test_listings_are_those_of_a_volume(call, mount):
    for path in ("b.txt", "a/x", "a/y/z"):
        put(mount, path, b"123")

    found = call(mount.listdir, "/")
    assert [(entry.path, entry.type, entry.size) for entry in found] == [
        ("a", FileEntryType.DIRECTORY, 0),
        ("b.txt", FileEntryType.FILE, 3),
    ]
    assert abs(found[1].mtime - mount.stat("b.txt").mtime) <= 1
    assert [entry.path for entry in call(mount.listdir, "a")] == ["a/x", "a/y"]
    assert [entry.path for entry in call(mount.listdir, "/", recursive=True)] == ["a", "a/x", "a/y", "a/y/z", "b.txt"]
    assert {entry.path for entry in call.iterate(mount.iterdir("a"))} == {"a/x", "a/y"}
    assert [entry.path for entry in call(mount.listdir, "b.txt")] == ["b.txt"]
    assert call.iterate(mount.walk("/")) == [("", ["a"], ["b.txt"]), ("a", ["y"], ["x"]), ("a/y", [], ["z"])]
    assert call.iterate(mount.walk("a/y")) == [("a/y", [], ["z"])]


def test_what_is_not_there_is_said(call, mount, tmp_path):
    put(mount, "f")

    for operation, arguments in (
        (mount.stat, ("x",)),
        (mount.listdir, ("x",)),
        (mount.remove_file, ("x",)),
        (mount.get_file, ("x", tmp_path / "f")),
        (mount.get_directory, ("x", tmp_path / "d")),
        (mount.copy_files, (["x"], "y")),
        (mount.put_file, (tmp_path / "none", "y")),
        (mount.put_directory, (tmp_path / "none", "y")),
    ):
        with pytest.raises(FileNotFoundError):
            call(operation, *arguments)
    with pytest.raises(FileNotFoundError):
        call.iterate(mount.read_file("x"))
    with pytest.raises(FileNotFoundError):
        call.iterate(mount.walk("x"))
    with pytest.raises(NotADirectoryError):
        call.iterate(mount.walk("f"))
    with pytest.raises(NotADirectoryError):
        call(mount.stat, "f/")
    with pytest.raises(FileNotFoundError):
        mount.open("x")
    with pytest.raises(errors.InvalidError, match="wildcard"):
        call(mount.listdir, "a/*")


GLOBS = [
    *("*", "*.py", "a/*", "*/*", "**/*.py", "**", "a/**", "**/a.py", "a/**/*.py", "*/a.py", "[ab]*", "?.py", "a/b.py"),
    *(
        "a/c/c.py",
        "nope",
        "nope/*",
        ".*",
        "A*",
        "**/**",
        "*/c.py",
        "a",
        "**/c/d*",
        "**/.*",
        "a*",
        "a/c*/*",
        "*/c/*.txt",
    ),
]


def test_glob_finds_what_pathlib_does(place, call, mount, tmp_path):
    paths = ("a/b.py", "a/c/c.py", "a/c/d.txt", "a/a/a.py", "top.py", "b.py", ".hid", "a/.hid/x.py", "a.txt")
    mount.put_directory(tree_of(tmp_path, dict.fromkeys(paths, b"")), "/")

    for pattern in GLOBS if isinstance(place, MemoryPlace) else GLOBS[:7]:
        found = [entry.path for entry in call.iterate(mount.glob(pattern))]

        assert len(found) == len(set(found)), pattern
        like = tmp_path.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
        assert set(found) == {str(path.relative_to(tmp_path)) for path in like}, pattern


def test_glob_asks_for_what_begins_as_the_pattern_does(mount, monkeypatch):
    put(mount, "d/2024-a")
    put(mount, "d/2025-b")
    asked: list[str] = []
    bucket = mount._tree().bucket
    ask = bucket.list

    def noted(prefix="", **options):
        asked.append(prefix)
        return ask(prefix, **options)

    monkeypatch.setattr(bucket, "list", noted)

    assert [entry.path for entry in mount.glob("d/2024-*")] == ["d/2024-a"]
    assert [entry.path for entry in mount.glob("d/2025**/*")] == []
    assert asked[0] == "d/2024-"


@pytest.mark.parametrize(
    "path", ["..", "a/../b", "a\0b", "x" * 256, "a/" + "x" * 256, "\ud800", 7, None, b"bytes"], ids=range(9)
)
def test_impossible_paths_are_refused_everywhere(call, path, tmp_path):
    mount = mount_of(MemoryPlace())
    for operation, arguments in (
        (mount.stat, (path,)),
        (mount.exists, (path,)),
        (mount.listdir, (path,)),
        (mount.remove_file, (path,)),
        (mount.move, ("f", path)),
        (mount.move, (path, "g")),
        (mount.copy_files, (["f"], path)),
        (mount.copy_files, ([path], "g")),
        (mount.put_file, (io.BytesIO(), path)),
        (mount.put_directory, (tmp_path, path)),
        (mount.get_file, (path, io.BytesIO())),
        (mount.get_directory, (path, tmp_path / "x")),
        (mount.read_file_into_fileobj, (path, io.BytesIO())),
    ):
        with pytest.raises(errors.InvalidError):
            call(operation, *arguments)
    for iterate in (mount.walk, mount.glob, mount.iterdir, mount.read_file):
        with pytest.raises(errors.InvalidError):
            iterate(path)


# ----------------------------------------------------------------------------------------------------------- transfers


def test_a_file_goes_up_and_comes_down(call, mount, tmp_path):
    local = tmp_path / "local"
    local.write_bytes(DATA)

    call(mount.put_file, local, "d/a")
    call(mount.put_file, io.BytesIO(b"x" + DATA), "d/b")

    assert read(mount, "d/a") == DATA
    call(mount.get_file, "d/a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == DATA
    into = io.BytesIO()
    told: list[dict[str, int]] = []
    assert call(mount.read_file_into_fileobj, "d/b", into, lambda **told_: told.append(told_)) == len(DATA) + 1
    assert into.getvalue() == b"x" + DATA
    assert told[0] == {"size": len(DATA) + 1}
    assert sum(each.get("advance", 0) for each in told) == len(DATA) + 1


def test_contents_are_written_and_read_as_a_whole(call, mount):
    assert call(mount.write_text, "t", "äö\n") == 3
    assert call(mount.read_bytes, "t") == "äö\n".encode()
    assert call(mount.write_bytes, "b", bytearray(b"one\r\ntwo")) == 8
    assert call(mount.read_text, "b") == "one\ntwo"
    with pytest.raises(errors.InvalidError, match="write_text takes str"):
        call(mount.write_bytes, "b", "text")
    with pytest.raises(errors.InvalidError, match="write_bytes takes bytes"):
        call(mount.write_text, "b", b"bytes")
    with pytest.raises(FileNotFoundError):
        call(mount.read_bytes, "none")


def test_a_directory_goes_up_and_comes_down(call, mount, tmp_path):
    files = {f"{n % 3}/f{n}": bytes([n]) * n for n in range(40)} | {"large": DATA * 5}

    call(mount.put_directory, tree_of(tmp_path / "in", files), "up")
    call(mount.get_directory, "up", tmp_path / "out")

    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        *files
    }
    assert all((tmp_path / "out" / path).read_bytes() == data for path, data in files.items())
    call(mount.get_directory, "up", tmp_path / "some", pattern="0/*")
    assert len([path for path in (tmp_path / "some").rglob("*") if path.is_file()]) == 14


def test_a_pattern_chooses_what_goes_up(place, mount, tmp_path):
    mount.put_directory(tree_of(tmp_path, {"a.csv": b"", "b.txt": b"", "d/c.csv": b""}), "/", pattern="*.csv")

    assert keys(place) == ["a.csv", "d/c.csv"]


def test_put_file_can_be_asked_to_replace_nothing(call, mount):
    call(mount.put_file, io.BytesIO(b"1"), "a", if_version=0)

    with pytest.raises(FileExistsError):
        call(mount.put_file, io.BytesIO(b"2"), "a", if_version=0)
    with pytest.raises(errors.InvalidError, match="if_version is 3"):
        call(mount.put_file, io.BytesIO(b"2"), "a", if_version=3)

    assert read(mount, "a") == b"1"


def test_no_file_is_put_where_a_directory_is(call, mount, tmp_path):
    put(mount, "d/a")

    with pytest.raises(IsADirectoryError):
        call(mount.put_file, io.BytesIO(b"1"), "d")
    with pytest.raises(IsADirectoryError):
        call(mount.put_directory, tree_of(tmp_path, {"d": b"1"}), "/")
    with pytest.raises(errors.InvalidError, match="names a directory"):
        call(mount.put_file, io.BytesIO(b"1"), "d/")


def test_copies_are_made_by_the_provider(place, call, mount):
    for path in ("a", "d/x", "d/e/y"):
        put(mount, path, path.encode())

    call(mount.copy_files, "a", "b")
    call(mount.copy_files, ["a", "b"], "d")
    call(mount.copy_files, ["d"], "new", recursive=True)

    assert keys(place) == ["a", "b", "d/a", "d/b", "d/e/y", "d/x", "new/a", "new/b", "new/e/y", "new/x"]
    assert read(mount, "new/e/y") == b"d/e/y"
    for sources, target, options, error in (
        (["d"], "q", {}, IsADirectoryError),
        (["d"], "d/f", {"recursive": True}, errors.InvalidError),
        (["a"], "a", {}, errors.InvalidError),
        (["a", "b"], "q", {}, NotADirectoryError),
        ([], "q", {}, errors.InvalidError),
    ):
        with pytest.raises(error):
            call(mount.copy_files, sources, target, **options)


def test_removing_takes_what_is_named(place, call, mount):
    for path in ("a", "d/x", "d/e/y", "d2"):
        put(mount, path)
    place.open().put("d//no-path", b"")

    call(mount.remove_file, "a")
    with pytest.raises(IsADirectoryError):
        call(mount.remove_file, "d")
    call(mount.remove_file, "d", recursive=True)
    with pytest.raises(errors.InvalidError, match="root"):
        call(mount.remove_file, "/", recursive=True)

    assert keys(place) == ["d2"]


def test_permissions_and_times_are_those_of_any_file_of_this_process(call, mount, tmp_path):
    """
    Objects have none: what was given is forgotten.
    """
    local = tmp_path / "f"
    local.write_bytes(b"12")
    os.utime(local, (1, 1))

    call(mount.put_file, local, "d/a", mode=0o700)

    found, directory = call(mount.stat, "d/a"), call(mount.stat, "d")
    assert (found.size, found.mode, found.uid, found.gid) == (2, 0o644, os.getuid(), os.getgid())
    assert abs(found.mtime - time.time()) < 60
    assert (directory.size, directory.mode, directory.type) == (0, 0o755, FileEntryType.DIRECTORY)


def test_of_many_files_those_that_were_done_before_an_error_are_done(place, call, mount, tmp_path):
    put(mount, "up/b/x")  # so that "b" cannot be a file

    with pytest.raises(IsADirectoryError):
        call(mount.put_directory, tree_of(tmp_path, {"a": b"1", "b": b"2"}), "up")

    assert set(keys(place)) - {"up/a"} == {"up/b/x"}


def test_a_process_that_is_killed_leaves_no_half_object(s3_place):
    """
    Its parts stay at the provider, and nobody sees them.
    """
    mount = mount_of(s3_place)
    program = f"""
import os, sys
from pgstore import CloudBucketMount, Secret
mount = CloudBucketMount.from_s3_bucket({mount.bucket_name!r}, endpoint_url={mount.bucket_endpoint_url!r}, read_only=False,
                                        secret=Secret.from_dict({s3_place.values!r}))
mount.write_bytes("done", b"1")
file = mount.open("half", "wb")
file.write(bytes(17 << 20))
while len(file._raw._open_file._writer._tasks) > 1 and not file._raw._open_file._writer._tasks[0][0].is_done:
    pass
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (-9, "")
    assert keys(s3_place) == ["done"]


def test_ctrl_c_in_an_upload_leaves_nothing(mount, place):
    class Interrupted(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= len(DATA):
                raise KeyboardInterrupt
            return super().read(size)

    with pytest.raises(KeyboardInterrupt):
        mount.put_file(Interrupted(DATA), "a")

    assert keys(place) == []


# -------------------------------------------------------------------------------------------------------------- secrets


def test_a_secret_by_name_can_be_a_file_and_needs_no_database(s3_place, call, tmp_path, monkeypatch):
    (tmp_path / "cloud.env").write_text("".join(f"{name}={value}\n" for name, value in s3_place.values.items()))
    monkeypatch.setenv("PGSTORE_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("PGSTORE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    mount = CloudBucketMount.from_s3_bucket(
        s3_place.location.name,
        endpoint_url=s3_place.location.endpoint_url,
        secret=Secret.from_name("cloud"),
        read_only=False,
    )

    call(mount.write_bytes, "a", b"1")

    assert call(mount.read_bytes, "a") == b"1"


def test_a_secret_is_read_again_when_its_values_are_refused(call, monkeypatch):
    """
    It may have been changed since.
    """
    place, values = MemoryPlace(), iter([{"KEY": "old"}, {"KEY": "new"}])
    bucket, asked = place.open(), []

    class Refusing(type(bucket)):  # type: ignore[misc]
        def list(self, *args, **options):
            raise errors.AccessDenied("the credentials have expired")

        def head(self, key):
            raise errors.AccessDenied("the credentials have expired")

    def open_bucket(location, values):
        asked.append(dict(values))
        return Refusing() if values["KEY"] == "old" else bucket

    monkeypatch.setattr("pgstore.cloud_bucket_mount.base.open_bucket", open_bucket)
    monkeypatch.setattr(CloudBucketMount, "_secret_values", lambda self: next(values))
    bucket.put("a", b"1")
    mount = CloudBucketMount("b")

    with pytest.raises(PermissionError, match="expired"):
        call(mount.stat, "a")

    assert call(mount.stat, "a").size == 1
    assert call(mount.read_bytes, "a") == b"1"
    assert asked == [{"KEY": "old"}, {"KEY": "new"}]


# --------------------------------------------------------------------------------------------------------------- open


def test_files_are_those_of_python(mount):
    with mount.open("a.txt", "w") as text:
        text.write("one\ntwo\näöü\n")
    with mount.open("a.txt") as text:
        assert list(text) == ["one\n", "two\n", "äöü\n"]
    with mount.open("a.txt", "rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == "öü\n".encode()[-4:]
        file.seek(4)
        assert file.readline() == b"two\n"
    with mount.open("b.txt", "wb") as file, pytest.raises(io.UnsupportedOperation):
        file.read()
    with pytest.raises(IsADirectoryError):
        mount.open("d/", "rb")


def test_an_archive_is_written_and_read(mount):
    """
    Its writer goes back where it can; here it cannot, and does without.
    """
    with mount.open("a.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("one", DATA)
        archive.writestr("two", b"2")

    with mount.open("a.zip", "rb") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("two") == b"2"
        assert archive.read("one") == DATA
        assert archive.testzip() is None


def test_files_are_awaited(mount):
    async def work():
        async with mount.open.aio("a", "w") as file:
            await file.write("one\ntwo\n")
            with pytest.raises(io.UnsupportedOperation):
                await file.seek(0)
        async with mount.open.aio("a") as file:
            assert [line async for line in file] == ["one\n", "two\n"]
        with pytest.raises(RuntimeError):
            async with mount.open.aio("b", "wb") as file:
                await file.write(DATA)
                raise RuntimeError
        file = await mount.open.aio("a", "rb")
        assert await file.read() == b"one\ntwo\n"
        await file.close()
        assert not await mount.exists.aio("b")

    asyncio.run(work())


def test_a_file_that_nobody_closed_is_not_kept(place, mount):
    file = mount.open("a", "wb")
    file.write(DATA)

    with pytest.warns(ResourceWarning, match="nothing of what was written to it is kept"):
        del file

    assert keys(place) == []


# --------------------------------------------------------------------------------------------------------------- form

METHODS = [
    *("read_bytes", "read_text", "write_bytes", "write_text"),
    *("listdir", "iterdir", "exists", "stat", "walk", "glob", "open", "read_file", "read_file_into_fileobj"),
    *("put_file", "put_directory", "get_file", "get_directory", "remove_file", "move", "copy_files"),
]


@pytest.mark.parametrize("name", METHODS)
def test_one_function_works_on_a_bucket_and_on_a_volume(name):
    ours, theirs = getattr(CloudBucketMount("b"), name), getattr(Volume.from_name("v"), name)

    assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
    assert hasattr(ours, "aio")


def test_entries_are_those_of_a_volume(mount):
    put(mount, "a", b"12")

    (entry,) = mount.listdir("/")

    assert entry == FileEntry("a", FileEntryType.FILE, mount.stat("a").mtime, 2)
