"""What keeps old bytes, and what deletes them.

`file_pin` pins what is being read, `collection` deletes what nothing needs any more, `repair` mends damage. Nothing here knows
trees or paths: it works on rows of versions, inodes, blobs and chunks.
"""
