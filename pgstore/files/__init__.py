"""The file-system engine: directories, files and their bytes in tables.

Layers, upper ones resting on lower ones:

- `upload`, `download` move files between this machine and a tree; `local` is this machine's side of it.
- `tree` leads from paths to inodes and lists directories, as the current transaction sees them.
- `changes` keeps back what a transaction changes in directories that others use, and merges it in with the commit.
- `opening` makes file objects, of `fileio` and `async_fileio`; they stand on what `opened` has for each kind of file: contents that
  do not change, new contents (`staged`), and files that are written in place (`in_place`).
- `contents` writes and reads the bytes of one file; `rows` writes new inodes and names.
- `paths` splits and joins paths.

All but `paths` know inode numbers, names and byte ranges, no paths: that is also what a mounted file system asks for.
"""
