"""Who has started the worker: it gives inputs, and answers what the worker cannot do by itself."""

from __future__ import annotations

import itertools
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from pgstore import errors
from pgstore.app.channel import Channel, Closed, Lost
from pgstore.app.pickles import Outcome
from pgstore.core import threads
from pgstore.core.threads import Signal
from pgstore.mount.daemon import parent


class Parent:
    """
    The other end of *channel*, the process *pid*.

    `listen` starts a thread that hands on what comes; a worker needs to be alone before that (unshare(2)).
    """

    def __init__(self, channel: Channel, pid: int) -> None:
        self._channel = channel
        self._process = parent.watch(pid)
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[Signal, list[Outcome]]] = {}
        self.is_gone = self._is_forked = False
        self.is_lost = False
        """It is there, but the program has closed the descriptor that leads to it."""
        os.register_at_fork(after_in_child=self._forget)

    def send(self, *message: Any, descriptors: Sequence[int] = ()) -> None:
        """
        Raises:
            Closed: it has gone.
            InvalidError: this is another process than the worker.
        """
        if self._is_forked:
            raise errors.InvalidError(
                "this process was forked by a worker, which alone can have its mounts committed and give results"
            )
        try:
            self._channel.send(*message, descriptors=descriptors)
        except Lost:
            self.is_lost = True
            raise

    def ask(self, verb: str, *arguments: Any, descriptors: Sequence[int] = ()) -> Any:
        """
        What it answers.

        Raises:
            Exception: what it has failed with.
            Closed: it has gone.
        """
        number = next(self._numbers)
        answered, answers = self._asked[number] = (Signal(), [])
        try:
            if not self.is_gone:
                self.send("ask", number, verb, arguments, descriptors=descriptors)
                answered.wait()
        finally:
            del self._asked[number]
        if not answers:
            raise Closed("the program that has started this worker has ended")
        return answers[0].value()

    def _forget(self) -> None:
        """In a process that the program has forked: answers go to the worker, and its end is not to keep the connection open."""
        self._is_forked = True
        self._channel.forget()

    def listen(self, take: Callable[..., None], gone: Callable[[], None]) -> None:
        """Call *take* with each message, in a thread, and *gone* when there will be none."""
        threads.start(threading.Thread(target=self._listen, args=(take, gone), name="pgstore-parent", daemon=True))

    def _listen(self, take: Callable[..., None], gone: Callable[[], None]) -> None:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        # Children that it has forked have the socket, too: its end does not close that.
        poll.register(self._process, select.POLLIN)
        try:
            while True:
                ready = [descriptor for descriptor, _ in poll.poll()]
                if self._channel.fileno() not in ready:
                    break
                message, _ = self._channel.receive()
                if message[0] == "answer":
                    self._take_answer(*message[1:])
                else:
                    take(*message)
        except Closed as exc:
            self.is_lost = self.is_lost or isinstance(exc, Lost)
        self.is_gone = True
        for answered, _ in list(self._asked.values()):
            answered.set()
        gone()

    def _take_answer(self, number: int, answer: Outcome) -> None:
        answered, answers = self._asked.get(number, (None, []))
        if answered is not None:
            answers.append(answer)
            answered.set()


ENDED: Final = parent.Gone
"""It has ended before this process could watch it."""
