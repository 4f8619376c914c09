"""What a mounted file system must do, as functions that take a directory of it. They hold for any mount.

For a local disk they hold as well, but for what a mount refuses: O_TMPFILE, collapsing ranges, opening device nodes.

- `tools` has what the checks are written with.
- `names`, `contents`, `attributes`, `directories` are POSIX' verbs, with the errno of each failure.
- `permissions` is what users may not do, and whom things belong to; it needs root.
- `exerciser` is a random reader, writer, truncater and mapper against a model.
- `comparison` does random things to a tree and to one on a local disk, which is the model.
- `run` runs them in a process of its own, as root or as another user.
"""
