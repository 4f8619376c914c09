"""Contents under way of a Volume, and how a commit takes them over."""

from __future__ import annotations

import errno
from functools import partial

from pgstore import errors
from pgstore.core.operation import Op, Query
from pgstore.fs.content import in_place
from pgstore.fs.content.blobs import INLINE_BYTES_MAX
from pgstore.fs.content.staged import RELEASE
from pgstore.fs.model import Contents
from pgstore.mount.contents.new_blob import NewBlob, abandon
from pgstore.mount.contents.ranges import Ranges, ranges_of
from pgstore.mount.contents.uploaded import ATTEMPTS, UploadedContents


class VolumeContents(UploadedContents):
    """
    The bytes of a file of a Volume: those of a version, and over them what was written since.

    For a commit: `upload`; `hand_over` in its transaction; then `committed`, or `not_committed`, after which all may be repeated;
    it has to be after a `StaleFile`.
    """

    def flush(self) -> None:
        """Nothing: it is the commit that keeps what was written."""

    is_flushed = True

    @property
    def is_at_hand(self) -> bool:
        """Whether all is so small, and here, that `upload`, `freeze` and `release` ask and wait for nobody. If nobody writes."""
        return (
            self.size_bytes <= INLINE_BYTES_MAX
            and self._blob is None
            and self._base.blob_id is None
            and not (self._uploads or self._jobs or self._is_frozen)
        )

    def sync(self) -> None:
        """Return when what was written is on the server's disk. It is not committed by that."""
        for attempts_left in range(ATTEMPTS - 1, -1, -1):
            self.upload()
            blob = self._blob
            if blob is None or blob.written_to is None:
                return
            with self._lock:
                written = ranges_of(blob.written)
            self.shared.persistently(lambda: in_place.sync(self.shared.store_id))
            if self._is_intact(blob):
                with self._lock:
                    for part in written:
                        blob.safe.add(*part)
                    for start, end in (*self._dirty, *self._uploading):
                        blob.safe.remove(start, end)
                return
            if not attempts_left:
                raise OSError(errno.EIO, "the server crashed each time before what was written was on its disk")

    def relieve(self) -> None:
        with self._lock:
            blob = self._blob
            if self._passed is not None:
                return
            if blob is not None:
                self._evict(blob)
            if not self._jobs:
                self._do_later(self._sync_and_evict)

    def _sync_and_evict(self) -> None:
        self.sync()
        with self._lock:
            if self._blob is not None and self._passed is None:
                self._evict(self._blob)

    def _evict(self, blob: NewBlob) -> None:
        """Give back of the stage what is on the server's disk."""
        size = blob.chunk_size
        kept = ranges_of(blob.safe)
        for start, end in (*self._dirty, *self._uploading):
            kept.remove(start, end)
        for start, end in kept:
            for begin, stop in self._newer.within(start * size, end * size):
                self._newer.remove(begin, stop)
                self._staged.discard(begin, stop)
                self._evicted.add(begin, stop)

    # ------------------------------------------------------------------------------------------------------ the commit

    def freeze(self) -> Contents:
        """
        Return where what `upload` has brought to the database is, for a commit that gives it to the inode.

        Until `committed` or `not_committed` is called, nothing more is uploaded.

        Raises:
            StaleFile: the server or the session has lost it: `upload` again.
        """
        with self._changed:
            while self._uploads:  # which would be of a blob that is not ours any more
                self._changed.wait()
            self._is_frozen = True
            self._wait_for_uploads()
            blob, inline = self._blob, self._inline
            if inline is not None:
                return Contents(len(inline), None, inline or None)
            if blob is None or not blob.is_whole:  # it had nothing to do
                return self._base
        if not self._is_intact(blob):
            self.not_committed()
            raise self._lost()
        return Contents(blob.size_bytes, blob.id, None)

    @property
    def is_frozen(self) -> bool:
        """Whether it is in the hands of a commit."""
        return self._is_frozen

    @property
    def blob_session_id(self) -> int | None:
        """The session that has what was uploaded."""
        return None if self._blob is None else self._blob.session_id

    def hand_over(self) -> Op[Contents]:
        """`freeze`, and take what was uploaded from the session, in the transaction that gives it to the inode."""
        contents = self.freeze()
        blob = self._blob
        if blob is not None and contents.blob_id == blob.id:
            is_ours = yield Query(RELEASE, self.shared.store_id, blob.id, blob.session_id)
            if not is_ours or not self._is_intact(blob):
                raise self._lost()
        return contents

    @property
    def has_more(self) -> bool:
        """Whether something was written since the last upload."""
        return bool(self._after)

    def doubt(self) -> None:
        """Have the next upload find out whether the database still has what was uploaded."""
        self._doubt_blob()

    def _lost(self) -> errors.StaleFile:
        self._doubt_blob()
        return errors.StaleFile("what was uploaded of a file was lost with the server or the session; upload it again")

    def not_committed(self) -> None:
        """The transaction was rolled back: what was handed over belongs to the session again."""
        with self._changed:
            self._is_frozen = False
            self._changed.notify_all()

    def committed(self, contents: Contents, version: int | None) -> None:
        """The inode has *contents*, which `freeze` returned, since *version*. What was written since lies over that."""
        with self._changed:
            if contents is not self._base:
                self._build_on(contents, version)
            self._is_frozen = False
            self._changed.notify_all()

    def _build_on(self, contents: Contents, version: int | None) -> None:
        blob = self._blob
        chunk_size = blob.chunk_size if blob is not None else None
        kept = self._after
        if chunk_size is not None:
            for start, end in self._dirty:
                kept.add(start * chunk_size, min(end * chunk_size, self.size_bytes))
        for start, end in kept.gaps(0, self._newer.end):
            self._newer.remove(start, end)
            if self._passed is None:
                self._staged.discard(start, end)
        self._evicted.clear()
        if blob is not None and contents.blob_id is None:
            self.shared.session.later(partial(abandon, self.shared.store_id, blob))
        self._forget_blob()
        self._set_base(contents, chunk_size, version)
        self._base_end = min(contents.size_bytes, self._cut_at, self.size_bytes)
        if self._passed is not None and contents.size_bytes < self.size_bytes:
            self._passed.forget(contents.size_bytes, self.size_bytes)  # it was sent, but is behind the version's end
        self.is_changed = bool(self._newer) or not self._base_end == self.size_bytes == contents.size_bytes
        self._inline, self._after = None, Ranges()

    def drop(self, base: Contents, chunk_size: int | None, since: int | None, mtime_ns: int) -> None:
        """Another version has *base*: read that from now on. Only while nothing was written."""
        with self._lock:
            if self._passed is not None:
                return  # who has it open reads what is staged, until it is closed
            assert not self.is_changed, "what was written would be lost"
            self._set_base(base, chunk_size, since)
            self.size_bytes, self.mtime_ns = base.size_bytes, mtime_ns
            self._cut_at = base.size_bytes

    def abandon(self) -> None:
        """Forget what was written, and have it deleted from the database."""
        with self._changed:
            self._is_frozen = False
            self._has_failed = True
            while self._uploads:
                self._changed.wait()
            self._wait_for_uploads()
            if self._blob is not None:
                self.shared.session.later(partial(abandon, self.shared.store_id, self._blob))
            self._forget_blob()
            self._newer.clear()
            self._evicted.clear()
            self._abandon_passing()
            self._staged.close()
            self._base_end = self.size_bytes = self._base.size_bytes
            self.is_changed = self._has_failed = False

    def close(self, *, write: bool) -> None:
        super().close(write=write)
        with self._lock:
            if write and not self.writers and self._passed is None:
                self._upload_closed()
        if not self.open_files and self._pin is not None:
            self._pin.release()

    def _note_passing_ended(self) -> None:
        if not self.writers:
            self._upload_closed()

    def _upload_closed(self) -> None:
        """Have what is not open for writing any more uploaded, so that the commit finds it done. With the lock."""
        if self.size_bytes > INLINE_BYTES_MAX and self.is_dirty and not self._has_failed:
            self._do_later(self.upload)
