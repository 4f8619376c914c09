"""The control socket of a daemon: a socket by which other processes of the same user ask for its mounts.

It stands in the user's runtime directory, which nobody else may enter; who comes is looked at nevertheless.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pgstore.mount import runtime
from pgstore.mount.daemon.messages import Closed, MessageSocket
from pgstore.mount.failures import rebuilt

_ANSWER_SECONDS: Final = 5.0
_PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid; see unix(7)


class ControlSocket:
    def __init__(self) -> None:
        self.path = path_of(os.getpid())
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()  # of a process that had our number
        with _short(self.path) as short:
            self.socket.bind(short)
        self.socket.listen(8)

    def accept(self) -> MessageSocket | None:
        """Whoever has come; None: they have gone, or are somebody else."""
        try:
            connection, _ = self.socket.accept()
        except OSError:
            return None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(credentials)
        if uid not in (0, os.getuid()):
            connection.close()
            return None
        return MessageSocket(connection)

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket.close()


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A path of the same file that is short enough for the address of a socket, which has 107 bytes at most."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def path_of(pid: int) -> Path:
    """Where the daemon that is process *pid* has its socket."""
    return runtime.directory() / f"{pid}{runtime.SOCKET_SUFFIX}"


def control_sockets() -> list[Path]:
    """The sockets of all daemons of this user, and of some that are gone."""
    return sorted(runtime.directory().glob(f"*{runtime.SOCKET_SUFFIX}"))


def ask(path: Path, verb: str, *arguments: Any, seconds: float | None = _ANSWER_SECONDS) -> Any:
    """
    What the daemon with the socket *path* answers. The socket of one that is gone is removed.

    Raises:
        Closed: it is gone, or does not answer within *seconds*.
        Exception: what the call has failed with.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    peer = MessageSocket(connection)
    try:
        try:
            with _short(path) as short:
                connection.connect(short)
        except (ConnectionRefusedError, FileNotFoundError) as exc:
            path.unlink(missing_ok=True)
            raise Closed("the daemon is gone") from exc
        except OSError as exc:
            raise Closed(str(exc)) from exc
        peer.send(["call", 0, verb, list(arguments)])
        (_, _, value, failure), _ = peer.receive()
        if failure is not None:
            raise rebuilt(failure)
        return value
    finally:
        peer.close()
