"""Messages between a daemon and those who ask it: a header, then JSON. JSON, since what it loads can do nothing.

The header is a magic number with the version of this format, and the number of bytes that follow. Descriptors come with the header.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any, Final

MAGIC: Final = 0x50474D01  # "PGM", and the version
HEADER: Final = struct.Struct("!II")
BYTES_MAX: Final = 64 * 1024 * 1024
DESCRIPTORS_MAX: Final = 4


class Closed(Exception):
    """The other side has gone, or speaks something else."""


class MessageSocket:
    """One end of a connection. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any, descriptors: Sequence[int] = ()) -> None:
        """
        Raises:
            Closed: the other side has gone.
        """
        data = json.dumps(message).encode()
        header = HEADER.pack(MAGIC, len(data))
        try:
            with self._sending:
                if descriptors:
                    socket.send_fds(self._socket, [header], descriptors)
                    self._socket.sendall(data)
                else:
                    self._socket.sendall(header + data)
        except OSError as exc:
            raise Closed(str(exc)) from exc

    def receive(self) -> tuple[Any, list[int]]:
        """
        The next message, and the descriptors that came with it.

        Raises:
            Closed: there is none.
        """
        descriptors: list[int] = []
        try:
            header, descriptors, _, _ = socket.recv_fds(self._socket, HEADER.size, DESCRIPTORS_MAX)
            header += self._exactly(HEADER.size - len(header))
            magic, length = HEADER.unpack(header)
            if magic != MAGIC or length > BYTES_MAX:
                raise Closed("what comes is not of this version")
            message = json.loads(self._exactly(length))
        except (Closed, OSError, ValueError) as exc:
            for descriptor in descriptors:
                os.close(descriptor)
            raise exc if isinstance(exc, Closed) else Closed(str(exc)) from exc
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return message, descriptors

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            part = self._socket.recv(min(length, 1024 * 1024))
            if not part:
                raise Closed("the other side has gone")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        # Closing alone would not wake who is receiving.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def forget(self) -> None:
        """Close this process's descriptor, and leave the connection to others: after a fork."""
        self._socket.close()
