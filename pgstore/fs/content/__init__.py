"""The bytes of one file.

`blobs` writes and reads them in chunks. `staged` collects the new contents of a file of a Volume before anything refers to them;
`in_place` writes files of a NetworkFileSystem. `block_reader` reads ahead, over several connections, into a `block_cache`. Nothing
here knows names; inodes are numbers.
"""
