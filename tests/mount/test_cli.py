"""`pgstore mount`, `unmount` and `mounts`, as their users meet them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgstore import NetworkFileSystem, Volume
from pgstore.mount import attach, recovery
from tests.mount.programs import MEMORY, PRELUDE, is_alive, is_mounted, notes, wait_until

pytestmark = pytest.mark.usefixtures("memory")
COMMAND = f"""
import sys
from pgstore.mount.daemon import backends
for kind in backends.FACTORIES:
    backends.FACTORIES[kind] = "{MEMORY}"
from pgstore.cli import main
main()
"""


@pytest.fixture
def volume(client, store_name):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client)
    volume.hydrate()
    return volume


class Cli:
    def __init__(self, database):
        self._environment = {**os.environ, "PGSTORE_URL": database, "NO_COLOR": "1", "COLUMNS": "200"}

    def start(self, *arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, arguments)],
            env=self._environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def __call__(self, *arguments):
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def told(self, place):
        """What `mounts` tells of the mount at *place*; others may be left from elsewhere."""
        (told,) = [each for each in json.loads(self("mounts", "--json")[1]) if each["path"] == str(place)]
        return told


@pytest.fixture
def cli(database):
    return Cli(database)


def test_a_mount_outlives_its_shell_and_is_unmounted_by_a_command(cli, volume, place):
    shell = subprocess.run(
        ["setsid", "sh", "-c", '"$@"', "sh", sys.executable, "-c", COMMAND, "mount", "volume", volume.name, str(place)],
        env=cli._environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shell.stdout.startswith(f"mounted at {place} by process ")
    pid = int(shell.stdout.split("process ")[1].split(";")[0])

    (place / "a").write_text("a")
    told = cli.told(place)
    shown = cli("mounts")[1]
    code, out, err = cli("unmount", place)

    assert told["pid"] == pid
    assert abs(told["since"] - time.time()) < 60
    assert (told["path"], told["kind"], told["name"]) == (str(place), "volume", volume.name)
    assert f"main: Volume {volume.name}" in shown
    assert "17 bytes" in shown
    assert (code, out, err) == (0, f"unmounted {place}\n", "")
    wait_until(lambda: not is_alive(pid), "the daemon ends with its last mount")
    assert notes(place)[-1] == "end"
    assert str(place) not in cli("mounts")[1]


def test_in_the_foreground_it_ends_by_an_interrupt(cli, volume, place):
    with cli.start("mount", "volume", volume.name, place, "--foreground", "--read-only", "--sub-path", "/") as process:
        assert process.stdout.readline().startswith(f"mounted at {place}")
        with pytest.raises(OSError, match="Read-only"):
            (place / "a").touch()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 0
    assert not is_mounted(place)
    assert notes(place)[-1] == "end"


def test_in_the_foreground_it_ends_when_another_unmounts(cli, volume, place):
    with cli.start("mount", "volume", volume.name, place, "--foreground") as process:
        assert process.stdout.readline().startswith(f"mounted at {place}")
        assert cli("unmount", place)[0] == 0
        process.communicate(timeout=60)

    assert process.returncode == 0


def test_without_fuse_it_copies_in_the_foreground(cli, client, store_name, place):
    nfs = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client)
    nfs.put_file(io.BytesIO(b"a"), "/a")

    with cli.start("mount", "nfs", store_name, place, "--foreground", "--mode", "sync") as process:
        assert process.stdout.readline().startswith(f"mounted at {place}")
        told = cli.told(place)
        assert (told["mode"], told["pid"], told["name"]) == ("sync", process.pid, store_name)
        code, _, err = cli("unmount", place)
        assert (code, "which writes it back" in err) == (2, True)
        (place / "b").write_bytes((place / "a").read_bytes())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

    assert nfs.exists("b")
    assert os.listdir(place) == []


def test_mistakes_are_said_in_a_line(cli, volume, place, tmp_path):
    for arguments, code, text in [
        (["mount", "volume", "nobody", place], 1, "nobody"),
        (["mount", "dict", "x", place], 2, "neither 'volume' nor 'nfs'"),
        (["mount", "nfs", "x", place, "--at", "3"], 2, "no versions"),
        (["mount", "volume", volume.name, tmp_path / "missing"], 1, "missing"),
        (["mount", "volume", volume.name, place, "--mode", "sync"], 1, "--foreground"),
        (["unmount", place], 1, "nothing is mounted"),
        (["mounts", "x"], 2, "--recover"),
        (["mounts", "x", "--recover"], 1, "no recovery directory"),
    ]:
        found, _, err = cli(*arguments)
        assert (found, err.count("\n"), text in err) == (code, 1, True), err


def test_a_mount_whose_daemon_was_killed_is_shown_and_unmounted(cli, volume, place):
    out = cli("mount", "volume", volume.name, place)[1]
    pid = int(out.split("process ")[1].split(";")[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: attach.is_stale(str(place)), "the daemon is gone")

    told = cli.told(place)
    code, _, err = cli("unmount", place)

    assert (told["path"], told["mode"], told["pid"]) == (str(place), "dead", None)
    assert (code, err) == (0, "")
    assert not is_mounted(place)


def test_the_log_of_a_daemon_is_where_it_was_asked_for(cli, volume, place, tmp_path):
    log = tmp_path / "log"
    cli("mount", "volume", volume.name, place, "--log", log)
    Path(f"{place}.fails").touch()
    code, _, err = cli("unmount", place)

    assert (code, "is kept in" in err) == (1, True)
    assert log.exists()


def test_what_could_not_be_committed_is_listed_and_put_back(cli, volume, place):
    """
    Also what a process has left that was killed.
    """
    script = PRELUDE + "volume.mount(place, mode='sync')\nprint('ready', flush=True)\ntime.sleep(60)\n"
    with subprocess.Popen(
        [sys.executable, "-c", script, cli._environment["PGSTORE_URL"], volume.name, str(place)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (place / "d").mkdir()
        (place / "d/precious").write_bytes(b"precious")
        (place / "link").symlink_to("d/precious")
        process.kill()

    with volume.mount(place, mode="sync"):
        assert os.listdir(place) == []
    (kept,) = recovery.all_kept()
    shown = cli("mounts", "--recover")[1]
    code, out, err = cli("mounts", "--recover", kept.path.name)

    assert str(kept.files) in shown
    assert (code, err) == (0, "")
    assert volume.name in out
    assert b"".join(volume.read_file("d/precious")) == b"precious"
    assert volume.readlink("link") == "d/precious"
    assert cli("mounts", "--recover")[1] == "nothing was kept\n"
