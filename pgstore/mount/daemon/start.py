"""The program of a daemon: `python -I -S start.py DESCRIPTOR`, started by `caller`.

It can import nothing of pgstore before it has been told where that is: the first message says it, which is read here by itself (see
`messages`). Modules of the standard library come first, whatever stands in the caller's path: files of a user's may have their
names.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

MAGIC = 0x50474D01  # that of `messages`


def main() -> None:
    descriptor = int(sys.argv[1])
    # What the caller's process has opened without O_CLOEXEC is none of ours.
    for number in os.listdir("/proc/self/fd"):
        if int(number) > 2 and int(number) != descriptor:
            try:
                os.close(int(number))
            except OSError:  # that by which the directory was listed
                continue
    os.set_inheritable(descriptor, False)
    length = int.from_bytes(_exactly(descriptor, 8)[4:], "big")
    told = json.loads(_exactly(descriptor, length))
    sys.path += [path for path in told["path"] if path not in sys.path]
    os.environ.clear()
    os.environ.update(told["environment"])

    try:
        from pgstore.mount.daemon.process import run

        run(descriptor, told)
    except BaseException:
        _say(descriptor, traceback.format_exc())
        raise


def _say(descriptor: int, text: str) -> None:
    """Have the caller log *text*: nobody reads what this process says on stderr."""
    data = json.dumps(["log", 40, "the daemon of mounts could not start: " + text]).encode()
    os.write(descriptor, MAGIC.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data)


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
