"""Mounts: the files of a Volume or NetworkFileSystem for any program, through the kernel.

- `protocol` says what a mount serves: `Files`, verbs on inode numbers and names, without paths and without a kernel.
- `backends` are these for a NetworkFileSystem and a Volume; `contents` has the bytes of their files, read ahead and staged.
- `kernel` has the structures and numbers of Linux' FUSE protocol, `channel` reads and writes them.
- `verbs` turns what the kernel asks into calls of `Files`, with `listing` for open directories and `replies` for attributes.
- `serve` has the threads: who reads, who answers. `notifier` tells the kernel what others have changed.
- `attach` mounts and unmounts, `mount_table` reads what is mounted where, `namespace` lets users mount without help.
- `mount` is what `Volume.mount` returns, `mounting` makes it, `options` is what it was given.
- `with_fuse` mounts through the `daemon`, a process that serves all mounts of the one that has started it.
- `without_fuse` mounts where FUSE cannot be used, by copying; `sync` does that.
- `runtime` notes what this user has mounted, `stale` clears up after a process that is gone, `recovery` keeps the bytes that could
  not be committed. `failures` are errors as plain values.

What programs see, whichever files are mounted. Where a verb fails as POSIX says, its page says with what:

================================  ==================================================================================================
verb                              what is particular
================================  ==================================================================================================
open, creat                       O_EXCL is decided by the server, across machines. O_TMPFILE: EOPNOTSUPP. O_DIRECT passes by the
                                  kernel's pages
read, write, mmap                 a write reaches the server before it returns; one through a map when the kernel writes the page
                                  back, at the latest at msync, munmap and close. A read leaves atime
O_APPEND                          each write goes where the end is at the server
truncate, ftruncate               above the largest size: EFBIG
fallocate                         0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE; others: EOPNOTSUPP
lseek                             SEEK_DATA, SEEK_HOLE; behind the end: ENXIO
copy_file_range                   within a mount by the server; to another file system: EXDEV
fsync, close                      fsync: it is on the server's disk. What a write could not do is an error of the next of both
unlink, rename                    of a file that is open: it lives until it is closed. An open directory that is removed is empty
renameat2                         RENAME_NOREPLACE, RENAME_EXCHANGE; RENAME_WHITEOUT: EINVAL
link                              of directories: EPERM
mknod                             fifos, sockets and device nodes are names; device nodes open nothing (nodev): EACCES
chmod, chown                      owners have 32 bits. chown, and what users write, take S_ISUID away, and S_ISGID where the group
                                  may execute; programs gain nothing by either (nosuid)
new files                         belong to who makes them; in a directory with S_ISGID to its group
setxattr, getxattr                user.*, and for root trusted.*; others: EOPNOTSUPP. A size too small: ERANGE; too large: E2BIG
readdir                           names in the order of their bytes, each once that is there all the time; telldir and seekdir hold
names                             1 to 255 bytes; longer: ENAMETOOLONG
flock, fcntl locks                among the programs of this machine; flock among all mounts, if the files share locks
statvfs                           the free space is that of where written data waits
ioctl, poll                       ENOTTY; always ready
any                               read-only mount: EROFS. The store or the file is gone: ESTALE. The server cannot be reached, or
                                  something unforeseen (logged with its traceback): EIO. Nobody serves the mount: ENOTCONN
a signal                          that ends the program ends its waiting too; any other does not interrupt a verb
================================  ==================================================================================================
"""
