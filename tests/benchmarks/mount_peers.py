"""What mounts are compared with: a directory of ext4, sshfs over a loopback sshd with keys of its own, rclone; and ours.

Each is a `Lane`: a directory, how it is mounted anew, so that nothing is cached, and a process that works in it.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import mount_load
from tests.benchmarks.harness import Turn
from tests.benchmarks.peers import missing
from tests.fixtures.processes import free_port, mortal

WAIT_SECONDS: Final = 20.0


class Talker:
    """A program that answers a line of JSON for each that it is given."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self._process = subprocess.Popen(
            mortal(command, signal_name="TERM"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )

    def send(self, *message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended")
        answer = json.loads(line)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def ask(self, *message: Any) -> Any:
        self.send(*message)
        return self.answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Load(Talker):
    """A process that works with files as programs do; see `mount_load`."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-I", "-S", mount_load.__file__], cwd="/")

    def turn(self, verb: str, *arguments: Any) -> Turn:
        return Turn(*self.ask(verb, arguments))


class Lane:
    """A directory that programs work in."""

    name = ""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self._load: Load | None = None

    def start(self) -> None:
        """Mount, if it has to be."""

    def stop(self) -> None:
        """Unmount."""

    def again(self) -> None:
        """Mount it anew, so that nothing is cached."""
        self.end_load()
        self.stop()
        self.start()

    @property
    def load(self) -> Load:
        if self._load is None:
            self._load = Load()
        return self._load

    def run(self, verb: str, name: str = "", *arguments: Any) -> Turn:
        """Have *verb* done to what is called *name*."""
        return self.load.turn(verb, str(self.path / name), *arguments)

    def end_load(self) -> None:
        if self._load is not None:
            self._load.end()
            self._load = None

    def end(self) -> None:
        self.end_load()
        self.stop()


class Ext4(Lane):
    name = "ext4"


def unmount(path: Path) -> None:
    done = subprocess.run(["umount", path], check=False, capture_output=True)
    if done.returncode and path.is_mount():
        subprocess.run(["umount", "-l", path], check=False)


def wait_until_mounted(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not path.is_mount():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise RuntimeError(f"{process.args!r} mounts nothing: {log.read_text()[-500:]}")
        time.sleep(0.01)


class Foreign(Lane, abc.ABC):
    """What another program mounts, in the foreground."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / self.name)
        self.folder = folder
        self.store = folder / f"{self.name} store"
        self.store.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> list[str]:
        """What starts the program."""

    def start(self) -> None:
        log = self.folder / f"{self.name}.log"
        with log.open("wb") as sink:
            command = mortal(self.command(), signal_name="TERM")
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        wait_until_mounted(self.path, self._process, log)

    def stop(self) -> None:
        unmount(self.path)
        if self._process is not None:
            try:
                self._process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class Sshfs(Foreign):
    """Another machine's directory, without the machine: an sshd on a loopback port, with a host key and a user key for this run."""

    name = "sshfs"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._keys = folder / "keys"
        self._keys.mkdir(mode=0o700)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._keys / name], check=True)
        shutil.copy(self._keys / "user.pub", self._keys / "authorized")
        self._port = free_port()
        (self._keys / "sshd_config").write_text(
            f"Port {self._port}\nListenAddress 127.0.0.1\nHostKey {self._keys}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self._keys}/authorized\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\nStrictModes no\nSubsystem sftp internal-sftp\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # in which it wants to be while nobody has logged in
        command = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self._keys / "sshd_config")]
        with (folder / "sshd.log").open("wb") as sink:
            self._sshd = subprocess.Popen(mortal(command, signal_name="TERM"), stdout=sink, stderr=sink)
        host = (self._keys / "host.pub").read_text().split()
        (self._keys / "known").write_text(f"[127.0.0.1]:{self._port} {host[0]} {host[1]}\n")

    def command(self) -> list[str]:
        options = (
            f"IdentityFile={self._keys}/user,UserKnownHostsFile={self._keys}/known,BatchMode=yes,ConnectionAttempts=5"
        )
        return ["sshfs", "-f", "-p", str(self._port), "-o", options, f"root@127.0.0.1:{self.store}", str(self.path)]

    def end(self) -> None:
        super().end()
        self._sshd.terminate()
        self._sshd.wait()


class Rclone(Foreign):
    name = "rclone"

    def again(self) -> None:
        """It writes files some seconds after they were closed, and forgets what it has not written when it is ended."""
        until = time.monotonic() + WAIT_SECONDS
        while _files(self.path) != _files(self.store) and time.monotonic() < until:
            time.sleep(0.2)
        super().again()

    def command(self) -> list[str]:
        cache = self.folder / "rclone cache"
        shutil.rmtree(cache, ignore_errors=True)
        return [
            *("rclone", "mount", str(self.store), str(self.path), "--vfs-cache-mode", "full"),
            *("--config", os.devnull, "--cache-dir", str(cache)),
        ]


def _files(top: Path) -> dict[str, int]:
    """The sizes of all files below *top*."""
    return {
        os.path.relpath(os.path.join(folder, name), top): os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(top)
        for name in names
    }


class Caller(Talker):
    """A process that mounts ours, as a program does; see `serve_caller`."""

    def __init__(self, url: str) -> None:
        code = f"from tests.benchmarks.mount_peers import serve_caller; serve_caller({url!r})"
        super().__init__([sys.executable, "-c", code], cwd=Path(__file__).parents[2])


def serve_caller(url: str) -> None:
    """Mount and unmount as stdin says. Answers are `[seconds, daemon]`."""
    import pgstore
    from pgstore.mount.daemon import backends, caller

    mounted: dict[str, pgstore.Mount] = {}
    with pgstore.Client(url) as client:
        for line in sys.stdin:
            verb, *arguments = json.loads(line)
            try:
                if verb == "mount":
                    kind, name, path = arguments
                    store = getattr(pgstore, kind).from_name(name, client=client)
                    store.hydrate()
                    begun = time.perf_counter()
                    mounted[path] = (
                        store.mount(path, mode="fuse", background_commits=None)
                        if kind == "Volume"
                        else store.mount(path, mode="fuse")
                    )
                    seconds = time.perf_counter() - begun
                else:
                    (path,) = arguments
                    mount = mounted.pop(path) if verb == "close" else mounted[path]
                    begun = time.perf_counter()
                    getattr(mount, verb)()
                    seconds = time.perf_counter() - begun
                answer: Any = [seconds, caller.daemon(backends.FACTORIES["nfs"]).pid]
            except Exception as exc:
                answer = f"{verb} {arguments}: {type(exc).__name__}: {exc}"
            print(json.dumps(answer), flush=True)
        for mount in mounted.values():
            mount.close()


class Ours(Lane):
    """A store of ours, mounted by a process of its own and its daemon."""

    def __init__(self, folder: Path, url: str, kind: str, name: str, path: str = "") -> None:
        super().__init__(folder / (path or name))
        self.name = name
        self._url, self._kind, self._store = url, kind, name
        self.caller: Caller | None = None
        self.daemon = 0

    def start(self) -> None:
        self.caller = self.caller or Caller(self._url)
        self.ready_seconds, self.daemon = self.caller.ask("mount", self._kind, self._store, str(self.path))

    def stop(self) -> None:
        if self.caller is not None:
            self.caller.ask("close", str(self.path))

    def again(self) -> None:
        self.end_load()
        self.end()
        self.start()

    def commit(self) -> float:
        assert self.caller is not None
        return float(self.caller.ask("commit", str(self.path))[0])

    def memory_megabytes(self) -> float:
        """The most that the daemon ever had."""
        with open(f"/proc/{self.daemon}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

    def end(self) -> None:
        self.end_load()
        if self.caller is not None:
            try:
                self.stop()
            finally:
                self.caller.end()
                self.caller = None


def why_not(name: str) -> str:
    """Why there is no such peer here; empty: there is."""
    if name == "sshfs":
        return missing(program="sshfs") or missing(program="ssh-keygen") or _missing_sshd()
    return missing(program="rclone") if name == "rclone" else ""


def _missing_sshd() -> str:
    return "" if shutil.which("sshd") or os.path.exists("/usr/sbin/sshd") else "not installed: sshd (openssh-server)"


@contextlib.contextmanager
def lanes(folder: Path, url: str) -> Iterator[dict[str, Lane]]:
    """All that there are here, mounted."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Lane] = {}
        for lane in _made(folder, url):
            stack.callback(lane.end)
            lane.start()
            running[lane.name] = lane
        yield running


def _made(folder: Path, url: str) -> Iterator[Lane]:
    yield Ext4(folder / "ext4")
    if not why_not("sshfs"):
        yield Sshfs(folder)
    if not why_not("rclone"):
        yield Rclone(folder)
    yield Ours(folder, url, "NetworkFileSystem", "nfs")
    yield Ours(folder, url, "Volume", "volume")
