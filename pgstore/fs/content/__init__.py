"""The bytes of one file.

`blobs` writes and reads them in chunks. `staged` collects the new contents of a file of a Volume before anything refers to them;
`in_place` writes files of a NetworkFileSystem. `in_order` reads a large file over several connections; `block_reader` does so for
mounts, into the bounded cache of `block_cache`. Nothing here knows names; inodes are numbers.
"""
