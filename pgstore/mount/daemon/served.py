"""One mount in the daemon: mounted, served by threads of its own, committed, unmounted."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from pgstore import errors
from pgstore.core import threads
from pgstore.core.threads import Signal
from pgstore.fs.tree.handover import Written
from pgstore.mount import attach
from pgstore.mount.daemon.backends import AnySpec, Commits, HandsOver, Tells
from pgstore.mount.daemon.holders import holders
from pgstore.mount.protocol import Files
from pgstore.mount.serve import serve

_LOG: Final = logging.getLogger("pgstore")
HANDED_OVER_BYTES_MAX: Final = 48 * 1024 * 1024
THEIRS_SECONDS: Final = 1.0  # for what its owner has unmounted a moment ago
LEFT_SECONDS: Final = 0.1  # for who still uses it to be done
DETACH_SECONDS: Final = 5.0  # for the kernel to let go of a mount that nobody uses


class Served:
    """
    *files* at the path of *spec*.

    Args:
        device: a descriptor of /dev/fuse that somebody has mounted already, in a namespace of theirs; None: it is mounted here.
        ended: called when it is not mounted any more.
    """

    def __init__(self, spec: AnySpec, files: Files, device: int | None, ended: Callable[[], None]) -> None:
        self.spec = spec
        self._files = files
        self._device = device
        self._tell_ended = ended
        self._is_theirs = device is not None
        self._since = time.time()
        self._ready = Signal()
        self._let_go = Signal()  # nobody asks for anything any more; what was written may still be on its way
        self._ended = Signal()
        self._failure: Exception | None = None
        self._commit_lock = threading.Lock()
        self._close_lock = threading.Lock()
        self._is_detached = False
        self._left: list[str] | None = None  # who used it when it was detached

    def begin(self, seconds: float) -> None:
        """Mount it, and return when the kernel was answered for the first time, after at most *seconds*."""
        if self._device is None:
            spec = self.spec
            self._device = attach.attach(spec.path, name=spec.source, read_only=self._files.read_only).device
        threads.start(threading.Thread(target=self._serve, name="pgstore-mount", daemon=True))
        if not self._ready.wait(seconds):
            self._detach()
            raise errors.TimedOut(f"the kernel did not take the mount at {self.spec.path!r} within {seconds:g} s")
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        device = self._device
        assert device is not None
        try:
            serve(device, self._files, ready=self._ready.set, let_go=self._let_go.set)
        except Exception as exc:  # noqa: BLE001 - whoever closes the mount is told
            self._failure = exc
            if not self._is_detached:
                _LOG.error("%s at %s is not served any more: %s", self.spec.source, self.spec.path, exc)
                with contextlib.suppress(errors.Error):
                    self._detach()
        finally:
            os.close(device)
            self._let_go.set()
            self._ended.set()
            self._ready.set()
            self._tell_ended()

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    def commit(self) -> None:
        """Bring what was written into the store."""
        self._check_served()
        with self._commit_lock:
            if isinstance(self._files, Commits):
                self._files.commit()
            else:
                self._files.sync()

    def hand_over(self) -> str | None:
        """What was written, packed, for a transaction of the caller's; None: nothing was. Unpacked it is a `Part`."""
        self._check_served()
        assert isinstance(self._files, HandsOver)
        with self._commit_lock:
            part = self._files.hand_over()
            if part.is_empty:
                self._files.taken_back()
                return None
            packed = base64.b64encode(pickle.dumps(part)).decode()
            if len(packed) > HANDED_OVER_BYTES_MAX:
                self._files.taken_back()
                raise errors.InvalidError(
                    f"what was written to {self.spec.path!r} is too much to become part of a transaction ({len(packed)} bytes of "
                    "names and small files): commit it outside of one, or more often"
                )
            return packed

    def handed_over(self, version: int, merged: list[list[int]]) -> None:
        assert isinstance(self._files, HandsOver)
        self._files.handed_over(
            Written(
                version,
                {ours: theirs for ours, theirs in merged},  # noqa: C416 - pairs, as JSON has them
            )
        )

    def taken_back(self) -> None:
        assert isinstance(self._files, HandsOver)
        self._files.taken_back()

    def reload(self) -> None:
        """Show what others have committed."""
        self._check_served()
        with self._commit_lock:
            if isinstance(self._files, Commits):
                self._files.reload()

    def _check_served(self) -> None:
        if self.is_over:
            raise self._failure or errors.InvalidError(f"{self.spec.path!r} was unmounted by another process")

    def close(self) -> list[str]:
        """
        Unmount it, commit what was written, and return who still uses it. For these it is served on.

        Raises:
            Exception: what the commit has failed with.
        """
        with self._close_lock:
            users: list[str] = []
            if not self.is_over:
                users = self._unmount()
            if not users:
                self._ended.wait()
            elif self.spec.commits_at_end:
                self.commit()
            if self._failure is not None:
                raise self._failure
            return users

    def _unmount(self) -> list[str]:
        if self._is_theirs:
            return [] if self._let_go.wait(THEIRS_SECONDS) else ["whoever has mounted it"]
        if self._left is not None:  # it is detached, and they may still have files open
            return [] if self._let_go.wait(LEFT_SECONDS) else self._left
        if not attach.detach_unless_busy(self.spec.path):
            users = holders(self.spec.path) or ["a process of another user"]
            self._detach()
            self._left = users
            if not self._let_go.wait(LEFT_SECONDS):  # else they were quick, or nobody
                return users
        elif not self._let_go.wait(DETACH_SECONDS):
            return ["the kernel"]
        return []

    def _detach(self) -> None:
        if not self._is_theirs:
            self._is_detached = True
            attach.detach(self.spec.path)

    def told(self) -> dict[str, Any]:
        """What `pgstore mounts` shows."""
        spec = self.spec
        status = self._files.status() if isinstance(self._files, Tells) else {}
        return {
            "path": spec.path,
            "mode": "fuse",
            "kind": spec.kind,
            "name": spec.name,
            "environment": spec.environment,
            "version": spec.version,
            "sub_path": spec.sub_path,
            "read_only": spec.read_only,
            "pid": os.getpid(),
            "since": self._since,
            **status,
        }
