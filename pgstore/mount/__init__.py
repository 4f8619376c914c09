"""Mounts: the files of a Volume, NetworkFileSystem or bucket for any program, through the kernel.

- `protocol` says what a mount serves: `Files`, verbs on inode numbers and names, without paths and without a kernel.
- `backends` are these for a NetworkFileSystem, a Volume and a bucket; `contents` has the bytes of files, read ahead and staged.
- `kernel` has the structures and numbers of Linux' FUSE protocol, `channel` reads and writes them.
- `verbs` turns what the kernel asks into calls of `Files`, with `listing` for open directories and `replies` for attributes.
  `listed` says which directories the kernel may list from its own memory, `changes` which attributes it may not be given any more.
- `serve` has the threads: who reads, who answers. `notifier` tells the kernel what others have changed.
- `attach` mounts and unmounts, `mount_table` reads what is mounted where, `namespace` lets users mount without help.
- `mount` is what `Volume.mount` returns, `mounting` makes it, `options` is what it was given.
- `bucket` mounts a bucket, with FUSE and without; there is no store to it.
- `with_fuse` mounts through the `daemon`, a process that serves all mounts of the one that has started it.
- `without_fuse` mounts where FUSE cannot be used, by copying; `sync` does that.
- `runtime` notes what this user has mounted, `stale` clears up after a process that is gone, `recovery` keeps the bytes that could
  not be committed. `local_xattrs` are extended attributes of local files. `failures` are errors as plain values.

What programs see through FUSE. "In the database" is where all clients see it; the disk is the server's. Where a verb fails as POSIX
says, its page says with what. Without FUSE the files are copies in the local file system, which does what it does.

```text
===================  ========================================  ====================================  ===============================
verb                 NetworkFileSystem                         Volume                                errno
===================  ========================================  ====================================  ===============================
open, creat          what others have closed is what is        the file of the version, and what     O_TMPFILE: EOPNOTSUPP
                     opened. O_EXCL is decided by the          was written through this mount.
                     database, across machines                 O_EXCL is decided within the mount;
                                                               of two mounts the last to commit
                                                               wins
read                 what others have written is read once     what others have committed is read
                     the file is opened anew, and mostly at    after `reload`. atime stays
                     once. atime stays
write                programs of this mount see it at once;    programs of this mount see it at      too large: EFBIG. The disk
                     all others after a second, and at the     once; all others when it is           where it waits is full: ENOSPC
                     latest when it is synced or closed        committed. Where root mounts (Linux
                                                               6.9), files that are new or were
                                                               truncated are written by the kernel
                                                               itself, to the disk of TMPDIR, which
                                                               needs room for all of them until they
                                                               are closed: 8 GiB at the least, else
                                                               it is not done
mmap                 what is written to a map counts as        alike. What is mapped counts as open
                     written when the kernel writes the page
                     back: at the latest at msync, munmap and
                     close
O_APPEND             each write goes to where the end is in    each write goes to where the end is   NetworkFileSystem: the answer
                     the database, whoever else appends, and   in this mount                         was lost while others appended,
                     is there when it returns                                                        and it may be written: EIO
O_DIRECT             bypasses the kernel's pages               alike
truncate             is in the database when it returns        with the commit                       too large: EFBIG
fallocate            0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE; no  alike, with the commit                other modes: EOPNOTSUPP
                     space is reserved. Holes are in the
                     database, and on the server's disk, when
                     it returns, and take no chunks
lseek                SEEK_DATA, SEEK_HOLE                      alike                                 behind the end: ENXIO
copy_file_range      within a mount, by the daemon             alike                                 to another file system: EXDEV
fsync                the file and all names changed before     the bytes are on the server's disk,   what an earlier write could not
                     are on the server's disk                  but not committed: a killed daemon    do
                                                               loses them
close                what was written is in the database;      commits nothing                       as fsync
                     on the disk within about a second
fsync of a           all that was written through the mount    what was committed is on the
directory, syncfs,   is on the server's disk                   server's disk
unmounting
mkdir, mknod,        each is a commit: it is in the database   held by the mount; all of them, and   NetworkFileSystem: others
symlink, link,       when it returns, a moment later other     what was written, are in one version  change the same, again and
unlink, rmdir,       mounts show it, and it is on the disk     after the commit                      again: EBUSY
rename, chmod,       within about a second, or after the next
chown, utimens       fsync, of whatever file or directory
unlink, rename       a file that is open lives until it is     alike
                     closed. An open directory that is
                     removed is empty
renameat2            RENAME_NOREPLACE, RENAME_EXCHANGE         alike                                 other flags, both: EINVAL
link                                                                                                 of directories: EPERM
mknod                fifos, sockets and device nodes are       alike                                 opening device nodes (nodev):
                     names; programs of this machine meet                                            EACCES
                     there
stat                 directories have st_nlink 1 and st_size   alike; what is not committed counts
                     0. st_ino is never given again.           beside what it replaces
                     st_blocks is what is stored, if that is
                     not above 1 GiB in chunks of 64 KiB;
                     else st_size
chmod, chown         owners have 32 bits. chown, and what      alike
                     users write, take S_ISUID away, and
                     S_ISGID where the group may execute;
                     programs gain nothing by either
                     (nosuid). To an ordinary user who
                     mounts, what is root's is theirs
new files            belong to who makes them; in a directory  alike
                     with S_ISGID to its group
setxattr, getxattr   user.*, and for root trusted.*; no lists  alike                                 others: EOPNOTSUPP. A value
                     for access control                                                              above 64 KiB: E2BIG; all of a
                                                                                                     file above 64 KiB: ENOSPC. Room
                                                                                                     too small: ERANGE
readdir              names in the order of their bytes, each   alike; of others after `reload`
                     once that is there all the time; telldir
                     and seekdir hold. What others have made
                     and removed is seen once the directory
                     is opened anew, and after a moment by
                     rewinddir
names                1 to 255 bytes                            alike                                 longer: ENAMETOOLONG
flock, fcntl         among the programs of this mount; with    among the programs of this mount
                     locks="shared" flock among all mounts
statvfs              the free space is that for written data   alike
                     that waits: of the disk of TMPDIR, at
                     most 4 GiB
ioctl, poll          poll: always ready                        alike                                 ioctl: ENOTTY, or EOPNOTSUPP of
                                                                                                     what the kernel knows (FICLONE,
                                                                                                     chattr)
any                                                                                                  read-only mount: EROFS. The
                                                                                                     store or the file is gone:
                                                                                                     ESTALE. The server cannot be
                                                                                                     reached within `timeout`, or
                                                                                                     something unforeseen (logged
                                                                                                     with its traceback): EIO.
                                                                                                     Nobody serves the mount:
                                                                                                     ENOTCONN
a signal             that ends the program ends its waiting    alike
                     too; any other does not interrupt a verb
another server,      what is open is lost to who has it open;  what was not committed cannot be      NetworkFileSystem, of what is
as after a failover  what is opened anew is there              any more, and is kept at the end      open: ESTALE
a crash of the       what was not on its disk is done again,   what was not on its disk is uploaded  NetworkFileSystem: others have
server               names in their order, then contents: the  again. A commit is on it              taken the name of a new file
                     mount keeps them until they are there,                                          before it was made again: it is
                     and goes on by itself. What others wrote                                        gone, ESTALE. The server is
                     to the same bytes in the moment before                                          away for longer than `timeout`:
                     may be written over. A renaming or                                              EIO, once; the bytes are kept,
                     removal that others have made pointless                                         and tried again
                     is left out; the log says so
kill -9 of the       what was synced or closed is there        what was committed is there, and      ENOTCONN, until the path is
daemon                                                         nothing else                          unmounted, or mounted anew
===================  ========================================  ====================================  ===============================
```

And of a bucket, whose objects are put as a whole or not at all. Where it can be none of a file system's, it does as mountpoint-s3
does, which Modal's programs know.

```text
===================  ==============================================================  ===============================================
verb                 bucket                                                          errno
===================  ==============================================================  ===============================================
open, creat          A new object is one that is being written, and nobody else's    An object that has bytes, to be written without
                     until it is closed. O_TRUNC: it replaces one as a whole when    O_TRUNC, also by O_APPEND: EPERM. What is being
                     it is closed. O_EXCL is decided by the provider, across         written, for others: EBUSY. There is one, by
                     machines, at close, and before that if there is one at open     O_EXCL: EEXIST, of open or of close. No UTF-8,
                                                                                     or a key too long: EILSEQ, ENAMETOOLONG
read                 of the state that the object had at open, in any order; who     The object was replaced or removed since, and
                     reads in order is read ahead of, a large object by several      the kernel does not have these bytes: ESTALE,
                     connections. One that was opened more than a second after it    never bytes of another. What is being written:
                     was last seen is asked for first                                EBUSY
write                from the beginning to the end. More than 8 MiB is put in parts  Elsewhere than at the end: EINVAL, and nothing
                     while more is written                                           becomes of it. Through a map: EINVAL. Larger
                                                                                     than the provider allows: EFBIG
mmap                 for reading
truncate             to nothing: the object is replaced by an empty one; of what is  Otherwise: EPERM; of what is being written:
                     being written, which begins anew                                EINVAL
fallocate                                                                            EOPNOTSUPP
lseek                an object has no holes                                          Behind the end: ENXIO
copy_file_range      the kernel copies by reading and writing
fsync                puts the object, as close does                                  To be written to after that: EPERM
close                puts the object when the process that has opened it closes its  What the provider said, and nothing of it is
                     last descriptor: then everybody sees it. Child processes that   there: EACCES, EIO and others; the log has the
                     were given copies are waited for as long as nothing was         text
                     written, or they write. What is put without anybody being
                     told, since the last to close was another, is in the log if it
                     fails. A program that is killed by a signal puts nothing
mkdir                lives in this mount until something is put into it, and after
                     the last object in it was removed. `dir/` objects of others
                     are directories
rename               of a file: the provider copies it, then it is removed; in       Of a directory: EXDEV, and mv copies.
                     between there are both. RENAME_NOREPLACE is the provider's to   RENAME_EXCHANGE: EINVAL. What is being written:
                     decide. Who has it open gets ESTALE for what was not read       EBUSY
unlink               at once. What is being written is never put                     Who has it open gets ESTALE for what was not
                                                                                     read
rmdir                removes the `dir/` object, too                                  ENOTEMPTY, also if all in it is left out
link, symlink,                                                                       EPERM
mknod of what is no
file
stat                 files are root's, 0644, directories 0755, or those of the
                     ordinary user who mounts; mtime is when the object was put. An
                     object that was replaced has another st_ino
chmod, chown,        accepted and forgotten, as programs that copy need them
utimens
setxattr                                                                             EOPNOTSUPP
readdir              in the order of keys. Keys that are no paths are left out,
                     which the log says once. A directory hides an object of its
                     name. What others have put is seen after `ttl` seconds and at
                     most one more
flock, fcntl         among the programs of this mount
statvfs              always 4 PiB
any                                                                                  Read-only mount: EROFS, before any request. The
                                                                                     credentials do not allow it, or have expired:
                                                                                     EACCES. The bucket is gone: ESTALE. The
                                                                                     provider does not answer after several
                                                                                     attempts: EIO
kill -9 of the       what was closed is there, and no half of anything. Parts of     ENOTCONN, as of stores
daemon               uploads that were under way are at the provider, unseen, until
                     a lifecycle rule of the bucket removes them: nobody else
                     aborts them
===================  ==============================================================  ===============================================
```
"""
