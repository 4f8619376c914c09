"""A server for tests: made anew, forgetful, and gone with the program that asked for it, however that ends."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pgstore.embedded.identity import choose_identity
from pgstore.embedded.paths import Paths
from pgstore.embedded.server import Server

# Waits for the end of the program, which is that of its standard input; only after a kill is there anything left to do then.
_GUARD: Final = """
cat > /dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2> /dev/null) && kill -QUIT "$pid" && while kill -0 "$pid"; do sleep 0.1; done
rm -rf "$1" "$2"
"""


@contextlib.contextmanager
def throw_away_server() -> Iterator[str]:
    """
    The URL of a server for the length of the block, in a directory of its own below that of temporary files.

    Nothing waits for the disk. At the end of the block the server is gone, with all that was in it; as well where this process is
    killed.
    """
    directory = Path(tempfile.mkdtemp(prefix="pgstore-")).resolve()
    paths = Paths(directory)
    if choose_identity(paths.data).switched:
        directory.chmod(0o711)  # as `Paths.create` would have made it
    server = Server(directory, durable=False)
    command = ["/bin/sh", "-c", _GUARD, "sh", str(directory), str(paths.sockets)]
    # A session of its own: Ctrl-C is for the program.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    ):
        try:
            yield server.start()
        finally:
            server.stop(immediate=True)
