"""Mounts of workers: the stores of a function at the paths that it names, seen by it alone, committed after each call."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from pgstore import NetworkFileSystem, Volume, errors
from pgstore.app.worker.mounts import Mounts
from pgstore.mount import attach
from pgstore.mount.daemon import caller
from tests.app.conftest import worker
from tests.app.running import NOBODY, REPOSITORY, Programs, output
from tests.mount.conftest import reachable_directory, skip_without_fuse

pytestmark = pytest.mark.usefixtures("default_client")


@pytest.fixture(scope="module", autouse=True)
def _end_daemon():
    yield
    caller.end()


@pytest.fixture(params=["fuse", "sync"])
def mode(request, monkeypatch):
    """Both ways to mount."""
    if request.param == "fuse":
        skip_without_fuse(attach.is_possible())
    monkeypatch.setenv("PGSTORE_MOUNT_MODE", request.param)
    return request.param


@pytest.fixture
def directory():
    with reachable_directory() as directory:
        yield directory


@pytest.fixture
def volume(store_name):
    return Volume.from_name(store_name, create_if_missing=True)


def texts(volume):
    return {entry.path: b"".join(volume.read_file(entry.path)).decode() for entry in volume.listdir("/")}


def test_a_volume_is_at_its_path_in_the_worker_and_nowhere_else(run, volume, mode):
    volume.put_file(io.BytesIO(b"here"), "/input")
    mounted = (("/data-of-worker", volume),)

    assert run(worker("read", mounts=mounted), "/data-of-worker/input") == "here"

    assert not os.path.exists("/data-of-worker")


def test_what_a_function_has_written_is_committed_when_its_result_is_there(run, volume, mode):
    run(worker("write", mounts=(("/data", volume),)), "/data/output", "written")

    assert texts(volume) == {"output": "written"}


def test_what_a_function_has_written_is_committed_also_when_it_raises(run, volume, mode):
    from tests.app.work import Refused

    with pytest.raises(Refused):
        run(worker("write_and_refuse", mounts=(("/data", volume),)), "/data/checkpoint", "kept")

    assert texts(volume) == {"checkpoint": "kept"}


def test_what_a_program_writes_when_it_ends_is_committed(runner, run, volume):
    run(worker("write_at_exit", mounts=(("/data", volume),)), "/data/last")

    runner.close()

    assert texts(volume) == {"last": "at the end"}


def test_a_worker_stays_at_its_version_until_it_reloads(run, volume, mode):
    volume.put_file(io.BytesIO(b"old"), "/a")
    spec = worker("read_after_reload", mounts=(("/data", volume),), max_workers=1)
    seen = [run(spec, volume.name, "/data/a", reload=False)]
    volume.put_file(io.BytesIO(b"new"), "/a")

    seen += [run(spec, volume.name, "/data/a", reload=reload) for reload in (False, True)]

    assert seen == ["old", "old", "new"]


def test_a_commit_that_fails_makes_the_call_fail_and_not_the_next_one(run, volume, mode):
    spec = worker("write", mounts=(("/data", volume),), max_workers=1)
    run(spec, "/data/other", "1")
    volume.put_file(io.BytesIO(b"theirs"), "/taken/file")

    with pytest.raises(errors.ConflictError, match="taken"):
        run(spec, "/data/taken", "a file where others have a directory")

    run(spec, "/data/other", "2")

    assert [entry.path for entry in volume.listdir("/", recursive=True)] == ["other", "taken", "taken/file"]
    assert b"".join(volume.read_file("/other")) == b"2"


def test_what_a_killed_worker_has_not_committed_is_gone(runner, run, volume, mode):
    mounted = (("/data", volume),)

    with pytest.raises(errors.RemoteError, match="SIGKILL"):
        run(worker("write_and_die", mounts=mounted), "/data/lost", "lost")
    runner.close()

    assert texts(volume) == {}


def test_a_private_tmp_is_the_workers_own(run):
    path = f"/tmp/pgstore-private-{os.getpid()}"
    spec = worker("write", environment=lambda: {"PGSTORE_PRIVATE_TMP": "1"})

    run(spec, path, "private")

    assert not os.path.exists(path)


def test_a_process_that_a_function_forks_is_told_where_to_commit(run, volume, store_name, monkeypatch):
    skip_without_fuse(attach.is_possible())
    monkeypatch.setenv("PGSTORE_MOUNT_MODE", "fuse")

    told = run(worker("commit_in_child", mounts=(("/data", volume),)), store_name, "/data/output")

    assert "is mounted in the worker that has forked this process" in told
    assert texts(volume) == {"output": "of the child"}


def test_a_worker_that_is_killed_while_it_commits_is_an_error_of_the_call(run, volume, monkeypatch):
    skip_without_fuse(attach.is_possible())
    monkeypatch.setenv("PGSTORE_MOUNT_MODE", "fuse")

    with pytest.raises(errors.RemoteError, match="SIGKILL"):
        run(worker("die_in_commit", mounts=(("/data", volume),)), "/data/lost")

    assert texts(volume) == {}


def test_the_death_of_the_daemon_fails_the_call_and_the_next_one_has_another(run, volume, monkeypatch):
    skip_without_fuse(attach.is_possible())
    monkeypatch.setenv("PGSTORE_MOUNT_MODE", "fuse")
    spec = worker("write", mounts=(("/data", volume),), max_workers=1)
    run(spec, "/data/kept", "kept")
    os.kill(caller.running().pid, signal.SIGKILL)

    with pytest.raises((OSError, errors.Error)):
        run(spec, "/data/lost", "lost")
    run(spec, "/data/again", "again")

    assert texts(volume) == {"kept": "kept", "again": "again"}


def test_a_missing_store_is_an_error_of_the_call(run, store_name, mode):
    missing = Volume.from_name(store_name)

    with pytest.raises(errors.NotFoundError, match=store_name):
        run(worker("read", mounts=(("/data", missing),)), "/data/x")


def test_a_network_file_system_is_shared_by_workers(run, store_name, mode):
    shared = NetworkFileSystem.from_name(store_name, create_if_missing=True)

    run(worker("write", mounts=(("/cache", shared),)), "/cache/key", "value")

    assert run(worker("read", mounts=(("/elsewhere", shared),)), "/elsewhere/key") == "value"


def test_a_mount_within_a_mount_is_seen_in_it_and_is_no_part_of_its_volume(run, volume, store_name, mode):
    inner = Volume.from_name(f"{store_name}-inner", create_if_missing=True)
    spec = worker("write_within", mounts=(("/data", volume), ("/data/in", inner)))

    assert run(spec, "/data", "/data/in") == (["a", "in"], ["b"])
    assert run(spec, "/data", "/data/in") == (["a", "in"], ["b"])  # after a commit it is there still

    assert texts(inner) == {"b": "inner"}
    assert [entry.path for entry in volume.listdir("/")] == ["a"]


WITHOUT_NAMESPACES = """
echo 0 > /proc/sys/user/max_user_namespaces
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""

DIRECT = """
import time
import pgstore as modal

app = modal.App()
volume = modal.Volume.from_name("{name}")

@app.function(volumes={{"{path}": volume}})
def read(number):
    with open(f"{path}/{{number}}", "w") as file:
        file.write("written")
    time.sleep(0.3)
    with open("{path}/a") as file:
        return file.read()

if __name__ == "__main__":
    print(list(read.map(range(3))))
"""


def test_where_namespaces_are_forbidden_stores_are_copied_to_the_paths_themselves(volume, database, directory):
    """
    The path is made, used by one worker at a time, and gone again at the end.
    """
    volume.put_file(io.BytesIO(b"here"), "/a")
    at = directory / "data"
    (directory / "program.py").write_text(DIRECT.format(name=volume.name, path=at))
    program = ["sh", "-c", WITHOUT_NAMESPACES, "sh", sys.executable, "program.py"]

    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PGSTORE_URL": database, "PGSTORE_PARALLELISM": "2", "PYTHONPATH": str(REPOSITORY)},
        cwd=directory,
        check=False,
    )

    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stdout) == (0, "['here', 'here', 'here']\n"), done.stderr
    assert "no mount namespace" in done.stderr
    assert not at.exists()
    assert set(texts(volume)) == {"0", "1", "2", "a"}


def test_a_path_that_cannot_be_used_either_is_an_error_that_says_what_to_set(volume, directory):
    (directory / "file").touch()
    mounts = Mounts(None, [], str(directory))  # type: ignore[arg-type]

    with pytest.raises(errors.ConfigurationError, match=r"not empty; allow them \(user.max_user_namespaces"):
        mounts._claimed(str(directory))


PROGRAM = """
import os
import pgstore as modal

app = modal.App()
volume = modal.Volume.from_name("{name}")

@app.function(volumes={{"/data": volume, "/root/.cache/hub": volume.with_mount_options(sub_path="hub")}})
def work():
    for path in ("/data/a", "/root/.cache/hub/b", os.path.expanduser("~/c")):
        with open(path, "w") as file:
            file.write("written")
    return os.environ["HOME"], os.getuid()

if __name__ == "__main__":
    print(work.remote())
"""


def test_an_ordinary_user_has_paths_of_the_root_of_a_container(volume, mode, database, directory):
    """
    Without a right to make /data, or to enter /root: of a file that is written to the home there nothing is left.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    volume.hydrate()
    (directory / "program.py").write_text(PROGRAM.format(name=volume.name))
    directory.chmod(0o777)

    printed = output(Programs(database, directory, user=NOBODY, mode=mode).python("program.py"))

    assert printed == f"('/root', {NOBODY})\n"
    assert [entry.path for entry in volume.listdir("/", recursive=True)] == ["a", "hub", "hub/b"]
    assert not os.path.exists("/data")
    assert not os.path.exists("/root/.cache/hub")
