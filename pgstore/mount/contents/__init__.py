"""The bytes of files behind a mount: read ahead, staged and uploaded. Nothing here knows names.

- `under_way` has the contents of one inode as a mount sees them, and uploads in general; `shared` what all of a mount share.
  `uploaded` brings those of a Volume to new blobs (`new_blob`), which `volume` gives to a commit; `live` has those of a
  NetworkFileSystem, which are written in place, on `appending` and `crash_safe`, which writes again what a crash has taken.
- `disk` knows what of a NetworkFileSystem is on the server's disk, `unsafe` what of a file is not.
- `open_file` has the open files on them.
- `passing` has contents that the kernel reads and writes itself, and `passed` how it is found out what was written.
- `stage` keeps on the local disk what was written; `ranges` says which bytes that are. `failures` are told of once.
"""
