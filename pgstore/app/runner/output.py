"""What workers print: handed on to the program's own stdout and stderr in whole lines, so that workers do not mix theirs."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import sys
import termios
import threading
from typing import IO, Final

_PART_BYTES: Final = 256 * 1024
_LINE_BYTES_MAX: Final = 1024 * 1024  # of what is kept until it ends
_writing: Final = threading.RLock()


class Output:
    """What a worker writes to its *stream* ("stdout", "stderr"), which is a pipe."""

    def __init__(self, pipe: IO[bytes], stream: str) -> None:
        # What poll(2) has told of may have been drained since, for a message that it told of at the same time.
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._stream = stream
        self._rest = b""

    def fileno(self) -> int:
        return self._pipe.fileno()

    def read(self) -> bool:
        """Hand on what is there, if anything is. False: nobody can write any more."""
        try:
            data = os.read(self.fileno(), _PART_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        # A progress bar draws itself anew after a carriage return, and ends its line at the very end.
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end or len(self._rest) > _LINE_BYTES_MAX:
            _write(self._stream, self._rest + data[:end])
            self._rest = data[end:]
        else:
            self._rest += data
        return True

    def drain(self) -> None:
        """Hand on all that was written until now, the last line too, whether it has ended or not."""
        size = array.array("i", [0])
        fcntl.ioctl(self.fileno(), termios.FIONREAD, size)
        while size[0] > 0 and self.read():
            size[0] -= _PART_BYTES
        if self._rest:
            rest, self._rest = self._rest, b""
            _write(self._stream, rest)

    def close(self) -> None:
        self._pipe.close()


def _write(stream: str, data: bytes) -> None:
    """Write to what is `sys.stdout` or `sys.stderr` just now: a notebook, or a test, has put something else there."""
    file = getattr(sys, stream)
    # Where nobody reads any more, or it was closed, the program is told when it prints something itself.
    with contextlib.suppress(OSError, ValueError, AttributeError), _writing:
        if hasattr(file, "buffer"):
            file.flush()
            file.buffer.write(data)
        else:
            file.write(data.decode(errors="replace"))
        file.flush()
