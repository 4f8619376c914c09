"""A mounted bucket, through the kernel: what programs see, and what they are refused. The bucket is in memory, elsewhere."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fixtures.bucket_mount import BucketMount
from tests.mount.conftest import reachable_directory
from tests.mount.programs import wait_until

Mounting = Callable[..., BucketMount]


@pytest.fixture
def mount_bucket(fuse) -> Iterator[Mounting]:
    """A function that mounts a bucket; all is ended at the end."""
    with contextlib.ExitStack() as stack:

        def mount(*options: str) -> BucketMount:
            mounted = BucketMount(stack.enter_context(reachable_directory()), *options)
            stack.callback(mounted.end)
            return mounted

        yield mount


@pytest.fixture(scope="module")
def shared_bucket(fuse) -> Iterator[BucketMount]:
    with reachable_directory() as directory:
        mounted = BucketMount(directory)
        yield mounted
        mounted.end()


@pytest.fixture
def bucket(shared_bucket) -> BucketMount:
    """A bucket that can be written to, and is empty. Each answer of the mount is the bucket's own."""
    shared_bucket.call("clear")
    return shared_bucket


@contextlib.contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as refusal:
        yield
    assert errno.errorcode[refusal.value.errno or 0] == errno.errorcode[number]


# ------------------------------------------------------------------------------------------------------------- writing


def test_a_new_object_is_there_when_it_is_closed_and_not_before(bucket):
    path = bucket.directory / "a.txt"

    with path.open("w") as file:
        file.write("abc")
        file.flush()
        assert bucket.call("text", "a.txt") is None
        assert path.stat().st_size == 3  # programs of this mount see how much there is
        assert os.listdir(bucket.directory) == ["a.txt"]

    assert bucket.call("text", "a.txt") == "abc"
    assert path.read_text() == "abc"


def test_an_object_is_replaced_when_what_is_written_is_closed(bucket):
    bucket.call("put", "a", "old")

    with (bucket.directory / "a").open("w") as file:
        file.write("new and longer")
        file.flush()
        assert bucket.call("text", "a") == "old"

    assert bucket.call("text", "a") == "new and longer"
    assert (bucket.directory / "a").read_text() == "new and longer"


def test_an_empty_object_is_made_when_it_is_closed(bucket):
    with (bucket.directory / "empty").open("w"):
        assert bucket.call("keys") == []

    assert bucket.call("keys") == ["empty"]


def test_what_is_put_in_several_parts_arrives_whole(bucket):
    data = os.urandom(1 << 20) * 20

    (bucket.directory / "large").write_bytes(data)

    assert (bucket.directory / "large").read_bytes() == data
    assert "begin_upload" in bucket.call("asked")


def test_a_close_says_what_the_bucket_has_refused(bucket):
    bucket.call("put", "a", "old")
    bucket.call("refuse", "put", "AccessDenied")

    with refused(errno.EACCES), (bucket.directory / "a").open("w") as file:
        file.write("new")
    bucket.call("refuse", "put", None)

    assert (bucket.directory / "a").read_text() == "old"
    assert bucket.call("writing") == 0


def test_only_one_of_two_makes_a_file_by_o_excl(bucket):
    with refused(errno.EEXIST), (bucket.directory / "lock").open("x") as ours:
        ours.write("ours")
        ours.flush()
        bucket.call("put", "lock", "theirs")  # of another machine

    assert bucket.call("text", "lock") == "theirs"
    with refused(errno.EEXIST):
        (bucket.directory / "lock").open("x")


def test_writing_to_an_object_at_its_end_or_in_its_midst_is_refused(bucket):
    bucket.call("put", "a", "old")
    path = bucket.directory / "a"

    with refused(errno.EPERM):
        path.open("a")
    with refused(errno.EPERM):
        path.open("r+")
    with refused(errno.EPERM):
        os.truncate(path, 1)
    with refused(errno.EINVAL), path.open("wb", buffering=0) as file:
        file.write(b"abc")
        file.seek(1)
        file.write(b"x")

    assert bucket.call("text", "a") == "old"
    assert path.read_text() == "old"


def test_a_new_object_can_be_appended_to_until_it_is_closed(bucket):
    with (bucket.directory / "log").open("a") as log:
        for number in range(3):
            log.write(f"{number}\n")
            log.flush()

    assert bucket.call("text", "log") == "0\n1\n2\n"


def test_an_object_is_made_empty_by_truncation(bucket):
    bucket.call("put", "a", "old")

    os.truncate(bucket.directory / "a", 0)

    assert bucket.call("text", "a") == ""
    with (bucket.directory / "a").open("a") as file:  # of nothing nothing can be lost
        file.write("new")
    assert bucket.call("text", "a") == "new"


def test_writing_begins_anew_after_a_truncation(bucket):
    with (bucket.directory / "a").open("wb", buffering=0) as file:
        file.write(b"first")
        file.truncate(0)
        file.seek(0)
        file.write(b"second")

    assert bucket.call("text", "a") == "second"


def test_what_is_being_written_can_be_neither_read_nor_written_by_others(bucket):
    path = bucket.directory / "a"

    with path.open("w") as file:
        file.write("abc")
        file.flush()
        with refused(errno.EBUSY):
            path.open("r")
        with refused(errno.EBUSY):
            path.open("w")
        with refused(errno.EBUSY):
            path.rename(bucket.directory / "b")

    assert path.read_text() == "abc"


def test_what_is_removed_while_it_is_written_is_never_put(bucket):
    with (bucket.directory / "a").open("w") as file:
        file.write("abc")
        (bucket.directory / "a").unlink()
        assert os.listdir(bucket.directory) == []

    assert bucket.call("keys") == []


def test_fsync_puts_the_object(bucket):
    with (bucket.directory / "a").open("wb", buffering=0) as file:
        file.write(b"abc")
        os.fsync(file.fileno())

        assert bucket.call("text", "a") == "abc"
        with refused(errno.EPERM):
            file.write(b"more")


# --------------------------------------------------------------------------------------------- whose close is the last


def shell(bucket: BucketMount, script: str) -> None:
    subprocess.run(["sh", "-c", script], cwd=bucket.directory, check=True, timeout=20)


def test_shells_redirect_to_objects(bucket):
    shell(bucket, "echo one > a; (echo two; sh -c 'echo three') > b; { echo four; cat b; } > c 2>&1; : > d")

    assert [bucket.call("text", key) for key in "abcd"] == ["one\n", "two\nthree\n", "four\ntwo\nthree\n", ""]


def test_a_child_process_writes_what_its_parent_has_opened(bucket):
    with (bucket.directory / "out").open("w") as file:
        subprocess.run(["echo", "of a child"], stdout=file, check=True)
        file.write("of the parent")

    assert bucket.call("text", "out") == "of a child\nof the parent"


def test_a_child_process_goes_on_when_its_parent_has_closed(bucket):
    with (bucket.directory / "out").open("w") as file:
        child = subprocess.Popen(["sh", "-c", "read wait; echo later"], stdin=subprocess.PIPE, stdout=file)
    assert bucket.call("keys") == []
    child.communicate(b"\n")

    wait_until(lambda: bucket.call("keys") == ["out"], "the child has put it")
    assert bucket.call("text", "out") == "later\n"


def test_a_close_puts_what_the_program_wrote_though_a_child_has_a_copy(bucket):
    """
    As the processes of a pool that was forked meanwhile do, which know nothing of it.
    """
    with (bucket.directory / "out").open("w") as file:
        file.write("all")
        file.flush()
        child = subprocess.Popen(["sleep", "60"], stdout=file)
    try:
        assert bucket.call("text", "out") == "all"
    finally:
        child.kill()
        child.wait()


def test_a_child_that_has_begun_to_write_goes_on_when_its_parent_has_closed(bucket):
    with (bucket.directory / "out").open("w") as file:
        script = "echo early; read wait; echo later"
        child = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=file)
        wait_until(lambda: (bucket.directory / "out").stat().st_size, "the child writes")
    assert bucket.call("keys") == []
    child.communicate(b"\n")

    wait_until(lambda: bucket.call("keys") == ["out"], "the child has put it")
    assert bucket.call("text", "out") == "early\nlater\n"


def test_what_a_killed_program_has_written_is_never_put(bucket):
    bucket.call("put", "a", "old")
    script = (
        "import sys, time; f = open('a', 'w'); f.write('half'); f.flush(); print('ready', flush=True); time.sleep(60)"
    )
    program = subprocess.Popen([sys.executable, "-c", script], cwd=bucket.directory, stdout=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.readline()

    program.kill()
    program.wait()

    wait_until(lambda: bucket.call("writing") == 0, "it is closed")
    assert bucket.call("text", "a") == "old"
    program.stdout.close()


def test_a_program_that_ends_without_closing_has_put_what_it_wrote(bucket):
    script = "import os; fd = os.open('a', os.O_CREAT | os.O_WRONLY); os.write(fd, b'abc'); os._exit(3)"
    subprocess.run([sys.executable, "-c", script], cwd=bucket.directory, check=False)

    wait_until(lambda: bucket.call("writing") == 0, "it is closed")
    assert bucket.call("text", "a") == "abc"


# ------------------------------------------------------------------------------------------------------------- reading


def test_whoever_reads_an_object_that_is_replaced_gets_none_of_the_new_bytes(mount_bucket):
    bucket = mount_bucket("--ttl", "30")
    size = 9 << 20
    bucket.call("put_pattern", "a", "old.", size)
    path = bucket.directory / "a"

    with path.open("rb", buffering=0) as reader:
        assert reader.read(4096) == b"old." * 1024
        bucket.call("put_pattern", "a", "new!", size)
        with refused(errno.ESTALE):
            os.pread(reader.fileno(), 4096, size - 4096)
        with path.open(
            "rb", buffering=0
        ) as other:  # which the kernel is to have no old pages of, and the first no new ones
            assert other.read(4096) == b"new!" * 1024
            assert os.pread(other.fileno(), 4096, size - 4096) == b"new!" * 1024
        assert os.pread(reader.fileno(), 4096, 0) == b"old." * 1024
        with refused(errno.ESTALE):
            os.pread(reader.fileno(), 4096, size - 4096)


def test_whoever_reads_an_object_that_is_replaced_here_gets_none_of_the_new_bytes(bucket):
    size = 9 << 20
    bucket.call("put_pattern", "a", "old.", size)
    path = bucket.directory / "a"

    with path.open("rb", buffering=0) as reader:
        reader.read(4096)
        with path.open("wb") as writer:
            writer.write(b"new!" * (size // 4))
            assert os.pread(reader.fileno(), 4096, 4096) == b"old." * 1024
        assert os.pread(reader.fileno(), 4096, 0) == b"old." * 1024
        with refused(errno.ESTALE):
            os.pread(reader.fileno(), 4096, size - 4096)
        assert path.read_bytes() == b"new!" * (size // 4)


def test_an_object_that_was_replaced_is_opened_as_it_is_now(mount_bucket):
    bucket = mount_bucket("--ttl", "30")
    bucket.call("put", "a", "old")
    assert (bucket.directory / "a").read_text() == "old"
    bucket.call("put", "a", "newer")

    time.sleep(1.1)  # for which the bucket is not asked again

    assert (bucket.directory / "a").read_text() == "newer"


def test_an_object_can_be_mapped(bucket):
    bucket.call("put_pattern", "a", "abcd", 3 << 20)

    with (bucket.directory / "a").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[2 << 20 : (2 << 20) + 8] == b"abcdabcd"
        assert len(mapped) == 3 << 20


def test_a_sequential_reader_makes_few_requests(bucket):
    bucket.call("put_pattern", "a", "0123456789", 6_000_000)
    bucket.call("asked")

    with (bucket.directory / "a").open("rb") as file:
        while file.read(65536):
            pass

    assert bucket.call("asked").count("read") <= 2


# --------------------------------------------------------------------------------------------------------------- names


def test_directories_are_what_keys_begin_with(bucket):
    for key in ("a/b/c", "a/d", "e", "marked/", "a-1", "a.txt"):
        bucket.call("put", key, "x")

    found = {str(path.relative_to(bucket.directory)) for path in bucket.directory.rglob("*")}

    assert found == {"a", "a/b", "a/b/c", "a/d", "e", "marked", "a-1", "a.txt"}
    assert (bucket.directory / "a").is_dir()
    assert (bucket.directory / "marked").is_dir()


def test_a_directory_lives_here_until_something_is_put_into_it(bucket):
    (bucket.directory / "new" / "inner").mkdir(parents=True)

    assert bucket.call("keys") == []
    assert os.listdir(bucket.directory / "new") == ["inner"]
    (bucket.directory / "new" / "inner" / "file").write_text("x")
    assert bucket.call("keys") == ["new/inner/file"]
    shutil.rmtree(bucket.directory / "new")
    assert bucket.call("keys") == []
    assert os.listdir(bucket.directory) == []


def test_a_file_is_renamed_by_a_copy(bucket):
    bucket.call("put", "a", "abc")
    bucket.call("put", "b", "old")

    (bucket.directory / "a").rename(bucket.directory / "b")

    assert bucket.call("keys") == ["b"]
    assert (bucket.directory / "b").read_text() == "abc"
    assert not (bucket.directory / "a").exists()


def test_a_file_that_is_written_aside_takes_the_place_of_another(bucket):
    bucket.call("put", "config", "old")
    (bucket.directory / "config.tmp").write_text("new")

    os.replace(bucket.directory / "config.tmp", bucket.directory / "config")

    assert bucket.call("keys") == ["config"]
    assert (bucket.directory / "config").read_text() == "new"


def test_a_directory_is_not_renamed_but_mv_moves_it(bucket):
    bucket.call("put", "a/b", "x")

    with refused(errno.EXDEV):
        (bucket.directory / "a").rename(bucket.directory / "c")
    shell(bucket, "mv a c")

    assert bucket.call("keys") == ["c/b"]


def test_what_a_bucket_cannot_have_is_refused(bucket):
    bucket.call("put", "a", "x")
    path = bucket.directory / "a"

    with refused(errno.EPERM):
        os.symlink("a", bucket.directory / "link")
    with refused(errno.EPERM):
        os.link(path, bucket.directory / "link")
    with refused(errno.EPERM):
        os.mkfifo(bucket.directory / "fifo")
    with refused(errno.ENOTSUP):
        os.setxattr(path, "user.a", b"1")
    with refused(errno.EILSEQ):
        (bucket.directory / os.fsdecode(b"\xff")).open("w")
    with refused(errno.ENAMETOOLONG):
        (bucket.directory / ("n" * 256)).open("w")
    with refused(errno.ENOTEMPTY):
        bucket.call("put", "d/e", "x")
        (bucket.directory / "d").rmdir()


def test_modes_times_and_owners_are_accepted_and_forgotten(bucket):
    bucket.call("put", "a", "x")
    path = bucket.directory / "a"
    before = path.stat()

    path.chmod(0o600)
    os.utime(path, (1, 1))
    os.chown(path, 12, 34)
    subprocess.run(["touch", path], check=True)

    after = path.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)
    assert bucket.call("text", "a") == "x"


def test_nothing_is_asked_of_a_bucket_that_is_read_only(mount_bucket):
    bucket = mount_bucket("--read-only", "--ttl", "30")
    bucket.call("put", "a", "x")
    assert (bucket.directory / "a").read_text() == "x"
    bucket.call("asked")

    for attempt in (
        lambda: (bucket.directory / "a").open("w"),
        lambda: (bucket.directory / "new").open("w"),
        (bucket.directory / "a").unlink,
        (bucket.directory / "d").mkdir,
        lambda: (bucket.directory / "a").rename(bucket.directory / "b"),
    ):
        with refused(errno.EROFS):
            attempt()

    assert not {"put", "delete", "begin_upload"} & {*bucket.call("asked")}
    assert bucket.call("keys") == ["a"]


def test_a_prefix_is_all_that_a_mount_can_reach(mount_bucket):
    bucket = mount_bucket("--prefix", "mine")
    bucket.call("put", "mine/a", "x")
    bucket.call("put", "mineral", "theirs")
    bucket.call("put", "other/b", "theirs")

    assert os.listdir(bucket.directory) == ["a"]
    (bucket.directory / "c").write_text("y")
    assert bucket.call("text", "mine/c") == "y"


def test_a_large_directory_is_listed_in_pages(bucket):
    bucket.call("put_numbered", "many/%05d", 3_500)

    assert sorted(os.listdir(bucket.directory / "many")) == [f"{number:05d}" for number in range(3_500)]
    found = subprocess.run(["find", bucket.directory, "-type", "f"], capture_output=True, check=True, text=True)
    assert len(found.stdout.splitlines()) == 3_500


def test_a_listing_is_believed_for_a_while(mount_bucket):
    bucket = mount_bucket("--ttl", "30")
    bucket.call("put_numbered", "%d", 50)
    os.listdir(bucket.directory)
    bucket.call("asked")

    for _ in range(3):
        assert len([path for path in bucket.directory.iterdir() if path.stat().st_size]) == 50

    assert bucket.call("asked") == []


@pytest.mark.parametrize("ttl", ["0", "30"])
def test_numbers_that_were_forgotten_are_looked_up_anew(mount_bucket, ttl):
    bucket = mount_bucket("--files-max", "5", "--ttl", ttl)
    bucket.call("put_numbered", "d/%02d", 40)
    files = sorted((bucket.directory / "d").iterdir())

    with files[0].open("rb", buffering=0) as kept, (bucket.directory / "new").open("w") as writing:
        assert [int(path.read_text()) for path in files] == list(range(40))
        assert {path.stat().st_size for path in files} == {1, 2}
        assert [int(path.read_text()) for path in reversed(files)] == list(range(39, -1, -1))
        assert kept.read() == b"0"
        writing.write("x")

    assert bucket.call("text", "new") == "x"


def test_room_is_never_scarce(bucket):
    assert shutil.disk_usage(bucket.directory).free > 1 << 50


# ------------------------------------------------------------------------------------------------------------ programs


def test_files_are_copied_with_all_that_copying_takes(bucket, tmp_path):
    (tmp_path / "a").write_text("abc")

    shutil.copy(tmp_path / "a", bucket.directory / "copied")
    shutil.copy2(bucket.directory / "copied", bucket.directory / "again")
    shell(bucket, "cp -p again once-more && cmp again once-more")

    assert bucket.call("keys") == ["again", "copied", "once-more"]


def test_trees_are_copied_in_many_threads(bucket, tmp_path):
    for number in range(24):
        (tmp_path / f"{number}" / "inner").mkdir(parents=True)
        for name in ("a", "inner/b"):
            (tmp_path / f"{number}" / name).write_text(f"{name} of {number}")

    with ThreadPoolExecutor(24) as pool:
        copies = pool.map(lambda n: shutil.copytree(tmp_path / f"{n}", bucket.directory / f"{n}"), range(24))
        assert len([*copies]) == 24

    assert bucket.call("text", "7/inner/b") == "inner/b of 7"
    assert len(bucket.call("keys")) == 48
    shell(bucket, f"diff -r {tmp_path} .")


def test_programs_copy_move_and_find(bucket, tmp_path):
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "d" / "f").write_text("f")
    (tmp_path / "tree" / "g").write_text("g")

    shell(bucket, f"cp -r {tmp_path}/tree . && cp -r tree copy && mv copy/g copy/h && rm -r tree && touch copy/new")

    found = subprocess.run(
        ["find", ".", "-type", "f"], cwd=bucket.directory, capture_output=True, text=True, check=True
    )
    assert sorted(found.stdout.split()) == ["./copy/d/f", "./copy/h", "./copy/new"]
    assert bucket.call("keys") == ["copy/d/f", "copy/h", "copy/new"]


def test_reads_of_many_threads_do_not_wait_for_each_other(bucket):
    bucket.call("put_numbered", "%d", 48)
    os.listdir(bucket.directory)
    bucket.call("delay", 0.1)
    began = time.monotonic()

    with ThreadPoolExecutor(24) as pool:
        texts = pool.map(lambda number: (bucket.directory / str(number)).read_text(), range(48))
        assert [*texts] == [str(number) for number in range(48)]

    assert time.monotonic() - began < 48 * 0.1 * 2 / 4  # one after the other it would be all of that, twice for each


# -------------------------------------------------------------------------------------------------------------- crashes


def test_a_killed_daemon_leaves_no_half_object_and_nobody_waiting(mount_bucket):
    bucket = mount_bucket()
    script = (
        "import sys; f = open('a', 'w'); f.write('half'); f.flush(); print('ready', flush=True); sys.stdin.readline()"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", script + "; f.write('rest'); f.flush()"],
        cwd=bucket.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    program.stdout.readline()

    bucket.kill()
    _, told = program.communicate(b"\n", timeout=10)

    assert program.returncode != 0
    assert b"Transport endpoint is not connected" in told
    with refused(errno.ENOTCONN):
        os.listdir(bucket.directory)


def test_what_is_open_when_a_mount_is_ended_by_force_is_not_put(mount_bucket):
    bucket = mount_bucket()
    with (bucket.directory / "closed").open("w") as file:
        file.write("all")
    writer = os.open(bucket.directory / "a", os.O_CREAT | os.O_WRONLY)
    os.write(writer, b"half")

    subprocess.run(["umount", "-f", bucket.directory], check=False, capture_output=True)  # which ends it, in use or not
    with contextlib.suppress(OSError):
        os.close(writer)

    assert bucket.last_line() == "ended closed"
