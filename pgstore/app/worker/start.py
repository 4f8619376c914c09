"""The program of a worker: `python start.py DESCRIPTOR`, started by `runner.process`.

The first message, of plain values, says what its interpreter is to be like. Only then can it import anything of pgstore's.
"""

from __future__ import annotations

import os
import pickle
import sys


def main() -> None:
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    told = pickle.loads(_exactly(descriptor, int.from_bytes(_exactly(descriptor, 8), "big")))[0]
    sys.path[:] = told["path"]
    sys.argv[:] = told["argv"]
    os.environ.update(told["environment"])

    from pgstore.app.worker.process import run

    run(descriptor)


def _exactly(descriptor: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = os.read(descriptor, length - len(data))
        if not part:
            sys.exit(1)
        data += part
    return data


if __name__ == "__main__":
    main()
