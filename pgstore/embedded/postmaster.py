"""What a server's files tell of its first process, the postmaster, and how much of that is true.

The pid file outlives a killed postmaster, and its process id may by then be another program's: nothing is done to a process
before its command line has been compared.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from pgstore.embedded.paths import SOCKET, Paths

CONNECT_SECONDS_MAX = 10


class Postmaster:
    """The postmaster on the data directory of *paths*, if there is one."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def pid(self) -> int | None:
        """Return the process id of the running postmaster, never that of another process."""
        pid = self._recorded_pid()
        return pid if pid is not None and self._is_ours(pid) else None

    def stage(self) -> str | None:
        """Return how far the server has come, by its pid file: starting, ready or stopping."""
        lines = self._pid_file()
        return lines[7].strip() if len(lines) > 7 else None

    def is_listening(self) -> bool:
        """Whether a postmaster has our socket open: true from early in its start, false at once when it is killed."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CONNECT_SECONDS_MAX)
            try:
                probe.connect(os.fsencode(self._paths.sockets / SOCKET))
            except OSError:
                return False
        return True

    def binaries_last_used(self) -> Path | None:
        try:
            command = (self._paths.data / "postmaster.opts").read_text(errors="replace")
        except (FileNotFoundError, PermissionError):
            return None
        # The program as it is, then each argument in quotes that quote nothing: not a line for a shell.
        return Path(command.partition(' "')[0].strip()).parent

    def discard_stale_files(self) -> None:
        """
        Remove what a killed server left and a new one would trip over; for the holder of the server lock.

        Postgres takes a pid file for valid if any process has that id now, which is likely after a reboot and in a
        container. Otherwise the file stays: it names shared memory that Postgres removes at its next start.
        """
        for name in (SOCKET, f"{SOCKET}.lock"):
            (self._paths.sockets / name).unlink(missing_ok=True)
        pid = self._recorded_pid()
        if pid is not None and _may_be_signalled(pid) and not self._is_ours(pid):
            (self._paths.data / "postmaster.pid").unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        arguments = _command_line(pid)
        return bool(arguments) and arguments[0].endswith(b"postgres") and os.fsencode(self._paths.data) in arguments

    def _recorded_pid(self) -> int | None:
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].strip().isdigit() else None

    def _pid_file(self) -> list[str]:
        try:
            return (self._paths.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except (FileNotFoundError, PermissionError):
            return []


def _may_be_signalled(pid: int) -> bool:
    """Whether *pid* is alive by the measure of Postgres, for which a process of somebody else is none."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _command_line(pid: int) -> list[bytes]:
    """Return the arguments of a process; empty if it is gone, a zombie, or hidden."""
    if os.path.exists("/proc/self/cmdline"):
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return []
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    said = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    return said.stdout.split()
