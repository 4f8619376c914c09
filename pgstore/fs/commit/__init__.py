"""What a transaction changes in directories and inodes that others use: held back, merged and written at its commit.

`change_set` remembers the changes and lays them over what is read. `merge` locks what they touch and plans what they come to;
`apply` turns the plan into rows; `volume` does so with versions and `live` without. `statements` has the SQL that they share.
Nothing here knows paths, except for messages.
"""
