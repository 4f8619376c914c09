"""The FUSE protocol of Linux: the structures and numbers of it that a mount uses.

All are those of include/uapi/linux/fuse.h, by their names there without `fuse_` or `FUSE_`. Those up to 7.31 (Linux 5.4) are taken
for granted; what came later is used where the kernel offers it, up to 7.45 (Linux 6.18). Numbers lie as the machine has them.

Every request begins with `IN_HEADER`, every reply and notification with `OUT_HEADER`; what follows is said by the operation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

MAJOR: Final = 7
MINOR: Final = 45
MINOR_NEEDED: Final = 31

ROOT_ID: Final = 1  # of the directory that is mounted
PAGE: Final = 4096
DATA_BYTES_MAX: Final = (
    256 * PAGE
)  # of one READ or WRITE: the kernel's own limit, unless an administrator has changed it

_CODES: Final = {"u16": "H", "u32": "I", "i32": "i", "u64": "Q", "i64": "q"}
_WIDTHS: Final = {"u16": 2, "u32": 4, "i32": 4, "u64": 8, "i64": 8}


class Structure:
    """
    One of the protocol's structures, by its fields: `"u32 flags"`.

    Fields named padding, unused or spare are passed over: `pack` writes zeros there, `unpack_from` does not return them.
    """

    __slots__ = ("fields", "pack", "pack_into", "size", "unpack_from")

    def __init__(self, *fields: str) -> None:
        self.fields: tuple[str, ...] = fields
        packed = struct.Struct("=" + "".join(map(_code, fields)))
        self.size: int = packed.size
        self.pack: Callable[..., bytes] = packed.pack
        self.pack_into: Callable[..., None] = packed.pack_into
        self.unpack_from: Callable[..., tuple[Any, ...]] = packed.unpack_from


def _code(field: str) -> str:
    width, name = field.split()
    return f"{_WIDTHS[width]}x" if name.startswith(("padding", "unused", "spare")) else _CODES[width]


# ------------------------------------------------------------------------------------------------------- every message

IN_HEADER: Final = Structure(
    *("u32 len", "u32 opcode", "u64 unique", "u64 nodeid", "u32 uid", "u32 gid", "u32 pid"),
    *("u16 unused_total_extlen", "u16 padding"),
)
OUT_HEADER: Final = Structure("u32 len", "i32 error", "u64 unique")

# ------------------------------------------------------------------------------------------------------- what is asked

LOOKUP: Final = 1
FORGET: Final = 2  # without a reply
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
SYMLINK: Final = 6
MKNOD: Final = 8
MKDIR: Final = 9
UNLINK: Final = 10
RMDIR: Final = 11
RENAME: Final = 12
LINK: Final = 13
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
STATFS: Final = 17
RELEASE: Final = 18
FSYNC: Final = 20
SETXATTR: Final = 21
GETXATTR: Final = 22
LISTXATTR: Final = 23
REMOVEXATTR: Final = 24
FLUSH: Final = 25
INIT: Final = 26
OPENDIR: Final = 27
READDIR: Final = 28
RELEASEDIR: Final = 29
FSYNCDIR: Final = 30
SETLK: Final = 32
SETLKW: Final = 33  # waits for the lock
CREATE: Final = 35
INTERRUPT: Final = 36  # without a reply
DESTROY: Final = 38
BATCH_FORGET: Final = 42  # without a reply
FALLOCATE: Final = 43
READDIRPLUS: Final = 44
RENAME2: Final = 45
LSEEK: Final = 46
COPY_FILE_RANGE: Final = 47
SYNCFS: Final = 50
COPY_FILE_RANGE_64: Final = 53  # since 7.45

# ---------------------------------------------------------------------------------------------------------- beginning

INIT_IN: Final = Structure(
    "u32 major", "u32 minor", "u32 max_readahead", "u32 flags", "u32 flags2"
)  # more follows. Without INIT_EXT it ends before the last
INIT_OUT: Final = Structure(
    *("u32 major", "u32 minor", "u32 max_readahead", "u32 flags", "u16 max_background", "u16 congestion_threshold"),
    *("u32 max_write", "u32 time_gran", "u16 max_pages", "u16 map_alignment", "u32 flags2", "u32 max_stack_depth"),
    *(f"u32 unused{i}" for i in range(6)),
)

ASYNC_READ: Final = 1 << 0
ATOMIC_O_TRUNC: Final = 1 << 3
BIG_WRITES: Final = 1 << 5
FLOCK_LOCKS: Final = 1 << 10
DO_READDIRPLUS: Final = 1 << 13
READDIRPLUS_AUTO: Final = 1 << 14
ASYNC_DIO: Final = 1 << 15
PARALLEL_DIROPS: Final = 1 << 18
MAX_PAGES: Final = 1 << 22
CACHE_SYMLINKS: Final = 1 << 23
HANDLE_KILLPRIV_V2: Final = 1 << 28
INIT_EXT: Final = 1 << 30  # there are flags2, which begin with the 32nd bit
DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
PASSTHROUGH: Final = 1 << 37

# --------------------------------------------------------------------------------------------- attributes and names

_ATTR: Final = (
    *("u64 ino", "u64 size", "u64 blocks", "i64 atime", "i64 mtime", "i64 ctime"),
    *("u32 atimensec", "u32 mtimensec", "u32 ctimensec"),
    *("u32 mode", "u32 nlink", "u32 uid", "u32 gid", "u32 rdev", "u32 blksize", "u32 flags"),
)
_ENTRY: Final = (
    *("u64 nodeid", "u64 generation", "u64 entry_valid", "u64 attr_valid"),
    *("u32 entry_valid_nsec", "u32 attr_valid_nsec"),
    *_ATTR,
)
_DIRENT: Final = ("u64 ino", "u64 off", "u32 namelen", "u32 type")

ATTR_OUT: Final = Structure("u64 attr_valid", "u32 attr_valid_nsec", "u32 padding_dummy", *_ATTR)
ENTRY_OUT: Final = Structure(*_ENTRY)
DIRENT: Final = Structure(*_DIRENT)  # and the name, and zeros up to a multiple of 8 bytes
DIRENTPLUS: Final = Structure(*_ENTRY, *_DIRENT)  # likewise

GETATTR_IN: Final = Structure("u32 getattr_flags", "u32 padding_dummy", "u64 fh")
SETATTR_IN: Final = Structure(
    *("u32 valid", "u32 padding", "u64 fh", "u64 size", "u64 lock_owner", "i64 atime", "i64 mtime", "i64 ctime"),
    *("u32 atimensec", "u32 mtimensec", "u32 ctimensec", "u32 mode", "u32 unused4", "u32 uid", "u32 gid"),
    *("u32 unused5",),
)
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_KILL_SUIDGID: Final = 1 << 11

MKNOD_IN: Final = Structure("u32 mode", "u32 rdev", "u32 umask", "u32 padding")
MKDIR_IN: Final = Structure("u32 mode", "u32 umask")
RENAME_IN: Final = Structure("u64 newdir")
RENAME2_IN: Final = Structure("u64 newdir", "u32 flags", "u32 padding")
LINK_IN: Final = Structure("u64 oldnodeid")

SETXATTR_IN: Final = Structure("u32 size", "u32 flags")  # that of SETXATTR_EXT, which is not asked for, is longer
GETXATTR_IN: Final = Structure("u32 size", "u32 padding")
GETXATTR_OUT: Final = Structure("u32 size", "u32 padding")

# ------------------------------------------------------------------------------------------------------------- contents

OPEN_IN: Final = Structure("u32 flags", "u32 open_flags")
CREATE_IN: Final = Structure("u32 flags", "u32 mode", "u32 umask", "u32 open_flags")
OPEN_KILL_SUIDGID: Final = 1 << 0
OPEN_OUT: Final = Structure("u64 fh", "u32 open_flags", "i32 backing_id")
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7

READ_IN: Final = Structure(
    *("u64 fh", "u64 offset", "u32 size", "u32 read_flags", "u64 lock_owner", "u32 flags", "u32 padding"),
)
WRITE_IN: Final = Structure(
    *("u64 fh", "u64 offset", "u32 size", "u32 write_flags", "u64 lock_owner", "u32 flags", "u32 padding"),
)
WRITE_CACHE: Final = 1 << 0  # of a page that was mapped, through any open file
WRITE_KILL_SUIDGID: Final = 1 << 2
WRITE_OUT: Final = Structure("u32 size", "u32 padding")
FLUSH_IN: Final = Structure("u64 fh", "u32 unused", "u32 padding", "u64 lock_owner")
RELEASE_IN: Final = Structure("u64 fh", "u32 flags", "u32 release_flags", "u64 lock_owner")
FSYNC_IN: Final = Structure("u64 fh", "u32 fsync_flags", "u32 padding")
FALLOCATE_IN: Final = Structure("u64 fh", "u64 offset", "u64 length", "u32 mode", "u32 padding")
LSEEK_IN: Final = Structure("u64 fh", "u64 offset", "u32 whence", "u32 padding")
LSEEK_OUT: Final = Structure("u64 offset")
COPY_FILE_RANGE_IN: Final = Structure(
    *("u64 fh_in", "u64 off_in", "u64 nodeid_out", "u64 fh_out", "u64 off_out", "u64 len", "u64 flags"),
)
COPY_FILE_RANGE_OUT: Final = Structure("u64 bytes_copied")

LK_IN: Final = Structure(
    *("u64 fh", "u64 owner", "u64 start", "u64 end", "u32 type", "u32 pid", "u32 lk_flags", "u32 padding"),
)
LK_FLOCK: Final = 1 << 0
F_RDLCK: Final = 0  # the types, of include/uapi/asm-generic/fcntl.h
F_WRLCK: Final = 1
F_UNLCK: Final = 2

STATFS_OUT: Final = Structure(
    *("u64 blocks", "u64 bfree", "u64 bavail", "u64 files", "u64 ffree", "u32 bsize", "u32 namelen", "u32 frsize"),
    *("u32 padding", *(f"u32 spare{i}" for i in range(6))),
)

# ------------------------------------------------------------------------------------------------ beside requests

INTERRUPT_IN: Final = Structure("u64 unique")

NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3
NOTIFY_INC_EPOCH: Final = 8  # since 7.44: every name is looked up anew
NOTIFY_INVAL_INODE_OUT: Final = Structure("u64 ino", "i64 off", "i64 len")
NOTIFY_INVAL_ENTRY_OUT: Final = Structure("u64 parent", "u32 namelen", "u32 flags")  # and the name, and a NUL
MINOR_OF_INC_EPOCH: Final = 44

# ------------------------------------------------------------------------------------------------------- passthrough


def _written(number: int, size: int) -> int:
    """_IOW(229, *number*, …) of include/uapi/asm-generic/ioctl.h."""
    return 1 << 30 | size << 16 | 229 << 8 | number


BACKING_MAP: Final = Structure("i32 fd", "u32 flags", "u64 padding")
BACKING_ID_BYTES: Final = 4
DEV_IOC_BACKING_OPEN: Final = _written(1, BACKING_MAP.size)
DEV_IOC_BACKING_CLOSE: Final = _written(2, BACKING_ID_BYTES)
