"""Buckets in functions: mounted at the paths that these name, with credentials that no function sees; on emulators."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgstore import CloudBucketMount, Secret, Volume, errors
from pgstore.app.spec import WorkerSpec
from pgstore.mount.daemon import caller
from tests.app.conftest import worker
from tests.app.running import NOBODY, Programs, ended, output
from tests.fixtures.buckets import azure_client, new_name
from tests.fixtures.emulators import AZURE_ACCOUNT, azure_connection_string
from tests.mount.conftest import reachable_directory

pytestmark = pytest.mark.buckets
SPEC = Path(__file__).parents[2] / "examples" / "spec" / "bucket_mounts.py"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAFORTESTS", "AWS_SECRET_ACCESS_KEY": "a-secret-key-for-tests"}


@pytest.fixture(params=["fuse", "sync"])
def mode(request, monkeypatch) -> Iterator[str]:
    """Both ways to mount. The daemon is the test's own."""
    if request.param == "fuse":
        request.getfixturevalue("fuse")
    monkeypatch.setenv("PGSTORE_MOUNT_MODE", request.param)
    caller.end()
    yield request.param
    caller.end()


@pytest.fixture
def name(s3) -> str:
    """That of a new bucket."""
    made = new_name()
    s3.create_bucket(Bucket=made)
    return made


@pytest.fixture
def bucket_of(moto_server, name) -> Callable[..., CloudBucketMount]:
    def make(bucket: str = name, **options: object) -> CloudBucketMount:
        given: dict[str, object] = {
            "endpoint_url": moto_server.url,
            "read_only": False,
            "secret": Secret.from_dict(KEYS),
        }
        return CloudBucketMount.from_s3_bucket(bucket, **{**given, **options})  # type: ignore[arg-type]

    return make


def with_buckets(function: str, **mounts: Any) -> WorkerSpec:
    """Workers for a function of tests/app/work.py; of *mounts* `a` is at `/a`."""
    at = tuple(sorted((f"/{name.replace('_', '/')}", store) for name, store in mounts.items()))
    return worker(function, mounts=at, credentials=lambda path: dict(at)[path]._secret_values())


def body(s3, name: str, key: str) -> str:
    return str(s3.get_object(Bucket=name, Key=key)["Body"].read().decode())


def test_a_function_reads_and_writes_a_bucket(run, default_client, s3, name, bucket_of, mode):
    s3.put_object(Bucket=name, Key="in/a", Body=b"of the bucket")

    assert run(with_buckets("read", data=bucket_of()), "/data/in/a") == "of the bucket"
    run(with_buckets("write", data=bucket_of()), "/data/b", "of the function")

    assert body(s3, name, "b") == "of the function"
    assert not os.path.exists("/data")


def test_what_a_function_has_written_is_there_also_when_it_raises(run, default_client, s3, name, bucket_of, mode):
    from tests.app.work import Refused

    with pytest.raises(Refused):
        run(with_buckets("write_and_refuse", data=bucket_of()), "/data/checkpoint", "kept")

    assert body(s3, name, "checkpoint") == "kept"


def test_a_bucket_is_mounted_at_several_paths(run, default_client, s3, name, bucket_of, mode):
    spec = with_buckets("write", one=bucket_of(key_prefix="p"), other=bucket_of())

    run(spec, "/one/a", "1")
    run(spec, "/other/b", "2")

    assert (body(s3, name, "p/a"), body(s3, name, "b")) == ("1", "2")


def test_stores_and_buckets_are_mounted_within_each_other(run, default_client, s3, name, bucket_of, store_name, mode):
    volume = Volume.from_name(store_name, create_if_missing=True)
    spec = with_buckets(
        "write", a=bucket_of(), a_volume=volume, v=volume.with_mount_options(sub_path="s"), v_b=bucket_of()
    )

    run(spec, "/a/volume/x", "of the volume")
    run(spec, "/v/b/y", "of the bucket")

    assert b"".join(volume.read_file("/x")) == b"of the volume"
    assert body(s3, name, "y") == "of the bucket"
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=name)["Contents"]] == ["y"]


def test_what_is_wrong_with_a_bucket_is_one_error_of_the_call(run, default_client, bucket_of, mode):
    with pytest.raises(errors.NotFoundError, match="no-such-bucket"):
        run(with_buckets("read", data=bucket_of("no-such-bucket")), "/data/a")


def test_a_read_only_bucket_is_not_written_to(run, default_client, s3, name, bucket_of, fuse):
    with pytest.raises(OSError, match="Read-only file system"):
        run(with_buckets("write", data=bucket_of(read_only=True)), "/data/a", "x")

    assert "Contents" not in s3.list_objects_v2(Bucket=name)


def test_the_secret_of_a_bucket_adds_nothing_to_the_environment(own_database, moto_server, s3, name, mode, tmp_path):
    """
    Nor has the worker's process the values anywhere in its environment or arguments.
    """
    s3.put_object(Bucket=name, Key="a", Body=b"x")
    (tmp_path / "program.py").write_text(f"""
import os
import pgstore

app = pgstore.App()
secret = pgstore.Secret.from_name("bucket-keys")
bucket = pgstore.CloudBucketMount.from_s3_bucket({name!r}, secret=secret, endpoint_url={moto_server.url!r})

@app.function(volumes={{"/a": bucket}}, cloud_bucket_mounts={{"/b": bucket}})
def look():
    seen = repr(dict(os.environ)) + open("/proc/self/environ").read() + open("/proc/self/cmdline").read()
    return open("/a/a").read() + open("/b/a").read(), [word for word in {[*KEYS, *KEYS.values()]!r} if word in seen]

if __name__ == "__main__":
    with app.run():
        print(look.remote())
""")
    (tmp_path / "bucket-keys.env").write_text("".join(f"{key}={value}\n" for key, value in KEYS.items()))

    programs = Programs(own_database, tmp_path, mode=mode)
    printed = output(programs.python("program.py", PGSTORE_SECRETS_DIR=str(tmp_path)))

    assert printed == "('xx', [])\n"


# ---------------------------------------------------------------------------------------- the specification's programs


# As in test_spec.py.
EACH_WAY = ["python-root-fuse", "run-user-fuse", "run-root-sync", "python-user-sync"]


@pytest.fixture
def program(request, own_database, fuse) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs a function of a program whose text is given, with a secret of some variables."""
    how, who, mode = request.param.split("-")
    if who == "user":
        request.getfixturevalue("fuse_of_users")
    with reachable_directory() as directory:
        directory.chmod(0o777)
        programs = Programs(own_database, directory, NOBODY if who == "user" else 0, mode)

        def run(
            text: str, function: str, secret: str, values: dict[str, str], **variables: str
        ) -> tuple[int, str, str]:
            path = directory / "program.py"
            text = text.replace("process_s3_data.remote()", f"{function}.remote()")
            path.write_text(text)
            (directory / f"{secret}.env").write_text("".join(f"{key}='{value}'\n" for key, value in values.items()))
            variables["PGSTORE_SECRETS_DIR"] = str(directory)
            if how == "run":
                return ended(programs.pgstore("run", f"{path}::{function}", **variables))
            return ended(programs.python(path, **variables))

        yield run


@pytest.fixture
def local_data() -> Iterator[None]:
    """What the program of the specification backs up, in /tmp/data."""
    path = Path("/tmp/data")
    path.mkdir(exist_ok=True)
    (path / "one.txt").write_text("1")
    (path / "two.txt").write_text("2")
    yield
    for each in path.iterdir():
        each.unlink()
    path.rmdir()


@pytest.mark.parametrize("program", EACH_WAY, indirect=True)
def test_the_bucket_of_s3(program, moto_server, s3):
    s3.create_bucket(Bucket="my-data-bucket")
    s3.put_object(Bucket="my-data-bucket", Key="input/data.csv", Body=b"1,2\n3,4\n")
    s3.put_object(Bucket="my-data-bucket", Key="output/earlier.json", Body=b"{}")  # so that there is such a directory
    values = {**KEYS, "AWS_REGION": "us-east-1"}

    try:
        ran = program(
            SPEC.read_text(), "process_s3_data", "aws-credentials", values, AWS_ENDPOINT_URL_S3=moto_server.url
        )
        written = body(s3, "my-data-bucket", "output/results.json") if ran[0] == 0 else None
    finally:
        for each in s3.list_objects_v2(Bucket="my-data-bucket")["Contents"]:
            s3.delete_object(Bucket="my-data-bucket", Key=each["Key"])
        s3.delete_bucket(Bucket="my-data-bucket")

    assert ran == (0, "", "")
    assert written == '{"lines": 2}'


def _backed_up(program, gcs_server, text: str) -> tuple[tuple[int, str, str], dict[str, bytes]]:
    import google.cloud.storage as gcs
    from google.auth.credentials import AnonymousCredentials

    client = gcs.Client("test", AnonymousCredentials(), client_options={"api_endpoint": gcs_server.url})
    bucket = client.create_bucket("my-gcs-bucket")
    bucket.blob("backup/earlier").upload_from_string("x")
    try:
        ran = program(
            text,
            "backup_to_gcs",
            "gcp-credentials",
            {"UNUSED": "x"},
            STORAGE_EMULATOR_HOST=gcs_server.url,
            GOOGLE_CLOUD_PROJECT="test",
        )
        found = {blob.name: blob.download_as_bytes() for blob in bucket.list_blobs()}
    finally:
        for blob in bucket.list_blobs():
            blob.delete()
        bucket.delete()
        client.close()
    return ran, found


@pytest.mark.parametrize("program", EACH_WAY[1:3], indirect=True)
def test_the_bucket_of_google(program, gcs_server, local_data):
    text = SPEC.read_text().replace('"gcp-credentials")\n', '"gcp-credentials"),\n    read_only=False\n')

    ran, found = _backed_up(program, gcs_server, text)

    assert ran == (0, "", "")
    assert found == {"backup/earlier": b"x", "backup/one.txt": b"1", "backup/two.txt": b"2"}


@pytest.mark.parametrize("program", EACH_WAY[:1], indirect=True)
def test_the_bucket_of_google_is_read_only_as_the_specification_has_it(program, gcs_server, local_data):
    ran, found = _backed_up(program, gcs_server, SPEC.read_text())

    assert ran[0] != 0
    assert "OSError: [Errno 30] Read-only file system: '/gcs-data/backup/" in ran[2]
    assert found == {"backup/earlier": b"x"}


@pytest.mark.parametrize("program", [EACH_WAY[0], EACH_WAY[3]], indirect=True)
def test_a_container_of_azure(program, azurite):
    container = new_name()
    text = f"""
import os, shutil
import pgstore as modal

app = modal.App()
azure_mount = modal.CloudBucketMount.from_azure_blob_storage(
    {AZURE_ACCOUNT!r}, {container!r}, secret=modal.Secret.from_name("azure-credentials"), read_only=False
)

@app.function(cloud_bucket_mounts={{"/azure-data": azure_mount}})
def copy():
    for name in os.listdir("/azure-data/in"):
        shutil.copy(f"/azure-data/in/{{name}}", f"/azure-data/copy-of-{{name}}")

if __name__ == "__main__":
    with app.run():
        copy.remote()
"""
    with azure_client(azurite.url, container) as client:
        client.create_container()
        client.upload_blob("in/a", b"1")

        ran = program(
            text, "copy", "azure-credentials", {"AZURE_STORAGE_CONNECTION_STRING": azure_connection_string(azurite.url)}
        )

        assert ran == (0, "", "")
        assert client.download_blob("copy-of-a").readall() == b"1"
