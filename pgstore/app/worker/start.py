"""The program of a worker: `python start.py DESCRIPTOR`, started by `runner.process`.

The first message, of plain values, says what its interpreter is to be like. Only then can it import anything of pgstore's.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys


def main() -> None:
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    signal.pthread_sigmask(
        signal.SIG_SETMASK, ()
    )  # whatever the thread has blocked that has started this process, or it ignores
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    channel = socket.socket(fileno=descriptor)
    length = int.from_bytes(channel.recv(8, socket.MSG_WAITALL), "big")
    told = (
        pickle.loads(channel.recv(length, socket.MSG_WAITALL))[0] if length else sys.exit(1)
    )  # nobody is there any more
    channel.detach()
    sys.path[:] = told["path"]
    sys.argv[:] = told["argv"]
    inherited = dict(os.environ)
    os.environ.update(told["environment"])

    from pgstore.app.worker.process import run

    run(descriptor, {name: (value, inherited.get(name)) for name, value in told["environment"].items()})


if __name__ == "__main__":
    main()
