"""Mounts: the files of a Volume or NetworkFileSystem for any program, through the kernel.

- `protocol` says what a mount serves: `Files`, verbs on inode numbers and names, without paths and without a kernel.
- `contents` has the bytes of files: read ahead, staged, and uploaded.
"""
