"""What keeps old bytes, and what deletes them.

`pins` keeps the versions and files that a client uses. `file_pin` does so for a file that is being read or open, if that takes
long. `collection` deletes what nothing needs any more, and `repair` mends damage. Nothing here knows trees or paths: it works on
rows of versions, inodes, blobs and chunks.
"""
