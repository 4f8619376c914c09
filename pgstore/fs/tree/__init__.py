"""From paths to inodes, and what is done with both.

`resolve` follows paths, as the current transaction sees them. `listing`, `stats` and `search` read directories. `new_rows` writes
new inodes and names, `build` makes them with the directories on the way, and `edit` has the operations: make, link, remove, move,
copy, set attributes. They rest on `commit`, whose change set they read through and write into.
"""
