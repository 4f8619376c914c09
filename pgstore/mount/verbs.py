"""What the kernel asks, as calls of `Files`: one method for each operation of the protocol, from its bytes to those of its reply.

A method returns the body of the reply, or raises. `NOW` has those that are tried first, by the thread that reads requests: they
return None if they might wait, and then the method of `SERVE` is called, by a thread that nobody waits for but the program that
asked.

The kernel has checked permissions (the mount option default_permissions) and what it knows of names and kinds. What is left to the
server: to whom something new belongs, which bits of a mode a write or a chown(2) takes away, and which extended attributes there
are.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pgstore.fs.model import DIRECTORY, SYMLINK
from pgstore.mount import kernel
from pgstore.mount.channel import BODY, Request
from pgstore.mount.listing import Listing
from pgstore.mount.protocol import AttributeChange, Attributes, Bytes, Files, Lock, Missing, OpenFile, Owner
from pgstore.mount.replies import KIND_OF_TYPE, Replies

Reply: TypeAlias = bytes | Sequence[Bytes]

NAME_BYTES_MAX: Final = 255  # NAME_MAX of Linux
_XATTR_NAMESPACES: Final = (b"user.", b"trusted.")
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_SECOND: Final = 1_000_000_000

# Where in a request the names begin, and in a WRITE the data.
_AFTER_MKNOD: Final = BODY + kernel.MKNOD_IN.size
_AFTER_MKDIR: Final = BODY + kernel.MKDIR_IN.size
_AFTER_RENAME: Final = BODY + kernel.RENAME_IN.size
_AFTER_RENAME2: Final = BODY + kernel.RENAME2_IN.size
_AFTER_LINK: Final = BODY + kernel.LINK_IN.size
_AFTER_CREATE: Final = BODY + kernel.CREATE_IN.size
_AFTER_SETXATTR: Final = BODY + kernel.SETXATTR_IN.size
_AFTER_GETXATTR: Final = BODY + kernel.GETXATTR_IN.size
_AFTER_WRITE: Final = BODY + kernel.WRITE_IN.size


class Verbs:
    """The operations on *files*. Called by several threads at once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._root = files.root
        self._replies = Replies(files.root)
        self._handles = itertools.count(1)
        self._open: dict[int, OpenFile] = {}
        self._listings: dict[int, Listing] = {}
        self.may_be_direct = False
        """Whether the kernel maps files that are open without pages of its own."""

    def undo_open(self, request: Request, reply: Reply) -> None:
        """Nobody has got the *reply* to *request*: close again what it has opened, since nobody will."""
        if request.opcode in (kernel.OPEN, kernel.CREATE, kernel.OPENDIR) and isinstance(reply, bytes):
            handle, *_ = kernel.OPEN_OUT.unpack_from(reply, len(reply) - kernel.OPEN_OUT.size)
            self.close(handle)

    def note_change(self, request: Request) -> None:
        """What *request*, one of `CHANGING`, has asked for was done."""
        changes = self._files.changes
        if request.opcode in _CHANGING_OTHERS:
            changes.note_all()
        else:
            changes.note(self._ino(request.node))

    def handles(self) -> list[int]:
        """All that is open. An unmount drops what the kernel had to say about them."""
        return [*self._open, *self._listings]

    def close(self, handle: int) -> None:
        self._listings.pop(handle, None)
        if file := self._open.pop(handle, None):
            file.release()

    def abandon(self, handle: int) -> None:
        """Nobody will close it any more."""
        self._listings.pop(handle, None)
        if file := self._open.pop(handle, None):
            file.abandon()

    # -------------------------------------------------------------------------------------------- names and attributes

    def look_up_now(self, r: Request) -> Reply | None:
        name = r.rest(BODY)
        if len(name) > NAME_BYTES_MAX:  # the kernel allows 1024, and looks up what it is to make
            raise OSError(errno.ENAMETOOLONG, "name too long")
        directory = self._ino(r.node)
        found = self._files.look_up_now(directory, name)
        return None if found is None else self._looked_up(directory, found)

    def look_up(self, r: Request) -> Reply:
        directory = self._ino(r.node)
        return self._looked_up(directory, self._files.look_up(directory, r.rest(BODY)))

    def _looked_up(self, directory: int, found: Attributes | Missing) -> Reply:
        caching = self._files.caching
        if isinstance(found, Attributes):
            listed = self._files.listed
            if listed is not None and directory in listed:  # the kernel has lost what it has told of
                listed.forget([directory])
            return self._replies.entry(found, caching)
        if not (missing := self._replies.missing(caching)):
            raise OSError(errno.ENOENT, "no such name")
        return missing

    def get_attributes_now(self, r: Request) -> Reply | None:
        try:
            found = self._files.attributes_now(self._ino(r.node))
        except OSError:  # a directory that is removed, and open
            return None
        return None if found is None else self._replies.attributes(found, self._files.caching)

    def get_attributes(self, r: Request) -> Reply:
        ino = self._ino(r.node)
        try:
            found = self._files.attributes(ino)
        except OSError as exc:
            if exc.errno not in (errno.ESTALE, errno.ENOENT) or (removed := self._removed_directory(ino)) is None:
                raise
            found = removed
        return self._replies.attributes(found, self._files.caching)

    def _removed_directory(self, ino: int) -> Attributes | None:
        """What was known of a directory that a program has open still. `Files` need not keep it, as it keeps files."""
        for listing in [*self._listings.values()]:
            if listing.attributes.ino == ino:
                return listing.attributes._replace(link_count=0)
        return None

    def set_attributes_now(self, r: Request) -> Reply | None:
        fields = kernel.SETATTR_IN.unpack_from(r.buffer, BODY)
        if fields[0] & _NOT_AT_ONCE:
            return None
        change = self._change(fields)
        if change == _AS_IT_WAS:
            return None
        found = self._files.set_attributes_now(self._ino(r.node), change)
        if found is not None:
            self._note_mode(found)
        return None if found is None else self._replies.attributes(found, self._files.caching)

    def set_attributes(self, r: Request) -> Reply:
        fields = kernel.SETATTR_IN.unpack_from(r.buffer, BODY)
        valid, handle, size = fields[:3]
        ino = self._ino(r.node)
        found: Attributes | None = None
        if valid & kernel.FATTR_SIZE:
            file = self._open.get(handle) if valid & kernel.FATTR_FH else None
            found = self._files.truncate(ino, size, file)
        change = self._change(fields)
        # A chown(2) that leaves both owners as they were comes without any of these, and takes the bits away all the same.
        chowns = valid & (kernel.FATTR_UID | kernel.FATTR_GID) or not valid & ~(kernel.FATTR_FH | _LOCK_OWNER)
        if change.mode is None and (chowns or valid & kernel.FATTR_KILL_SUIDGID):
            found = found or self._files.attributes(ino)
            change = change._replace(mode=_less_privileged(found))
        if found is None or change != _AS_IT_WAS:
            found = self._files.set_attributes(ino, change)
            self._note_mode(found)
        return self._replies.attributes(found, self._files.caching)

    def _note_mode(self, found: Attributes) -> None:
        if found.mode & _PRIVILEGES:
            for file in [*self._open.values()]:
                if file.ino == found.ino:
                    file.has_no_privileges = False

    @staticmethod
    def _change(fields: tuple[int, ...]) -> AttributeChange:
        valid, _, _, _owner, atime, mtime, _ctime, atime_ns, mtime_ns, _ctime_ns, mode, uid, gid = fields
        now = time.time_ns() if valid & (kernel.FATTR_ATIME_NOW | kernel.FATTR_MTIME_NOW) else 0
        return AttributeChange(
            mode=mode & 0o7777 if valid & kernel.FATTR_MODE else None,
            uid=uid if valid & kernel.FATTR_UID else None,
            gid=gid if valid & kernel.FATTR_GID else None,
            atime_ns=_time(valid, kernel.FATTR_ATIME_NOW, kernel.FATTR_ATIME, now, atime * _SECOND + atime_ns),
            mtime_ns=_time(valid, kernel.FATTR_MTIME_NOW, kernel.FATTR_MTIME, now, mtime * _SECOND + mtime_ns),
        )

    def file_system(self, r: Request) -> Reply:
        found = self._files.statistics()
        free = found.blocks_free
        return kernel.STATFS_OUT.pack(
            *(found.blocks, free, free, found.inodes, found.inodes_free),
            *(found.block_bytes, NAME_BYTES_MAX, found.block_bytes),
        )

    # --------------------------------------------------------------------------------------------------------- making

    def make_node(self, r: Request) -> Reply:
        mode, device, _umask = kernel.MKNOD_IN.unpack_from(r.buffer, BODY)
        kind = KIND_OF_TYPE.get(stat.S_IFMT(mode) or stat.S_IFREG)
        if kind is None or kind in (DIRECTORY, SYMLINK):
            raise OSError(errno.EINVAL, "not a kind that mknod(2) makes")
        return self._make(r, r.rest(_AFTER_MKNOD), kind, mode & 0o7777, device)

    def make_directory(self, r: Request) -> Reply:
        mode, _umask = kernel.MKDIR_IN.unpack_from(r.buffer, BODY)
        return self._make(r, r.rest(_AFTER_MKDIR), DIRECTORY, mode & 0o7777, 0)

    def make_directory_now(self, r: Request) -> Reply | None:
        mode, _umask = kernel.MKDIR_IN.unpack_from(r.buffer, BODY)
        directory = self._ino(r.node)
        above = self._files.attributes_now(directory)
        if above is None:
            return None
        owner, inherited = _owner_of_new(r, above)
        made = self._files.make_now(directory, r.rest(_AFTER_MKDIR), DIRECTORY, mode & 0o7777 | inherited, owner)
        return None if made is None else self._replies.entry(made, self._files.caching)

    def _make(self, r: Request, name: bytes, kind: str, mode: int, device: int) -> Reply:
        directory = self._ino(r.node)
        owner, inherited = self._owner(r, directory)
        if kind == DIRECTORY:
            mode |= inherited
        made = self._files.make(directory, name, kind, mode, owner, device)
        return self._replies.entry(made, self._files.caching)

    def make_symbolic_link(self, r: Request) -> Reply:
        name, target = r.names(BODY)
        directory = self._ino(r.node)
        owner, _ = self._owner(r, directory)
        made = self._files.make_symbolic_link(directory, name, target, owner)
        return self._replies.entry(made, self._files.caching)

    def read_link(self, r: Request) -> Reply:
        return self._files.read_link(self._ino(r.node))

    def link(self, r: Request) -> Reply:
        (node,) = kernel.LINK_IN.unpack_from(r.buffer, BODY)
        linked = self._files.link(self._ino(node), self._ino(r.node), r.rest(_AFTER_LINK))
        return self._replies.entry(linked, self._files.caching)

    def remove_now(self, r: Request) -> Reply | None:
        return () if self._files.remove_now(self._ino(r.node), r.rest(BODY)) else None

    def remove(self, r: Request) -> Reply:
        self._files.remove(self._ino(r.node), r.rest(BODY))
        return ()

    def remove_directory(self, r: Request) -> Reply:
        self._files.remove_directory(self._ino(r.node), r.rest(BODY))
        return ()

    def rename_now(self, r: Request) -> Reply | None:
        (to,) = kernel.RENAME_IN.unpack_from(r.buffer, BODY)
        name, to_name = r.names(_AFTER_RENAME)
        return () if self._files.rename_now(self._ino(r.node), name, self._ino(to), to_name, 0) else None

    def rename(self, r: Request) -> Reply:
        (to,) = kernel.RENAME_IN.unpack_from(r.buffer, BODY)
        name, to_name = r.names(_AFTER_RENAME)
        self._files.rename(self._ino(r.node), name, self._ino(to), to_name, 0)
        return ()

    def rename_with_flags(self, r: Request) -> Reply:
        to, flags = kernel.RENAME2_IN.unpack_from(r.buffer, BODY)
        name, to_name = r.names(_AFTER_RENAME2)
        if flags not in (0, _RENAME_NOREPLACE, _RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, "flags of renameat2(2) that are not known here")
        self._files.rename(self._ino(r.node), name, self._ino(to), to_name, flags)
        return ()

    def _owner(self, r: Request, directory: int) -> tuple[Owner, int]:
        """Whom something new in *directory* belongs to, and the bits that a new directory has of it (inode(7), S_ISGID)."""
        return _owner_of_new(r, self._files.directory_of_new(directory))

    # -------------------------------------------------------------------------------------------- extended attributes

    def get_extended_attribute_now(self, r: Request) -> Reply | None:
        _check_namespace(r.rest(_AFTER_GETXATTR))  # for each program that is run the kernel asks for its capabilities
        return None

    def get_extended_attribute(self, r: Request) -> Reply:
        (size,) = kernel.GETXATTR_IN.unpack_from(r.buffer, BODY)
        name = r.rest(_AFTER_GETXATTR)
        _check_namespace(name)
        value = self._files.extended_attributes(self._ino(r.node)).get(name)
        if value is None:
            raise OSError(errno.ENODATA, "no such extended attribute")
        return _sized(value, size)

    def list_extended_attributes(self, r: Request) -> Reply:
        (size,) = kernel.GETXATTR_IN.unpack_from(r.buffer, BODY)
        names = self._files.extended_attributes(self._ino(r.node))
        return _sized(b"".join(name + b"\0" for name in sorted(names)), size)

    def set_extended_attribute(self, r: Request) -> Reply:
        size, flags = kernel.SETXATTR_IN.unpack_from(r.buffer, BODY)
        end = r.buffer.index(0, _AFTER_SETXATTR)
        name = bytes(r.view[_AFTER_SETXATTR:end])
        _check_namespace(name)
        self._files.set_extended_attribute(self._ino(r.node), name, bytes(r.view[end + 1 : end + 1 + size]), flags)
        return ()

    def remove_extended_attribute(self, r: Request) -> Reply:
        name = r.rest(BODY)
        _check_namespace(name)
        self._files.set_extended_attribute(self._ino(r.node), name, None, 0)
        return ()

    # ------------------------------------------------------------------------------------------------------- contents

    def open_now(self, r: Request) -> Reply | None:
        flags, kills = kernel.OPEN_IN.unpack_from(r.buffer, BODY)
        file = None if kills & kernel.OPEN_KILL_SUIDGID else self._files.open_now(self._ino(r.node), flags)
        return None if file is None else self._opened(file, flags, r)

    def open(self, r: Request) -> Reply:
        flags, kills = kernel.OPEN_IN.unpack_from(r.buffer, BODY)
        ino = self._ino(r.node)
        file = self._files.open(ino, flags)
        if kills & kernel.OPEN_KILL_SUIDGID:
            try:
                self._take_privileges(ino)
            except BaseException:
                file.release()
                raise
        return self._opened(file, flags, r)

    def create_now(self, r: Request) -> Reply | None:
        flags, mode, _umask, _kills = kernel.CREATE_IN.unpack_from(r.buffer, BODY)
        directory = self._ino(r.node)
        above = self._files.attributes_now(directory)
        if above is None:
            return None
        owner, _ = _owner_of_new(r, above)
        created = self._files.create_now(directory, r.rest(_AFTER_CREATE), mode & 0o7777, flags, owner)
        if created is None:
            return None
        made, file = created
        return self._replies.entry(made, self._files.caching) + self._opened(file, flags, r)

    def create(self, r: Request) -> Reply:
        flags, mode, _umask, _kills = kernel.CREATE_IN.unpack_from(r.buffer, BODY)
        directory = self._ino(r.node)
        owner, _ = self._owner(r, directory)
        made, file = self._files.create(directory, r.rest(_AFTER_CREATE), mode & 0o7777, flags, owner)
        return self._replies.entry(made, self._files.caching) + self._opened(file, flags, r)

    def _opened(self, file: OpenFile, flags: int, r: Request) -> bytes:
        file.opened_by(r.pid)
        if flags & os.O_TRUNC or file.backing:  # from now on what was listed of it before is wrong
            self._files.changes.note(file.ino)
        handle = next(self._handles)
        self._open[handle] = file
        how = 0 if file.needs_flush else kernel.FOPEN_NOFLUSH
        if file.backing:  # which goes with no other flag but this one
            return kernel.OPEN_OUT.pack(handle, how | kernel.FOPEN_PASSTHROUGH, file.backing)
        if file.keep_cache:
            how |= kernel.FOPEN_KEEP_CACHE
        if file.is_direct and self.may_be_direct:
            how |= kernel.FOPEN_DIRECT_IO
        return kernel.OPEN_OUT.pack(handle, how, 0)

    def read_now(self, r: Request) -> Reply | None:
        handle, offset, size, _, _, _ = kernel.READ_IN.unpack_from(r.buffer, BODY)
        return self._open[handle].read_now(offset, size)

    def read(self, r: Request) -> Reply:
        handle, offset, size, _, _, _ = kernel.READ_IN.unpack_from(r.buffer, BODY)
        return self._open[handle].read(offset, size)

    def write_now(self, r: Request) -> Reply | None:
        handle, offset, size, flags, _, _ = kernel.WRITE_IN.unpack_from(r.buffer, BODY)
        file = self._open[handle]
        if flags & kernel.WRITE_KILL_SUIDGID and not file.has_no_privileges:  # of each write by anybody but root
            # Before it is asked: a chmod(2) that comes meanwhile says that it may have some.
            file.has_no_privileges = True
            found = self._files.attributes_now(self._ino(r.node))
            if found is None or found.mode & _PRIVILEGES:
                file.has_no_privileges = False
                return None
        write = file.write_back_now if flags & kernel.WRITE_CACHE else file.write_now
        done = write(offset, r.view[_AFTER_WRITE : _AFTER_WRITE + size])
        return kernel.WRITE_OUT.pack(size) if done else None

    def write(self, r: Request) -> Reply:
        handle, offset, size, flags, _, _ = kernel.WRITE_IN.unpack_from(r.buffer, BODY)
        file = self._open[handle]
        if flags & kernel.WRITE_KILL_SUIDGID and not file.has_no_privileges:
            file.has_no_privileges = True
            try:
                self._take_privileges(self._ino(r.node))
            except BaseException:
                file.has_no_privileges = False
                raise
        if file.notes_writers:
            file.written_by(r.pid)
        write = file.write_back if flags & kernel.WRITE_CACHE else file.write
        write(offset, r.view[_AFTER_WRITE : _AFTER_WRITE + size])
        return kernel.WRITE_OUT.pack(size)

    def allocate(self, r: Request) -> Reply:
        handle, offset, length, mode = kernel.FALLOCATE_IN.unpack_from(r.buffer, BODY)
        self._open[handle].allocate(mode, offset, length)
        return ()

    def seek(self, r: Request) -> Reply:
        handle, offset, whence = kernel.LSEEK_IN.unpack_from(r.buffer, BODY)
        return kernel.LSEEK_OUT.pack(self._open[handle].seek(offset, whence))

    def copy(self, r: Request) -> Reply:
        return kernel.WRITE_OUT.pack(self._copied(r))

    def copy_long(self, r: Request) -> Reply:
        return kernel.COPY_FILE_RANGE_OUT.pack(self._copied(r))

    def _copied(self, r: Request) -> int:
        handle, offset, _, target, target_offset, length, _ = kernel.COPY_FILE_RANGE_IN.unpack_from(r.buffer, BODY)
        return self._open[handle].copy_to(offset, self._open[target], target_offset, length)

    def flush_now(self, r: Request) -> Reply | None:
        handle, _ = kernel.FLUSH_IN.unpack_from(r.buffer, BODY)
        return () if self._open[handle].flush_now() else None

    def flush(self, r: Request) -> Reply:
        handle, _ = kernel.FLUSH_IN.unpack_from(r.buffer, BODY)
        self._open[handle].flush_by(r.pid)
        return ()

    def lock(self, r: Request, given_up: threading.Event | None = None) -> Reply:
        """flock(2); until *given_up* is set it waits for who has the lock."""
        handle, _owner, _start, _end, kind, _pid, flags = kernel.LK_IN.unpack_from(r.buffer, BODY)
        if not flags & kernel.LK_FLOCK:
            raise OSError(errno.EINVAL, "locks of parts of files are the kernel's")
        if not self._open[handle].lock(_LOCKS[kind], given_up):
            raise OSError(errno.EINTR if given_up else errno.EAGAIN, "others have the lock")
        return ()

    def sync(self, r: Request) -> Reply:
        handle, _ = kernel.FSYNC_IN.unpack_from(r.buffer, BODY)
        self._open[handle].sync()
        return ()

    def sync_all(self, r: Request) -> Reply:
        self._files.sync()
        return ()

    def release_now(self, r: Request) -> Reply | None:
        (handle, *_) = kernel.RELEASE_IN.unpack_from(r.buffer, BODY)
        if not self._open[handle].release_now():
            return None
        del self._open[handle]
        return ()

    def release(self, r: Request) -> Reply:
        (handle, *_) = kernel.RELEASE_IN.unpack_from(r.buffer, BODY)
        self.close(handle)
        return ()

    def _take_privileges(self, ino: int) -> None:
        found = self._files.attributes(ino)
        if found.mode != (mode := _less_privileged(found)):
            self._files.set_attributes(ino, AttributeChange(mode=mode))

    # ----------------------------------------------------------------------------------------------------- directories

    def open_directory_now(self, r: Request) -> Reply | None:
        found = self._files.opened_directory_now(self._ino(r.node))
        return None if found is None else self._opened_directory(found)

    def open_directory(self, r: Request) -> Reply:
        return self._opened_directory(self._files.opened_directory(self._ino(r.node)))

    def _opened_directory(self, attributes: Attributes) -> Reply:
        handle = next(self._handles)
        self._listings[handle] = Listing(self._files, attributes, self._replies)
        return kernel.OPEN_OUT.pack(handle, self._of_listing(attributes), 0)

    def _of_listing(self, attributes: Attributes) -> int:
        """The flags of a directory that is opened: what becomes of what the kernel has listed of it."""
        listed, caching = self._files.listed, self._files.caching
        if listed is None or not caching.listings:
            return 0
        state = attributes.mtime_ns, attributes.ctime_ns
        if listed.open(attributes.ino, state, min(caching.names, caching.attributes)):
            return kernel.FOPEN_CACHE_DIR | kernel.FOPEN_KEEP_CACHE
        return kernel.FOPEN_CACHE_DIR

    def read_directory_now(self, r: Request) -> Reply | None:
        handle, cookie, size, _, _, _ = kernel.READ_IN.unpack_from(r.buffer, BODY)
        return self._listings[handle].read_now(cookie, size, plus=r.opcode == kernel.READDIRPLUS)

    def read_directory(self, r: Request) -> Reply:
        handle, cookie, size, _, _, _ = kernel.READ_IN.unpack_from(r.buffer, BODY)
        return self._listings[handle].read(cookie, size, plus=r.opcode == kernel.READDIRPLUS)

    def _ino(self, node: int) -> int:
        return self._root if node == kernel.ROOT_ID else node


# By opcode. What is in neither is answered with ENOSYS, and then the kernel does without, for good: ACCESS (it checks itself),
# GETLK (it keeps locks of parts of files itself), IOCTL, POLL, BMAP, TMPFILE.
NOW: Final[dict[int, Callable[[Verbs, Request], Reply | None]]] = {
    kernel.LOOKUP: Verbs.look_up_now,
    kernel.GETATTR: Verbs.get_attributes_now,
    kernel.SETATTR: Verbs.set_attributes_now,
    kernel.MKDIR: Verbs.make_directory_now,
    kernel.UNLINK: Verbs.remove_now,
    kernel.RENAME: Verbs.rename_now,
    kernel.OPEN: Verbs.open_now,
    kernel.CREATE: Verbs.create_now,
    kernel.FLUSH: Verbs.flush_now,
    kernel.RELEASE: Verbs.release_now,
    kernel.GETXATTR: Verbs.get_extended_attribute_now,
    kernel.READ: Verbs.read_now,
    kernel.WRITE: Verbs.write_now,
    kernel.OPENDIR: Verbs.open_directory_now,
    kernel.READDIR: Verbs.read_directory_now,
    kernel.READDIRPLUS: Verbs.read_directory_now,
    kernel.RELEASEDIR: Verbs.release,
}
SERVE: Final[dict[int, Callable[[Verbs, Request], Reply]]] = {
    kernel.LOOKUP: Verbs.look_up,
    kernel.GETATTR: Verbs.get_attributes,
    kernel.SETATTR: Verbs.set_attributes,
    kernel.STATFS: Verbs.file_system,
    kernel.MKNOD: Verbs.make_node,
    kernel.MKDIR: Verbs.make_directory,
    kernel.SYMLINK: Verbs.make_symbolic_link,
    kernel.READLINK: Verbs.read_link,
    kernel.LINK: Verbs.link,
    kernel.UNLINK: Verbs.remove,
    kernel.RMDIR: Verbs.remove_directory,
    kernel.RENAME: Verbs.rename,
    kernel.RENAME2: Verbs.rename_with_flags,
    kernel.GETXATTR: Verbs.get_extended_attribute,
    kernel.LISTXATTR: Verbs.list_extended_attributes,
    kernel.SETXATTR: Verbs.set_extended_attribute,
    kernel.REMOVEXATTR: Verbs.remove_extended_attribute,
    kernel.OPEN: Verbs.open,
    kernel.CREATE: Verbs.create,
    kernel.READ: Verbs.read,
    kernel.WRITE: Verbs.write,
    kernel.FALLOCATE: Verbs.allocate,
    kernel.LSEEK: Verbs.seek,
    kernel.COPY_FILE_RANGE: Verbs.copy,
    kernel.COPY_FILE_RANGE_64: Verbs.copy_long,
    kernel.FLUSH: Verbs.flush,
    kernel.FSYNC: Verbs.sync,
    kernel.FSYNCDIR: Verbs.sync_all,
    kernel.SETLK: Verbs.lock,
    kernel.SYNCFS: Verbs.sync_all,
    kernel.RELEASE: Verbs.release,
    kernel.OPENDIR: Verbs.open_directory,
    kernel.READDIR: Verbs.read_directory,
    kernel.READDIRPLUS: Verbs.read_directory,
}

# After these attributes may be others than before.
CHANGING: Final = frozenset(
    (
        *(kernel.SETATTR, kernel.WRITE, kernel.FALLOCATE, kernel.COPY_FILE_RANGE, kernel.COPY_FILE_RANGE_64),
        *(kernel.CREATE, kernel.MKNOD, kernel.MKDIR, kernel.SYMLINK, kernel.LINK, kernel.UNLINK),
        *(kernel.RMDIR, kernel.RENAME, kernel.RENAME2, kernel.SETXATTR, kernel.REMOVEXATTR),
    )
)

# And not only those of the inode that is named: something may have got, or lost, a name, or been written to.
_CHANGING_OTHERS: Final = frozenset(
    (kernel.LINK, kernel.UNLINK, kernel.RENAME, kernel.RENAME2, kernel.COPY_FILE_RANGE, kernel.COPY_FILE_RANGE_64)
)

_LOCKS: Final = {kernel.F_RDLCK: Lock.SHARED, kernel.F_WRLCK: Lock.EXCLUSIVE, kernel.F_UNLCK: Lock.NONE}
_PRIVILEGES: Final = stat.S_ISUID | stat.S_ISGID
_AS_IT_WAS: Final = AttributeChange()
_LOCK_OWNER: Final = 1 << 9  # FATTR_LOCKOWNER
# What takes several steps.
_NOT_AT_ONCE: Final = kernel.FATTR_SIZE | kernel.FATTR_KILL_SUIDGID | kernel.FATTR_UID | kernel.FATTR_GID


def _owner_of_new(r: Request, above: Attributes) -> tuple[Owner, int]:
    if above.mode & stat.S_ISGID:
        return Owner(r.uid, above.gid), stat.S_ISGID
    return Owner(r.uid, r.gid), 0


def _less_privileged(found: Attributes) -> int:
    """
    The mode without what a write, a truncation or a chown(2) takes away: S_ISUID, and S_ISGID if the group may execute.

    Else S_ISGID means mandatory locking, and stays (chown(2); HANDLE_KILLPRIV_V2 of the protocol).
    """
    mode = found.mode
    if found.kind == DIRECTORY:
        return mode
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


def _time(valid: int, now_flag: int, flag: int, now: int, given: int) -> int | None:
    if valid & now_flag:
        return now
    return given if valid & flag else None


def _check_namespace(name: bytes) -> None:
    if not name.startswith(_XATTR_NAMESPACES):
        raise OSError(errno.EOPNOTSUPP, "extended attributes are user.* and trusted.* here")


def _sized(value: bytes, size: int) -> bytes:
    """The answer to one who has room for *size* bytes; 0: who asks how much it takes (getxattr(2))."""
    if size == 0:
        return kernel.GETXATTR_OUT.pack(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, "the value is longer than the room for it")
    return value
