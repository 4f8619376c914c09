"""Mounts without FUSE: a store is copied into a directory, and what programs have changed there is written back.

- `snapshot` is what a directory holds at one moment, and `difference` what has happened between two.
- `fill` copies from the store into the directory, `write_back` the other way, in one transaction.
- `directory` puts them together: it fills, commits, reloads and empties the directory of one mount.
- `prefix` is that of a bucket, object by object.
"""
