"""FileStore: what Volume and NetworkFileSystem offer alike, on the engine in `pgstore.fs`.

The public methods stand here, by what they do: `listing`, `open`, `transfer`, `batch`, `edit`. Each checks its arguments, splits
its paths and has the engine do the work; `base` finds the tree to read and runs changes in transactions. A direct call is a commit
of its own. In a transaction, changes are seen by the transaction alone until it commits.

Where a change belongs:

- A verb of both file systems is an `@operation` here, in the module of its like; what it does stands in `pgstore.fs`. A verb of one
  of them is a method of its class, in `pgstore.volume` or `pgstore.network_file_system`.
- An option that is fixed when a store is made is a keyword of `from_name` and `ephemeral` of both classes, checked by
  `base.FileStoreBase._checked_options` and written by `base.create_file_system`.
- A handle that differs from another is made by `Store._clone`; what it differs in stands in `base._HANDLE_STATE`, if a pickle keeps
  it.
"""

from __future__ import annotations

from pgstore.file_store.batch import Batching, BatchUpload
from pgstore.file_store.edit import Editing
from pgstore.file_store.listing import ListingFiles
from pgstore.file_store.open import OpeningFiles
from pgstore.file_store.transfer import Transferring

__all__ = ["BatchUpload", "FileStore"]


class FileStore(Transferring, OpeningFiles, ListingFiles, Editing, Batching):
    """Base of Volume and NetworkFileSystem."""
