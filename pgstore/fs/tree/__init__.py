"""From paths to inodes, and what is done with both.

`resolve` follows paths, as the current transaction sees them. `listing`, `stats` and `search` read directories. `new_rows` writes
new inodes and names, `build` makes them with the directories on the way, and `edit` has the operations: make, link, remove, move,
copy, set attributes. `nodes` has them on inode numbers and names, without paths: `edit` resolves paths and goes there; `node_rows`
reads for it, `new_nodes` writes, `xattrs` knows how extended attributes are stored. `transact` runs an operation in a transaction.
`live_nodes` has the verbs of a NetworkFileSystem that need none, in one round trip each; `live_statements` are its statements.
`held` has the tree of a Volume as one mount sees it, with `small_files` that it reads ahead, and commits it by `handover`. All rest
on `commit`, whose change set they read through and write into.
"""
