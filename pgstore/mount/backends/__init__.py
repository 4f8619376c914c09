"""What mounts serve: the `Files` of a NetworkFileSystem and of a Volume, from the verbs of `fs.tree.nodes` and the bytes of
`mount.contents`, and those of a bucket.

`base` has what both do alike. `live` is the NetworkFileSystem: each verb is a commit. `hearing` tells the kernel what others have
changed, `securing` brings what was done here to the server's disk, and `name_log` does again what a crash of the server has taken
of names. `locks` are those of whole files that exclude other mounts, `audience` is whether anybody listens to ours, `known` are
attributes that the kernel asks for again.
`versioned` is the Volume: one version, and over it a change set that a commit turns into the next, as `committing` does;
`expected` guesses which files become large, and are passed through;
`bucket` is a bucket, over `buckets.tree`: `bucket_inodes` says which inode an object is, `bucket_files` has what is open, and
`descriptors` finds out which close(2) of a file is the last.
`keeping` copies what could not be committed into a recovery directory, `keeping_live` what a NetworkFileSystem was not given.
"""
