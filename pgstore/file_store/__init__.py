"""FileStore: what Volume and NetworkFileSystem offer alike, on the engine in `pgstore.fs`.

Here are paths, forms and errors; `base` holds how a tree is read and changed in a transaction or without. A direct call is a commit
of its own. In a transaction, changes are seen by the transaction alone until it commits.
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
