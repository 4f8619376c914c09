"""What the contents of all files of a mount share: the client, the stage, who uploads, and how long a server is waited for."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from pgstore import errors
from pgstore.client.interfaces import ClientInterface
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.core.workers import Workers
from pgstore.fs.content import in_place
from pgstore.fs.content.block_cache import BlockCache
from pgstore.fs.content.block_reader import Reading
from pgstore.fs.notifications import SILENCE, new_token, origin
from pgstore.mount.changes import RecentChanges
from pgstore.mount.contents.disk import Disk
from pgstore.mount.contents.failures import persistently
from pgstore.mount.contents.stage import Stage
from pgstore.mount.failures import message_of

T = TypeVar("T")
TIMEOUT_SECONDS: Final = 30.0  # for which an upload is tried again
ANSWER_SECONDS: Final = 1.0  # for a server of which it is not known whether it is there
UPLOADS_MAX: Final = 3  # of one file, beside whoever waits for it
ANSWER: Final = Statement("SELECT 1", read_only=True)


class Tenant(Protocol):
    """Who has something in the stage."""

    def relieve(self) -> None:
        """The stage is full: give back what the database has, and have the rest uploaded."""


class Shared:
    """
    What the contents of all files of a mount share.

    Args:
        timeout: seconds for which reads and uploads are tried again while the server is away.
    """

    def __init__(
        self, client: Any, store_id: int, stage: Stage, cache: BlockCache, *, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self.client: ClientInterface = client
        self.session: Any = client.session
        self.store_id = store_id
        self.stage = stage
        self.reading = Reading(self.client, cache)
        self.timeout = timeout
        self.origin = new_token()
        """What others are told as the origin of changes through this mount."""
        self.changes = RecentChanges()
        """Of what the kernel is told (`Files.changes`)."""
        self.uploads = RecentChanges()
        """Of what others see of files."""
        self.on_upload: Callable[[int], object] = _nothing_of
        """Called with the inode before that is noted."""
        self.begin: Callable[[], bool] = _false
        """Called before something is run: whether others are told nothing of it. Then `end` is called after it."""
        self.end: Callable[[], None] = _nothing
        self.closing = threading.Event()
        self.is_ending = False
        """Then a server that was waited for in vain is not asked again: what is left would wait as long, one after the other."""
        self.given_up: OSError | None = None
        """With what the server was given up at the end."""
        self.disk = Disk(self.session, self._flush, timeout)
        """Of a NetworkFileSystem."""
        self.names_brought_back = 0
        """How often names that the server had lost were made again; then a file that was missing may be there."""
        self.bring_back_names: Callable[[], None] = _nothing
        count = max(1, min(UPLOADS_MAX, self.client.settings.connections_max - 1))
        self.uploaders: Workers = self.client.shared.setdefault("uploading workers", Workers(count, "pgstore-uploader"))
        self._tenants: weakref.WeakSet[Tenant] = weakref.WeakSet()
        self._tenants_lock = threading.Lock()
        self._soon: list[Callable[[], None]] = []
        self._soon_lock = threading.Lock()
        stage.make_room = self.make_room

    def run(self, op: Op[T]) -> T:
        is_silent = self.begin()
        try:
            with origin(SILENCE if is_silent else self.origin):
                return self.client.run_alone(op)
        finally:
            if is_silent:
                self.end()

    def persistently(self, make: Callable[[], Op[T]]) -> T:
        self.check_server()
        try:
            return persistently(self.run, make, self.timeout, self.closing)
        except OSError as exc:
            if self.is_ending and self._is_away(exc.__cause__):
                self.given_up = exc
            raise

    def check_server(self) -> None:
        """Raise EIO if the server was given up."""
        given_up = self.given_up
        if given_up is not None:
            raise OSError(given_up.errno, given_up.strerror) from errors.StoreUnavailable(message_of(given_up))

    def look_for_server(self) -> None:
        """At the end: find out within the timeout whether the server is there. An upload, which may take long, has no bound."""
        with contextlib.suppress(OSError):
            self.within_timeout(_answer)

    def _is_away(self, cause: BaseException | None) -> bool:
        """Whether it is the server that has failed with *cause*, and not somebody's lock."""
        if not isinstance(cause, errors.TimedOut):
            return isinstance(cause, errors.StoreUnavailable)
        try:
            with bounded_by(Deadline.after(ANSWER_SECONDS)):
                self.run(_answer())
        except errors.Error:
            return True
        return False

    def within_timeout(self, make: Callable[[], Op[T]]) -> T:
        """
        `persistently`, also where others have locked what is asked for: the error then comes after the timeout.

        Who has may be the program itself, in a transaction. Not for what takes long on a slow connection.
        """
        with bounded_by(Deadline.after(self.timeout)):
            return self.persistently(make)

    def uploaded(self, ino: int) -> None:
        """Others see what was written to a file. Whoever read its node before, and looks what is not uploaded yet, misses that."""
        self.on_upload(ino)  # before it is noted: who finds no note then has read what is known before or after both
        self.uploads.note(ino)
        self.changes.note(ino)

    def call_soon(self, flush: Callable[[], None], seconds: float) -> None:
        """Call *flush* in *seconds*, or some time sooner: all that is left here has one timer."""
        with self._soon_lock:
            self._soon.append(flush)
            if len(self._soon) > 1:
                return
        self.client.scheduler.leave_call(self, self._call_all, seconds, can_wait=True)

    def _call_all(self) -> None:
        with self._soon_lock:
            soon, self._soon = self._soon, []
        for flush in soon:
            flush()

    def _flush(self) -> None:
        self.within_timeout(lambda: in_place.sync(self.store_id))

    def add_tenant(self, contents: Tenant) -> None:
        """*contents* use the stage."""
        with self._tenants_lock:
            self._tenants.add(contents)

    def make_room(self) -> None:
        """The stage is full: give back what the database has, and have the rest uploaded."""
        with self._tenants_lock:
            tenants = tuple(self._tenants)
        for tenant in tenants:
            tenant.relieve()

    def close(self) -> None:
        """Have nothing repeated any more."""
        self.closing.set()


def _answer() -> Op[None]:
    yield Query(ANSWER)


def _nothing() -> None: ...


def _nothing_of(_ino: int) -> None: ...


def _false() -> bool:
    return False
