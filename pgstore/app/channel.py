"""Messages between a program and a worker: pickled tuples, each after its length, and descriptors where they are needed.

Both ends are processes of one user, one of which has started the other.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any, Final

HEADER: Final = struct.Struct("!Q")
_DESCRIPTORS_MAX: Final = 1
_PART_BYTES: Final = 1024 * 1024


class Closed(Exception):
    """The other side has gone."""


class Lost(Closed):
    """This side has: its descriptor is not there any more."""


def _closed(exc: OSError) -> Closed:
    return (Closed if isinstance(exc, ConnectionError) else Lost)(str(exc))


class Channel:
    """One end of a connection. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, *message: Any, descriptors: Sequence[int] = ()) -> None:
        """
        Raises:
            Closed: the other side has gone.
        """
        data = pickle.dumps(message, 5)
        try:
            with self._sending:
                if descriptors:
                    socket.send_fds(self._socket, [HEADER.pack(len(data))], descriptors)
                    self._socket.sendall(data)
                else:
                    self._socket.sendall(HEADER.pack(len(data)) + data)
        except OSError as exc:
            raise _closed(exc) from exc

    def receive(self) -> tuple[tuple[Any, ...], list[int]]:
        """
        The next message, and the descriptors that came with it.

        Raises:
            Closed: there is none.
        """
        try:
            header, descriptors, _, _ = socket.recv_fds(
                self._socket, HEADER.size, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
            )
            if not header:
                raise Closed("the other side has gone")
            header += self._exactly(HEADER.size - len(header))
            message = pickle.loads(self._exactly(*HEADER.unpack(header)))
        except OSError as exc:
            raise _closed(exc) from exc
        return message, list(descriptors)

    def _exactly(self, length: int) -> bytearray:
        data = bytearray()
        while len(data) < length:
            part = self._socket.recv(min(length - len(data), _PART_BYTES))
            if not part:
                raise Closed("the other side has gone")
            data += part
        return data

    def forget(self) -> None:
        """In a forked process: it is the parent's."""
        self._socket.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # closing alone would not wake who is receiving
        self._socket.close()


def of_descriptor(descriptor: int) -> Channel:
    os.set_inheritable(descriptor, False)
    return Channel(socket.socket(fileno=descriptor))
