"""The file-system engine: directories, files and their bytes in tables.

Layers, upper ones resting on lower ones:

- `upload`, `download` move files between this machine and a tree; `local` is this machine's side of it. `edit` makes, moves, copies
  and removes what is in a tree, `find` walks and searches it; new inodes with their names come from `build`, into tables by `rows`.
- `tree` leads from paths to inodes and lists directories, in one version and as the current transaction sees them.
- `opening` makes file objects, of `fileio` and `async_fileio`; they stand on what `opened` has for each kind of file: contents that
  do not change, new contents (`staged`), and files that are written in place (`in_place`).
- `changes` keeps back what a transaction changes in directories that others use; `merge` finds out what it comes to at the commit,
  and `versioned` (Volume) or `live` (NetworkFileSystem) locks and writes that, with the statements of `writing`.
- `history` lists and restores versions; `collect` deletes what nothing needs any more, `keeping` keeps from it what is in use, and
  `repair` gives it what was left behind.
- `contents` writes and reads the bytes of one file.
- `paths` splits and joins paths.

All but `paths` know inode numbers, names and byte ranges, no paths: that is also what a mounted file system asks for.
"""
