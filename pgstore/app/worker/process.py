"""The process of a worker: it loads what it is to run, runs what it is given, and ends."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from pgstore import errors
from pgstore.app import context
from pgstore.app.channel import Closed, of_descriptor
from pgstore.app.spec import Input, Setup
from pgstore.app.worker.jobs import Jobs, failure, flush
from pgstore.app.worker.mounts import Mounts
from pgstore.app.worker.parent import ENDED, Parent
from pgstore.app.worker.target import Target
from pgstore.client import configure
from pgstore.core import threads
from pgstore.mount.daemon.caller import DaemonGone

_LOG: Final = logging.getLogger("pgstore")
GRACE_SECONDS: Final = 5.0  # for what is interrupted because the parent has ended


def run(descriptor: int, variables: dict[str, tuple[str, str | None]]) -> None:
    """
    Do what the parent, at the other end of the socket *descriptor*, gives to do; never return.

    Args:
        variables: see `context.variables`.
    """
    context.variables = variables
    channel = of_descriptor(descriptor)
    setup: Setup = channel.receive()[0][0]
    code = 1
    is_alone = True
    try:
        parent = Parent(channel, setup.parent)
        try:
            code = Worker(parent, setup).run()
        finally:
            is_alone = parent.is_gone and not parent.is_lost
    except ENDED:
        pass
    except BaseException:  # noqa: BLE001 - of this package, or of an interrupt: the parent says that it has ended
        _LOG.error("the worker of %s has failed", setup.spec.name, exc_info=True)
    finally:
        # Not by the interpreter's own end, which waits for threads that the program has left.
        atexit._run_exitfuncs()
        flush()
        _clear(setup.directory)
        if is_alone:  # else the parent ends what was started here
            os.killpg(0, signal.SIGKILL)
        os._exit(code)


class Worker:
    """One that was told to be as *setup* says."""

    def __init__(self, parent: Parent, setup: Setup) -> None:
        self._setup = setup
        self._parent = parent
        self._mounts = Mounts(parent, setup.mounts, setup.directory)
        self._target = Target(setup.spec, self._mounts, self._send)
        self._jobs = Jobs(self._target, self._send)
        self._given: queue.SimpleQueue[tuple[int, Input] | None] = queue.SimpleQueue()  # None: there is no more
        self._is_ending = False  # the parent has gone

    def run(self) -> int:
        """Returns the exit code."""
        spec = self._setup.spec
        signal.signal(signal.SIGINT, self._jobs.on_signal)
        try:
            self._begin()
        except BaseException as exc:  # noqa: BLE001 - whoever waits for the worker is told
            self._send("failed", failure(exc, spec))
            return 1
        self._send("ready")
        while (given := self._given.get()) is not None:
            self._jobs.begin(*given)
        self._jobs.wait()
        self._last(lambda: self._target.end(self._jobs.run_async))
        return 0

    def _last(self, do: Callable[[], None]) -> None:
        """Do what nobody waits for any more."""
        try:
            do()
        except DaemonGone:  # so that nothing is there any more; whoever has waited for a call was told
            pass
        except Exception as exc:  # noqa: BLE001
            trace = None if isinstance(exc, errors.Error) else exc
            _LOG.error("the worker of %s has not ended in good order: %s", self._setup.spec.name, exc, exc_info=trace)

    def _begin(self) -> None:
        setup = self._setup
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        ask: Callable[[], str] = lambda: self._parent.ask("url")  # noqa: E731
        configure(**{**vars(setup.client), "url": ask if setup.asks_url else setup.client.url})
        _LOG.setLevel(setup.log_level)
        self._mounts.enter()
        context.ask = self._parent.ask
        self._parent.listen(self._take, self._parent_has_gone)
        try:
            self._mounts.begin()
        finally:
            self._send("made", self._mounts.made, self._mounts.claimed)
        if setup.spec.workdir is not None:
            os.chdir(setup.spec.workdir)
        # Before the program is loaded, so that it is done after what that registers, and before the client is closed.
        atexit.register(self._last, self._target.commit_rest)
        self._target.begin(self._jobs.run_async)

    # ----------------------------------------------------------------------------------------------------------- parent

    def _send(self, *message: Any) -> None:
        try:
            self._parent.send(*message)
        except Closed:
            # Of the end of the parent who listens is told. Not of a descriptor that the program has closed: it is there as long as
            # somebody waits for it.
            if self._parent.is_lost:
                self._parent_has_gone()

    def _take(self, kind: str, *values: Any) -> None:
        if kind == "run":
            number, given = values
            self._given.put((number, given))
        elif kind == "taken":
            self._jobs.taken(*values)
        elif kind == "interrupt":
            self._jobs.interrupt(*values)
        elif kind == "end":
            self._given.put(None)

    def _parent_has_gone(self) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        if self._parent.is_lost:
            _LOG.error("%s has closed the descriptor by which its worker gives its results", self._setup.spec.name)
        self._given.put(None)
        self._jobs.interrupt_all()
        threads.start(threading.Thread(target=self._die, name="pgstore-die", daemon=True))

    def _die(self) -> None:
        """End, whatever is still going on, and with it what was started here."""
        time.sleep(GRACE_SECONDS)
        _clear(self._setup.directory)
        os.killpg(0, signal.SIGKILL)


def _clear(directory: str) -> None:
    """Remove the worker's directory, but for places where something may be mounted: the parent does, if it is there."""
    with contextlib.suppress(OSError):  # of which the parent does more
        for name in os.listdir(directory):
            if name == "tmp" or name.startswith("copy-"):
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        os.rmdir(os.path.join(directory, "root"))
        os.rmdir(directory)
