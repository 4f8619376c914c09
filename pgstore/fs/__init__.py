"""The file-system engine: directories, files and their bytes in tables. Volume and NetworkFileSystem stand on it.

The wings, each resting only on those below it:

- `history` lists, pins and restores the versions of a Volume.
- `io` has open files and the file objects on them; `transfer` moves files between this machine and a tree.
- `tree` resolves paths to inodes, lists and searches directories, makes inodes and names, and edits what is there.
- `commit` holds back what a transaction changes in directories that others use, and merges and writes it at the commit.
- `content` stores the bytes of one file; `retention` keeps what is in use and deletes what is not, and repairs damage.
- `candidates` notes what may be deleted; `notifications` tells other clients what has changed; `paths` splits and joins paths;
  `model` has the types and constants that all share.

Where a change belongs:

- A new verb on inodes and names is a function in `tree.nodes`; one on paths is a function in `tree.edit` (or `tree.listing`,
  `tree.search`): resolve, check, then write by `nodes`, or with a `Builder`. Its public method stands in `pgstore.file_store`.
- A new verb of open files is an operation of `io.open_file.OpenFile`, in each of its kinds that can do it. `io.file_object` and
  `io.async_file_object` offer it, each in the way of its file objects.
- A new condition that must hold at the commit is a field of `commit.change_set.Change`, checked by `commit.merge`.
- A new column of files is one of `model.Node`, `tree.node_rows.STAT_COLUMNS` and `tree.new_nodes`; `model.STATE_COLUMNS` carries it
  into new versions.
- A new kind of storage for bytes concerns `content` alone, and functions of `sql/schema.sql`.

What happens at COMMIT: the transaction calls its change set (`commit.change_set.ChangeSet`, a commit hook). It locks what the
changes touch, looks up what is there by then, plans what the changes come to, and returns the queries that write that; they are
sent in one message with COMMIT. A conflict raises `ConflictError`, and the transaction is rolled back. In a joined transaction,
whose commit is the caller's, each operation does the same at its end (`flush`), and what it locks stays locked until that commit.

When the connection breaks in it, all was committed or nothing. `pgstore.client` finds out which, or raises `OutcomeUnknown`. Bytes
that were uploaded outside the transaction belong to the session: collection deletes those that no inode refers to.
"""
