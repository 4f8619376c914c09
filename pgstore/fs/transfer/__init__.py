"""Files on their way between this machine and a tree.

`upload` and `download` do the work, in batches and pieces; `local` reads and writes this machine's files; `progress` tells how far
it is; `whole` has files in memory, for stores and buckets.
"""
