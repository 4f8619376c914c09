"""What a transaction changes in directories and inodes that others use: held back, merged and written at its commit.

`change_set` remembers the changes and lays them over what is read. `merge` locks what they touch and plans what they come to;
`apply` turns the plan into rows; `volume` does so with versions and `live` without. `statements` has the SQL that they share.
`held` remembers what a mount of a Volume has changed, beside transactions, until one writes it. Nothing here knows paths, except
for messages.
"""
