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
from pgstore.app import context, pickles
from pgstore.app.channel import Closed, of_descriptor
from pgstore.app.mount_rules import mount_key
from pgstore.app.spec import Program
from pgstore.app.worker import target
from pgstore.app.worker.jobs import Job, Jobs, failure, flush
from pgstore.app.worker.mounts import Mounts
from pgstore.app.worker.parent import ENDED, Parent
from pgstore.client import configure, default_client
from pgstore.core import threads
from pgstore.core.operation import Op
from pgstore.mount.daemon.caller import DaemonGone

_LOG: Final = logging.getLogger("pgstore")
GRACE_SECONDS: Final = 5.0  # for what is interrupted because the parent has ended


def run(descriptor: int) -> None:
    """Do what the parent, at the other end of the socket *descriptor*, gives to do; never return."""
    channel = of_descriptor(descriptor)
    ((told,), _) = channel.receive()
    code = 1
    is_alone = True
    try:
        parent = Parent(channel, told["parent"])
        try:
            code = Worker(parent, told).run()
        finally:
            is_alone = parent.is_gone and not parent.is_lost
    except ENDED:
        pass
    except BaseException:  # noqa: BLE001 - of this package, or of an interrupt: the parent says that it has ended
        _LOG.error("the worker of %s has failed", told["name"], exc_info=True)
    finally:
        # Not by the interpreter's own end, which waits for threads that the program has left.
        atexit._run_exitfuncs()
        flush()
        _clear(told["directory"])
        if is_alone:  # else the parent ends what was started here
            os.killpg(0, signal.SIGKILL)
        os._exit(code)


class Worker:
    """See `jobs.Work`."""

    def __init__(self, parent: Parent, told: dict[str, Any]) -> None:
        self.name: str = told["name"]
        self.program = Program(*told["program"])
        self.is_transactional: bool = told["is_transactional"]
        self._told = told
        self._parent = parent
        self._jobs = Jobs(self, self._send, told["inputs_at_once"])
        self._given: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: there is no more
        self._mounts = Mounts(parent, told["mounts"], told["directory"])
        self._target: target.Target | None = None
        self._is_spoiled = False
        self._is_ending = False  # the parent has gone

    def run(self) -> int:
        """Returns the exit code."""
        signal.signal(signal.SIGINT, self._jobs.on_signal)
        try:
            self._begin()
        except BaseException as exc:  # noqa: BLE001 - whoever waits for the worker is told
            self._send("failed", failure(exc, self.program, self.name))
            return 1
        self._send("ready")
        while (job := self._given.get()) is not None:
            self._jobs.begin(job)
        self._jobs.wait()
        try:
            assert self._target is not None
            self._target.exit()
            if not self._is_spoiled:
                default_client().run(self.committing())
        except DaemonGone:  # so that nothing is there any more; whoever has waited for a call was told
            pass
        except Exception as exc:  # noqa: BLE001 - nobody waits for it any more
            trace = None if isinstance(exc, errors.Error) else exc
            _LOG.error("the worker of %s has not ended in good order: %s", self.name, exc, exc_info=trace)
        return 0

    def _begin(self) -> None:
        told = self._told
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self._configure(told["client"])
        _LOG.setLevel(told["log_level"])
        self._mounts.enter()
        context.ask = self._parent.ask
        self._parent.listen(self._take, self._parent_has_gone)
        try:
            self._mounts.begin()
        finally:
            self._send("made", self._mounts.made, self._mounts.claimed)
        if told["workdir"] is not None:
            os.chdir(told["workdir"])
        context.is_loading = True
        try:
            loaded = target.load(self.program, told["qualname"], told["pickled"])
        finally:
            context.is_loading = False
        for mount in self._mounts.all:
            context.mounted[mount.path] = mount_key(mount.store)
        if told["is_class"]:
            arguments = pickles.loads(told["parameters"], f"the parameters of {self.name}")
            self._target = target.Target.of_class(loaded, arguments, self._jobs.run_async)
        else:
            self._target = target.Target(loaded, self._jobs.run_async)

    def _configure(self, client: dict[str, Any]) -> None:
        """Have the default client be as that of the parent."""
        asks: bool = client.pop("asks")
        ask: Callable[[], str] = lambda: self._parent.ask("url")  # noqa: E731
        configure(**{**client, "url": ask if asks else client["url"]})

    # ----------------------------------------------------------------------------------------------------- see jobs.Work

    def callable_of(self, method: str | None) -> Callable[..., Any]:
        assert self._target is not None
        return self._target.callable_of(method)

    def committing(self) -> Op[None]:
        if not self._mounts.written:
            return
        self._send("committing", 1)  # it is not killed meanwhile, if it can be helped
        try:
            yield from self._mounts.committing()
        finally:
            self._send("committing", -1)

    def spoil(self) -> bool:
        self._is_spoiled = bool(self._mounts.written)
        return self._is_spoiled

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
            self._given.put(Job(*values))
        elif kind == "interrupt":
            self._jobs.interrupt(*values)
        elif kind == "end":
            self._given.put(None)

    def _parent_has_gone(self) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        if self._parent.is_lost:
            _LOG.error("%s has closed the descriptor by which its worker gives its results", self.name)
        self._given.put(None)
        self._jobs.interrupt_all()
        threads.start(threading.Thread(target=self._die, name="pgstore-die", daemon=True))

    def _die(self) -> None:
        """End, whatever is still going on, and with it what was started here."""
        time.sleep(GRACE_SECONDS)
        _clear(self._told["directory"])
        os.killpg(0, signal.SIGKILL)


def _clear(directory: str) -> None:
    """Remove the worker's directory, but for places where something may be mounted: the parent does, if it is there."""
    with contextlib.suppress(OSError):  # of which the parent does more
        for name in os.listdir(directory):
            if name == "tmp" or name.startswith("copy-"):
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        os.rmdir(os.path.join(directory, "root"))
        os.rmdir(directory)
