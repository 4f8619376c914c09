"""The programs of the specification, by `pgstore run` and by plain `python`, with both kinds of mounts, as root and as a user."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

import pgstore
from tests.app.running import NOBODY, Programs, output
from tests.mount.conftest import reachable_directory

SPEC = Path(__file__).parents[2] / "examples" / "spec"

# Of what the page has between its import line and its end.
DIGESTS = {
    "volume_files": "b625dc7efa54be26",
    "nfs_cache": "b50d5e991789e9c9",
    "dict_config": "34d13a988de28b95",
    "queue_tasks": "352159a41328a597",
    "data_pipeline": "617d981df8ea5b08",
    "shared_state": "984894408214bd51",
    "bucket_mounts": "8dc523f83b7a75a2",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_a_program_is_what_the_specification_has_to_the_letter(name):
    """
    But for its imports, the helpers that the page leaves out, and the block at the end that calls its functions.
    """
    head, app, rest = (SPEC / f"{name}.py").read_text().partition("app = modal.App()")
    body = app + rest.partition('\n\n\nif __name__ == "__main__":\n')[0]

    assert "\nimport pgstore as modal\n" in head
    assert hashlib.sha256(body.encode()).hexdigest()[:16] == DIGESTS[name]


def test_every_program_has_its_digest():
    assert {path.stem for path in SPEC.glob("*.py")} == set(DIGESTS)


@dataclass(frozen=True)
class Spec:
    """Runs programs of the specification: plainly, or *by_run* one function after the other."""

    programs: Programs
    by_run: bool

    def __call__(self, name: str, *functions: str) -> list[str]:
        """The lines that the program *name* prints; *functions*, with their arguments, are what its last block calls."""
        path = SPEC / f"{name}.py"
        if not self.by_run:
            return output(self.programs.python(path)).splitlines()
        each = (function.split() for function in functions)
        runs = [output(self.programs.pgstore("run", f"{path}::{name}", *arguments)) for name, *arguments in each]
        return "".join(runs).splitlines()

    def client(self) -> pgstore.Client:
        return pgstore.Client(self.programs.url)


# Each way to run, each kind of mount and each user meets each of the others.
@pytest.fixture(params=["python-root-fuse", "run-user-fuse", "run-root-sync", "python-user-sync"])
def mounted(request, own_database, fuse):
    """Programs that have mounts."""
    how, who, mode = request.param.split("-")
    if who == "user":
        request.getfixturevalue("fuse_of_users")
    with reachable_directory() as directory:
        directory.chmod(0o777)
        (directory / "local_data.txt").write_text("a lamp")
        (directory / "datasets").mkdir()
        (directory / "datasets" / "one.csv").write_text("1,2\n")
        yield Spec(Programs(own_database, directory, NOBODY if who == "user" else 0, mode), how == "run")


def test_the_volume(mounted):
    lines = mounted("volume_files", "upload_data", "process_data")

    assert lines[:2] == ["datasets: DIRECTORY, 0 bytes", "input.txt: FILE, 6 bytes"]
    with mounted.client() as client:
        volume = pgstore.Volume.from_name("my-data-volume", client=client)
        assert b"".join(volume.read_file("/output.txt")) == b"Processed: a lamp"
        assert volume.exists("/datasets/one.csv")


def test_the_network_file_system(mounted):
    """
    A result is worked out once, also by later runs.
    """
    calls = [f"worker_function --task-id {task}" for task in ("first", "second", "first")]

    lines = mounted("nfs_cache", *calls)

    assert [line for line in lines if line.startswith("computing")] == ["computing first", "computing second"]
    with mounted.client() as client:
        cache = pgstore.NetworkFileSystem.from_name("shared-cache", client=client)
        assert b"".join(cache.read_file("/task_second.json")) == b'{"task": "second", "letters": 6}'


def test_the_pipeline(mounted):
    with mounted.client() as client:
        volume = pgstore.Volume.from_name("raw-data", create_if_missing=True, client=client)
        for name, text in (("a.txt", b"one two three"), ("b.txt", b"four five")):
            volume.put_file(io.BytesIO(text), f"/input/{name}")

        lines = mounted("data_pipeline", "data_pipeline", "data_pipeline")
        tasks = pgstore.Queue.from_name("processing-queue", client=client).get_many(10, block=False)

    found = lines or map(str, tasks)  # the program takes and prints them, run plainly
    expected = [("a.txt", 3), ("b.txt", 2)]
    assert sorted(found) == [str({"type": "notify", "file": a, "result": {"words": n}}) for a, n in expected]


# --- without mounts ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["python", "run"])
def unmounted(request, own_database, tmp_path):
    return Spec(Programs(own_database, tmp_path), request.param == "run")


def test_the_dict(unmounted):
    lines = unmounted("dict_config", "setup_config", "worker_task", "analytics_function", "analytics_function")

    assert lines == ([] if unmounted.by_run else ["new", "2 2"])
    with unmounted.client() as client:
        assert pgstore.Dict.from_name("config-store", client=client)["request_count"] == 2


def test_the_shared_state(unmounted):
    """
    The functions lose updates of each other, for they read and write in two steps; so only the bounds are certain.
    """
    unmounted("shared_state", "coordinator")

    with unmounted.client() as client:
        state = dict(pgstore.Dict.from_name("worker-state", client=client).items())
    assert set(state) == {"active_workers", "total_processed", "status"}
    assert 20 <= state["total_processed"] <= 100
    assert state["active_workers"] < 5


# --- the queue: its consumer waits half a minute for another task, so it begins before all other tests of this module ---


@pytest.fixture(scope="module", autouse=True)
def consumers(server, migrated_template, tmp_path_factory):
    """The program run plainly, and its consumer by `pgstore run`, each on a database of its own."""
    urls = [server.create_database(template=migrated_template) for _ in range(2)]
    plain, run = (Programs(url, tmp_path_factory.mktemp("queue")) for url in urls)
    path = SPEC / "queue_tasks.py"
    processes = [plain.python(path)]
    assert output(run.pgstore("run", f"{path}::generate_tasks")) == "Added 100 tasks to queue\n"
    processes.append(run.pgstore("run", f"{path}::process_tasks"))
    yield processes
    for process in processes:
        process.kill()
        process.communicate()
    for url in urls:
        server.drop_database(url)


def test_the_batches_of_the_queue(own_database, tmp_path):
    spec = Spec(Programs(own_database, tmp_path), by_run=True)

    lines = spec("queue_tasks", "generate_tasks", "batch_processor")

    assert lines == ["Added 100 tasks to queue", *["Processed batch of 10 tasks"] * 10]


def test_the_queue(consumers):
    plain, run = map(output, consumers)

    consumed = [f"Processed task {number}: TASK_{number}" for number in range(100)] + ["No more tasks, worker stopping"]
    added, batches = "Added 100 tasks to queue", ["Processed batch of 10 tasks"] * 10
    assert run.splitlines() == consumed
    assert plain.splitlines() == [added, *batches, added, *consumed]
