"""`CloudBucketMount.mount`, with FUSE and without, on an emulator of S3; no test but one has a database."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgstore import CloudBucketMount, Secret, default_client, errors
from pgstore.admin import mounts as admin
from pgstore.mount import mount_table, recovery
from pgstore.mount.daemon import caller
from tests.fixtures.buckets import new_name

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAFORTESTS", "AWS_SECRET_ACCESS_KEY": "a-secret-key-for-tests"}
pytestmark = pytest.mark.buckets


@pytest.fixture
def name(s3) -> str:
    """That of a new bucket."""
    made = new_name()
    s3.create_bucket(Bucket=made)
    return made


@pytest.fixture
def bucket_of(moto_server, name, monkeypatch) -> Callable[..., CloudBucketMount]:
    """A function that makes handles on the bucket, which can be written to. This process knows of no database."""
    monkeypatch.setenv("PGSTORE_URL", "postgresql://nobody@127.0.0.1:1/none")

    def make(bucket: str = name, **options: object) -> CloudBucketMount:
        given: dict[str, object] = {
            "endpoint_url": moto_server.url,
            "read_only": False,
            "secret": Secret.from_dict(KEYS),
        }
        return CloudBucketMount.from_s3_bucket(bucket, **{**given, **options})  # type: ignore[arg-type]

    return make


@pytest.fixture(params=["fuse", "sync"])
def mode(request) -> str:
    if request.param == "fuse":
        request.getfixturevalue("fuse")
    return str(request.param)


@pytest.fixture(autouse=True)
def _daemon_of_its_own() -> Iterator[None]:
    """Which has the environment of the test."""
    yield
    caller.end()


def keys(s3, name: str) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket=name).get("Contents", [])]


def body(s3, name: str, key: str) -> bytes:
    return bytes(s3.get_object(Bucket=name, Key=key)["Body"].read())


def test_programs_read_and_write_what_is_mounted(s3, name, bucket_of, place, mode):
    s3.put_object(Bucket=name, Key="in/a.csv", Body=b"1,2\n")
    s3.put_object(Bucket=name, Key="gone", Body=b"x")

    with bucket_of().mount(place, mode=mode) as path:
        assert Path(path, "in", "a.csv").read_text() == "1,2\n"
        subprocess.run(["sh", "-c", "mkdir out; wc -l < in/a.csv > out/lines; rm gone"], cwd=path, check=True)
        Path(path, "in", "a.csv").write_text("3,4\n")

    assert keys(s3, name) == ["in/a.csv", "out/lines"]
    assert body(s3, name, "in/a.csv") == b"3,4\n"
    assert os.listdir(place) == []


def test_it_is_mounted_by_asynchronous_code(s3, name, bucket_of, place, mode):
    async def use() -> None:
        async with await bucket_of().mount.aio(place, mode=mode) as path:
            await asyncio.to_thread(Path(path, "a").write_text, "x")

    asyncio.run(use())

    assert keys(s3, name) == ["a"]


def test_a_prefix_is_mounted_and_nothing_beside_it(s3, name, bucket_of, place, mode):
    s3.put_object(Bucket=name, Key="mine/a", Body=b"x")
    s3.put_object(Bucket=name, Key="theirs", Body=b"x")

    with bucket_of(key_prefix="mine").mount(place, mode=mode) as path:
        assert os.listdir(path) == ["a"]
        Path(path, "b").write_text("y")

    assert keys(s3, name) == ["mine/a", "mine/b", "theirs"]


def test_reload_shows_what_others_have_put(s3, name, bucket_of, place, mode):
    s3.put_object(Bucket=name, Key="a", Body=b"old")
    s3.put_object(Bucket=name, Key="b", Body=b"x")

    mount = bucket_of().mount(place, mode=mode, ttl=60)
    with mount:
        assert sorted(os.listdir(place)) == ["a", "b"]
        s3.put_object(Bucket=name, Key="a", Body=b"newer")
        s3.delete_object(Bucket=name, Key="b")
        s3.put_object(Bucket=name, Key="d/c", Body=b"y")
        mount.reload()

        assert sorted(os.listdir(place)) == ["a", "d"]
        assert Path(place, "a").read_text() == "newer"
        assert Path(place, "d", "c").read_text() == "y"


def test_what_is_read_only_is_refused_or_not_kept(s3, name, bucket_of, place, mode, caplog):
    s3.put_object(Bucket=name, Key="a", Body=b"old")

    with bucket_of(read_only=True).mount(place, mode=mode) as path:
        if mode == "fuse":
            with pytest.raises(OSError, match="Read-only file system"):
                Path(path, "a").write_text("new")
        else:
            Path(path, "a").chmod(0o644)
            Path(path, "a").write_text("new")

    assert body(s3, name, "a") == b"old"
    assert ("not kept" in caplog.text) == (mode == "sync")


def test_a_bucket_that_is_not_there_is_an_error_of_the_call(bucket_of, place, mode):
    with pytest.raises(errors.NotFoundError, match="no-such-bucket"):
        bucket_of("no-such-bucket").mount(place, mode=mode)

    assert os.listdir(place) == []
    assert not mount_table.mounts_at(str(place))


def test_what_was_written_is_there_after_the_end_of_the_interpreter(s3, name, bucket_of, moto_server, place, mode):
    script = f"""
        from pgstore import CloudBucketMount, Secret
        bucket = CloudBucketMount.from_s3_bucket(
            {name!r}, endpoint_url={moto_server.url!r}, read_only=False, secret=Secret.from_dict({KEYS!r})
        )
        bucket.mount({str(place)!r}, mode={mode!r})
        open({str(place / "a")!r}, "w").write("x")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)

    assert keys(s3, name) == ["a"]


# ------------------------------------------------------------------------------------------------------------ with FUSE


def test_nobody_sees_the_credentials_of_a_mount(fuse, bucket_of, place):
    with bucket_of().mount(place, mode="fuse") as path:
        daemon = f"/proc/{caller.running().pid}"
        shown = [Path(daemon, each).read_bytes() for each in ("cmdline", "environ")]
        shown += [Path("/proc/self/mountinfo").read_bytes(), repr(caller.running()).encode()]
        assert [mount.source for mount in mount_table.mounts_at(path)] == [bucket_of().location.shown]

    for secret in KEYS.values():
        assert not [each for each in shown if secret.encode() in each]


def test_a_mount_of_a_killed_daemon_can_be_made_anew(fuse, s3, name, bucket_of, place):
    mount = bucket_of().mount(place, mode="fuse")
    Path(place, "a").write_text("x")
    caller.kill()

    with pytest.raises(caller.DaemonGone):
        mount.close()
    with bucket_of().mount(place, mode="fuse") as path:
        assert os.listdir(path) == ["a"]


def test_one_process_mounts_several_buckets(fuse, s3, name, bucket_of, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()

    with bucket_of().mount(tmp_path / "one") as one, bucket_of(key_prefix="p").mount(tmp_path / "other") as other:
        Path(other, "a").write_text("x")
        assert os.listdir(Path(one, "p")) == ["a"]


# --------------------------------------------------------------------------------------------------------- without FUSE


def test_too_many_bytes_are_not_copied(s3, name, bucket_of, place):
    s3.put_object(Bucket=name, Key="p/a", Body=b"x" * 600)
    s3.put_object(Bucket=name, Key="p/b", Body=b"x" * 600)

    with pytest.raises(errors.InvalidError, match=r"1,200 bytes.*at most 1,000.*key_prefix="):
        bucket_of().mount(place, mode="sync", size_max=1_000)

    assert os.listdir(place) == []


def test_only_what_has_changed_is_put(s3, name, bucket_of, place):
    for key in "abc":
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    before = {key: s3.head_object(Bucket=name, Key=key)["LastModified"] for key in "abc"}

    mount = bucket_of().mount(place, mode="sync")
    with mount:
        Path(place, "b").write_text("changed")
        s3.put_object(Bucket=name, Key="a", Body=b"of others")
        mount.commit()
        assert body(s3, name, "b") == b"changed"
        os.chmod(Path(place, "c"), 0o600)

    assert body(s3, name, "a") == b"of others"
    assert s3.head_object(Bucket=name, Key="c")["LastModified"] == before["c"]


def test_what_others_have_replaced_is_not_removed(s3, name, bucket_of, place, caplog):
    s3.put_object(Bucket=name, Key="a", Body=b"old")

    with bucket_of().mount(place, mode="sync"):
        s3.put_object(Bucket=name, Key="a", Body=b"of others")
        Path(place, "a").unlink()

    assert body(s3, name, "a") == b"of others"
    assert "others have replaced it" in caplog.text


def test_what_cannot_be_put_at_the_end_is_kept(s3, name, bucket_of, place):
    mount = bucket_of().mount(place, mode="sync")
    Path(place, "d").mkdir()
    Path(place, "d", "a").write_text("x")
    s3.delete_bucket(Bucket=name)

    with pytest.raises(errors.NotFoundError, match="is kept in"):
        mount.close()

    (kept,) = recovery.all_kept()
    assert (kept.files / "d" / "a").read_text() == "x"
    assert os.listdir(place) == []
    with pytest.raises(errors.InvalidError, match="copy what is in"):
        admin.restore(kept.path.name, default_client())


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_line_shows_buckets_that_are_mounted_and_what_was_not_put(
    s3, name, bucket_of, place, mode, commands
):
    shown = bucket_of().location.shown

    mount = bucket_of(key_prefix="p").mount(place, mode=mode)
    mounted = commands.done("mounts")
    Path(place, "a").write_text("x")
    if mode == "sync":
        s3.delete_bucket(Bucket=name)
        with pytest.raises(errors.NotFoundError):
            mount.close()
        kept = commands.done("mounts", "--recover")
        assert f"{shown}/p/" in kept
    else:
        mount.close()

    assert f"{shown}/p/" in mounted


# ------------------------------------------------------------------------------------------- what is wrong with the way


def test_half_of_a_pair_of_keys_is_one_error_without_a_value(bucket_of, place, mode):
    secret = Secret.from_dict({"AWS_ACCESS_KEY_ID": KEYS["AWS_ACCESS_KEY_ID"]})

    with pytest.raises(errors.AccessDenied, match="AWS_SECRET_ACCESS_KEY") as refusal:
        bucket_of(secret=secret).mount(place, mode=mode)

    assert KEYS["AWS_ACCESS_KEY_ID"] not in str(refusal.value)
    assert not mount_table.mounts_at(str(place))


def test_an_sdk_that_is_not_installed_is_one_error_that_says_what_installs_it(
    bucket_of, place, mode, tmp_path, moto_server
):
    """
    In a process of its own, as this one has it.
    """
    (tmp_path / "boto3.py").write_text("raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from pgstore import CloudBucketMount, errors
        try:
            CloudBucketMount.from_s3_bucket("any").mount({str(place)!r}, mode={mode!r})
        except errors.ConfigurationError as exc:
            print(exc)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60, capture_output=True, text=True
    )

    assert "pgstore[s3]" in done.stdout
    assert len(done.stdout.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- programs


def test_pandas_reads_and_writes_what_is_mounted(s3, name, bucket_of, place, mode):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})

    with bucket_of().mount(place, mode=mode) as path:
        frame.to_csv(f"{path}/frame.csv", index=False)
        frame.to_parquet(f"{path}/frame.parquet")
        assert pandas.read_csv(f"{path}/frame.csv").equals(frame)
        assert pandas.read_parquet(f"{path}/frame.parquet").equals(frame)

    assert keys(s3, name) == ["frame.csv", "frame.parquet"]
    assert body(s3, name, "frame.csv") == b"a,b\n1,x\n2,y\n3,z\n"
