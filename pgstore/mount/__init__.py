"""Mounts: the files of a Volume or NetworkFileSystem for any program, through the kernel.

- `protocol` says what a mount serves: `Files`, verbs on inode numbers and names, without paths and without a kernel.
- `kernel` has the structures and numbers of Linux' FUSE protocol, `channel` reads and writes them.
- `verbs` turns what the kernel asks into calls of `Files`, with `listing` for open directories and `replies` for attributes.
- `serve` has the threads: who reads, who answers. `notifier` tells the kernel what others have changed.
- `attach` mounts and unmounts, `mount_table` reads what is mounted where.
- `mount` is what `Volume.mount` returns, `mounting` makes it, `options` is what it was given.
- `with_fuse` mounts through the `daemon`, a process that serves all mounts of the one that has started it.
- `without_fuse` mounts where FUSE cannot be used, by copying; `sync` does that.
- `runtime` notes what this user has mounted, `stale` clears up after a process that is gone, `recovery` keeps the bytes that could
  not be committed. `failures` are errors as plain values.
"""
