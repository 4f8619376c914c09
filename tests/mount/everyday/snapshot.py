"""What stat(2) and read(2) tell of the directory that is given, and of all below it, as JSON."""

import base64
import hashlib
import json
import os
import stat
import sys


def of(path: bytes) -> list[object]:
    """Its kind, permissions, owner and group, time of its contents, how many names it has, and what is in it."""
    found = os.lstat(path)
    match stat.S_IFMT(found.st_mode):
        case stat.S_IFREG:
            with open(path, "rb") as file:
                inside = [found.st_size, hashlib.file_digest(file, "sha256").hexdigest()]
        case stat.S_IFLNK:
            inside = [found.st_size, base64.b64encode(os.readlink(path)).decode()]
        case _:
            inside = []
    kind = stat.filemode(found.st_mode)[0]
    links = found.st_nlink if kind != "d" else 1
    mode = stat.S_IMODE(found.st_mode)
    return [kind, mode, found.st_uid, found.st_gid, found.st_mtime_ns, links, *inside]


top = os.fsencode(sys.argv[1])
paths = [os.path.join(here, name) for here, directories, files in os.walk(top) for name in (*directories, *files)]
json.dump({os.fsdecode(os.path.relpath(path, top)): of(path) for path in paths}, sys.stdout)
